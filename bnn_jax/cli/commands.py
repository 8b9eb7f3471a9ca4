"""What can be typed after ``bnn-jax``: one dataclass a command. Nothing heavy is imported, so that help is fast."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg, subcommand

QUIET = ""  # no "(default: None)" in the help; where a default matters the text says it
Key = Annotated[str | None, arg(metavar="KEY", help_behavior_hint=QUIET)]
EnergyUnit = Literal["eV", "meV", "kcal/mol", "kJ/mol", "Hartree"]
LengthUnit = Literal["Angstrom", "Bohr", "nm"]
StressUnit = Literal["eV/Angstrom^3", "GPa", "kbar", "bar", "-eV/Angstrom^3", "-GPa", "-kbar", "-bar"]


@dataclass(frozen=True)
class LabelOptions:
    """Where a file keeps its labels, and in which units."""

    energy_key: Key = None
    """Key of the energy, where the usual ones do not find it."""
    forces_key: Key = None
    """Key of the forces."""
    stress_key: Key = None
    """Key of the stress, or of the virial if it contains that word."""
    energy_unit: Annotated[EnergyUnit | None, arg(help_behavior_hint=QUIET)] = None
    """Unit of the file's energies (eV, or what the format defines)."""
    length_unit: Annotated[LengthUnit | None, arg(help_behavior_hint=QUIET)] = None
    """Unit of the file's lengths (Angstrom, or what the format defines)."""
    stress_unit: Annotated[StressUnit | None, arg(help_behavior_hint=QUIET)] = None
    """Unit of the file's stresses (eV/Angstrom^3), with a minus in front where they are positive under compression, as
    VASP prints them: --stress-unit=-kbar."""
    allow_missing_labels: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """Accept that some structures lack labels that others have."""


Labels = Annotated[LabelOptions, arg(name="")]


@dataclass(frozen=True)
class Fit:
    """Sample the posterior of a potential, and report on it.

    DATA are files of labelled structures (extended XYZ, .npz of rMD17 and sGDML, or any format of ASE), FILE@INDEX such
    as md.xyz@:100, or a name of `bnn-jax data list`. The run folder gets the posterior, a log, checkpoints, diagnostics
    and plots.
    """

    data: Annotated[Positional[tuple[str, ...]], arg(metavar="DATA...", help_behavior_hint=QUIET)]
    """Training structures with energies, forces or both."""
    out: Annotated[str, arg(metavar="RUN")]
    """Run folder to make, or to continue with --resume."""
    preset: Annotated[Literal["tiny", "quick", "small", "paper"] | None, arg(help_behavior_hint=QUIET)] = None
    """Named configuration (small unless --config is given)."""
    config: Annotated[str | None, arg(metavar="FILE.yaml", help_behavior_hint=QUIET)] = None
    """Configuration file, in place of a preset."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE", help_behavior_hint=QUIET)] = ()
    """Override a value of the configuration, such as sampler.batch_size=5; may be repeated."""
    method: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=QUIET)] = None
    """Uncertainty method, short for --set method=NAME: sghmc (if not given), ensemble, shallow, dropout, ivon,
    mean_variance, evidential, mixture or laplace."""
    chains: Annotated[int | None, arg(metavar="C", help_behavior_hint=QUIET)] = None
    """Number of chains, short for --set sampler.num_chains=C; with --resume more of them extend the run."""
    samples: Annotated[int | None, arg(metavar="K", help_behavior_hint=QUIET)] = None
    """Samples of each chain, short for --set sampler.num_samples=K; with --resume more of them extend the run."""
    valid: Annotated[str | None, arg(metavar="FRACTION|COUNT|PATH", help_behavior_hint=QUIET)] = None
    """Validation set: a part of DATA (0 for none), or a file; a tenth of DATA if not given."""
    test: Annotated[str | None, arg(metavar="PATH|COUNT", help_behavior_hint=QUIET)] = None
    """Test set for metrics.json: a file or known name, or that many structures of DATA."""
    minutes: Annotated[float | None, arg(metavar="M", help_behavior_hint=QUIET)] = None
    """Time that the run may take: a new one plans its schedule from the measured time of a step."""
    until: Annotated[Literal["trusted"] | None, arg(help_behavior_hint=QUIET)] = None
    """Extend the run by samples or chains until its error bars can be trusted, or the minutes are over."""
    seed: Annotated[int | None, arg(metavar="S", help_behavior_hint=QUIET)] = None
    """Seed of the split and of all that is random in the run; 0 if not given."""
    resume: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """Continue the run in RUN with the configuration stored there, as if it had not stopped; with more --samples or
    --chains also one that has finished, as if it had been planned so."""
    on_divergence: Annotated[Literal["stop", "halve-step"], arg(help_behavior_hint=QUIET)] = "stop"
    """What to do with a chain that diverges: leave it out (stop), or repeat with half its step size (halve-step)."""
    devices_per_chain: Annotated[int, arg(metavar="D", help_behavior_hint=QUIET)] = 1
    """Devices that share the minibatches of each chain, where there are more devices than chains."""
    distributed: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """This is one of several processes, started by srun or mpirun, that share the chains of one run."""
    labels: Labels = field(default_factory=LabelOptions)


@dataclass(frozen=True)
class Evaluate:
    """Errors, likelihoods and calibration of a finished run on labelled structures."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """Run folder, or a posterior file."""
    test: Annotated[Positional[str], arg(metavar="TEST")]
    """Labelled structures: a file or a known name."""
    json: Annotated[str | None, arg(metavar="FILE", help_behavior_hint=QUIET)] = None
    """Write the figures to this file too."""
    plots: Annotated[str | None, arg(metavar="DIR", help_behavior_hint=QUIET)] = None
    """Write plots into this folder."""
    families: Annotated[str | None, arg(metavar="KEY", help_behavior_hint=QUIET)] = None
    """Also one row for each family of structures, named by this entry of a frame's comment, such as config_type."""
    labels: Labels = field(default_factory=LabelOptions)


@dataclass(frozen=True)
class Predict:
    """Energies and forces of structures with their standard deviations, as extended XYZ.

    Each frame of OUT has the mean energy, forces and, if periodic, stress, and beside them energy_std, forces_std and
    their aleatoric and epistemic parts; labels and other data of IN are left out.
    """

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """Run folder, a posterior file, or what `bnn-jax export` wrote."""
    structures: Annotated[Positional[str], arg(metavar="IN")]
    """Structures: a file or a known name."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Extended XYZ file to write."""
    overwrite: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """Replace OUT if it exists."""


@dataclass(frozen=True)
class Calibrate:
    """Correct the error bars of a finished run on structures that it was not trained on.

    OUT is a posterior file with the correction in it, for every command that takes a RUN.
    """

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """Run folder, or a posterior file."""
    valid: Annotated[Positional[str], arg(metavar="VALID")]
    """Labelled structures: a file or a known name."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Posterior file to write."""
    method: Annotated[str, arg(metavar="NAME")] = "affine"
    """Recalibration: variance (one factor), affine (a variance a U + b), isotonic, or conformal (intervals)."""
    coverage: Annotated[float | None, arg(metavar="FRACTION", help_behavior_hint=QUIET)] = None
    """Coverage of the intervals of conformal, such as 0.9."""
    per_element: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """Correct the forces of each element by themselves."""
    overwrite: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """Replace OUT if it exists."""
    labels: Labels = field(default_factory=LabelOptions)


@dataclass(frozen=True)
class Rigidity:
    """How firmly the training set of a run holds its predictions in place, with no label needed.

    OUT gets each structure with `rigidity` (global), `local_rigidity` of each atom (local) or `rigidity_X` of the
    energies of each element X (component); by local also a picture of the least rigid structure beside it.
    """

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """Run folder, or a posterior file with --train."""
    structures: Annotated[Positional[str], arg(metavar="STRUCTURES")]
    """What to judge: a file or a known name."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Extended XYZ file to write; the picture has its name with .png."""
    kind: Literal["global", "local", "component"] = "local"
    """Of total energies, of atoms' energies, or of each element's part of the energy."""
    forces: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """Rigidities of force components too."""
    form: Literal["last-layer", "dense", "kernel", "matrix-free", "sketched"] = "last-layer"
    """Hessian of the energy readout alone, or of all weights in one of four forms."""
    zeta: Annotated[float, arg(metavar="Z")] = 1e-3
    """Regulariser, in units of the root of the mean diagonal element of the Hessian."""
    energy_weight: Annotated[float, arg(metavar="W")] = 1.0
    """Weight of square energy errors in the loss, in 1/eV^2."""
    forces_weight: Annotated[float, arg(metavar="W")] = 1.0
    """Weight of square errors of force components, in 1/(eV/Angstrom)^2."""
    sample: Annotated[int, arg(metavar="K")] = 0
    """Number of the posterior sample."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Of what matrix-free and sketched draw."""
    train: Annotated[str | None, arg(metavar="PATH", help_behavior_hint=QUIET)] = None
    """Training set, if not as the run's record says."""
    chemiscope: Annotated[str | None, arg(metavar="FILE", help_behavior_hint=QUIET)] = None
    """Also a .json or .json.gz file for the viewer at chemiscope.org, with the extra of that name."""
    overwrite: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """Replace OUT, the picture and the viewer's file if they exist."""


@dataclass(frozen=True)
class Export:
    """Write a finished run's predictor to one file that needs neither the run nor the code of its network.

    The file holds the compiled program in a portable form (for CPU, CUDA and TPU, any number of atoms) and the samples.
    """

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """Run folder, or a posterior file."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """File to write."""
    overwrite: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """Replace OUT if it exists."""


@dataclass(frozen=True)
class Md:
    """Molecular dynamics of replicas with the posterior's forces, and error bars along the way.

    START is one structure or several of the same atoms, which the replicas start from in turn. The folder gets a file
    of extended XYZ for each replica, with energies, forces and their stds, a picture, and checkpoints: --resume goes
    on after a kill. A replica ends before its time where it leaves one of the bounds.
    """

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """Run folder, a posterior file, or what `bnn-jax export` wrote."""
    start: Annotated[Positional[str], arg(metavar="START")]
    """Structures: a file, FILE@INDEX or a known name."""
    ps: Annotated[float, arg(metavar="PS")]
    """Length of every replica in picoseconds."""
    out: Annotated[str, arg(metavar="DIR")] = "bnn-jax-md"
    """Folder to make, or to continue with --resume."""
    ensemble: Literal["langevin", "nose-hoover", "nve", "npt"] = "langevin"
    """Constant temperature by noise or by a chain of thermostats, constant energy, or constant pressure."""
    kelvin: Annotated[float, arg(metavar="K")] = 300.0
    """Temperature; of nve that of the first velocities."""
    replicas: Annotated[int, arg(metavar="N")] = 1
    """Number of replicas that move side by side."""
    forces: Literal["mean", "each"] = "mean"
    """What moves the atoms: the mean force over samples, or in replica k that of sample k."""
    timestep_fs: Annotated[float, arg(metavar="FS")] = 0.5
    """Time step in femtoseconds."""
    stride: Annotated[int, arg(metavar="STEPS")] = 20
    """Steps between frames, at which stds are predicted and bounds are checked."""
    friction_per_ps: Annotated[float, arg(metavar="RATE")] = 10.0
    """Of langevin, in 1/ps."""
    thermostat_fs: Annotated[float, arg(metavar="FS")] = 50.0
    """Period of the chain of nose-hoover and npt."""
    pressure_gpa: Annotated[float, arg(metavar="GPA")] = 0.0
    """Of npt."""
    barostat_fs: Annotated[float, arg(metavar="FS")] = 500.0
    """Period of the barostat of npt."""
    max_std: Annotated[float | None, arg(metavar="EV/A", help_behavior_hint=QUIET)] = None
    """Bound: largest std of a force component, in eV/Angstrom."""
    closest: Annotated[float | None, arg(metavar="A", help_behavior_hint=QUIET)] = None
    """Bound: smallest distance between two atoms, in Angstrom."""
    max_stretch: Annotated[float | None, arg(metavar="FACTOR", help_behavior_hint=QUIET)] = None
    """Bound: largest length of a bond of START, in units of its length there."""
    max_kelvin: Annotated[float | None, arg(metavar="K", help_behavior_hint=QUIET)] = None
    """Bound: largest kinetic temperature of a frame."""
    within_validated: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """Bound: no atom may go where no label could check the error bars."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Of velocities and noise."""
    resume: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """Go on with the simulation in DIR, given the same options, as if it had not stopped."""


@dataclass(frozen=True)
class Neb:
    """The lowest path from one minimum to another, and its barrier with an error bar.

    A climbing nudged elastic band with the mean force; all samples are evaluated along it. OUT gets the images with
    energies, forces and their stds; a picture with the band goes beside it.
    """

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """Run folder, a posterior file, or what `bnn-jax export` wrote."""
    start: Annotated[Positional[str], arg(metavar="A")]
    """One end: a file with one structure, or FILE@INDEX; it is relaxed first."""
    end: Annotated[Positional[str], arg(metavar="B")]
    """The other end, of the same atoms in the same order."""
    out: Annotated[str, arg(metavar="OUT")] = "neb.xyz"
    """Extended XYZ file to write; the picture has its name with .png."""
    images: Annotated[int, arg(metavar="N")] = 7
    """Images between the ends."""
    max_force: Annotated[float, arg(metavar="EV/A")] = 0.02
    """Force across the path that may be left, in eV/Angstrom."""
    each: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """A path of its own, with relaxed ends, for every sample."""
    overwrite: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """Replace OUT and the picture if they exist."""


@dataclass(frozen=True)
class Label:
    """Energies and forces of structures by quantum chemistry, or by any calculator of ASE.

    OUT gets the structures with their labels as extended XYZ. Each label is kept in a folder as soon as it is there:
    the same command goes on after a kill, and nothing is computed twice. What the oracle cannot label (a field that
    does not converge, a process that ends) is kept aside in that folder and named.
    """

    structures: Annotated[Positional[str], arg(metavar="IN")]
    """Structures: a file, FILE@INDEX or a known name; their labels are left alone."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Extended XYZ file to write."""
    oracle: Annotated[str, arg(metavar="NAME", help_behavior_hint=QUIET)]
    """Level of theory: pyscf:METHOD/BASIS such as pyscf:bp86-d3zero/def2-svp, tblite:GFN2-xTB, or
    ase:module.Calculator; options follow as ?charge=1&spin=1."""
    store: Annotated[str, arg(metavar="DIR")] = "bnn-jax-labels"
    """Folder of labels, to make or to go on with."""
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint=QUIET)] = None
    """Processes that label side by side; one for each core if not given."""
    seconds: Annotated[float | None, arg(metavar="S", help_behavior_hint=QUIET)] = None
    """Time that one label may take; any if not given."""
    retries: Annotated[int, arg(metavar="N")] = 2
    """How often a structure is tried again whose process ended."""
    retry_failed: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """Try again what was kept aside."""
    overwrite: Annotated[bool, arg(help_behavior_hint=QUIET)] = False
    """Replace OUT if it exists."""


@dataclass(frozen=True)
class Compare:
    """Fit every uncertainty method on the same data with the same budget, and show which to trust.

    The folder gets comparison.html and comparison.csv. What it holds already is not done again, so that the same
    command goes on after a kill.
    """

    data: Annotated[Positional[tuple[str, ...]], arg(metavar="DATA...", help_behavior_hint=QUIET)]
    """Training structures with energies and forces: a file or a known name."""
    out: Annotated[str, arg(metavar="DIR")]
    """Folder of the comparison, to make or to go on with."""
    methods: Annotated[tuple[str, ...], arg(metavar="NAME", help_behavior_hint=QUIET)] = ("all",)
    """Methods, of sghmc, ensemble, shallow, dropout, ivon, mean_variance, evidential, mixture and laplace; all if not
    given."""
    preset: Annotated[Literal["tiny", "quick", "small", "paper"] | None, arg(help_behavior_hint=QUIET)] = None
    """Named configuration (small unless --config is given); its sampler sets the budget of every method."""
    config: Annotated[str | None, arg(metavar="FILE.yaml", help_behavior_hint=QUIET)] = None
    """Configuration file, in place of a preset."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE", help_behavior_hint=QUIET)] = ()
    """Override a value of the configuration; may be repeated."""
    seeds: Annotated[int, arg(metavar="N")] = 1
    """Fits of each method, with the seeds 0 to N - 1."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Seed of the split of DATA, the same for all fits."""
    valid: Annotated[str | None, arg(metavar="FRACTION|COUNT|PATH", help_behavior_hint=QUIET)] = None
    """Validation set, for early stopping and calibration: a part of DATA, or a file; a tenth of DATA if not given."""
    in_domain: Annotated[str | None, arg(metavar="FRACTION|COUNT|PATH", help_behavior_hint=QUIET)] = None
    """Test set in domain: a part of DATA, or a file; a tenth of DATA if not given."""
    test: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=PATH", help_behavior_hint=QUIET)] = ()
    """A further test set, such as 600K=hot.xyz; may be repeated."""
    labels: Labels = field(default_factory=LabelOptions)


@dataclass(frozen=True)
class Demo:
    """Fit the ammonia data that come with the package, in a few minutes, and show what the error bars know.

    A folder with an earlier demo is continued or finished.
    """

    out: Annotated[str, arg(metavar="DIR")] = "bnn-jax-demo"
    """Run folder."""
    seed: Annotated[int | None, arg(metavar="S", help_behavior_hint=QUIET)] = None
    """Seed of the run; 0 if not given."""


@dataclass(frozen=True)
class DataList:
    """List the data sets that have a name."""


@dataclass(frozen=True)
class DataShow:
    """Show where a data set comes from, whom to cite, and how it is checked."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """As `bnn-jax data list` prints it."""


@dataclass(frozen=True)
class DataFetch:
    """Download a data set and check it."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """As `bnn-jax data list` prints it."""


@dataclass(frozen=True)
class Data:
    """List, show and fetch data sets."""

    action: (
        Annotated[DataList, subcommand("list")]
        | Annotated[DataShow, subcommand("show")]
        | Annotated[DataFetch, subcommand("fetch")]
    )


Command = (
    Annotated[Fit, subcommand("fit")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Predict, subcommand("predict")]
    | Annotated[Calibrate, subcommand("calibrate")]
    | Annotated[Rigidity, subcommand("rigidity")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Md, subcommand("md")]
    | Annotated[Neb, subcommand("neb")]
    | Annotated[Label, subcommand("label")]
    | Annotated[Compare, subcommand("compare")]
    | Annotated[Demo, subcommand("demo")]
    | Annotated[Data, subcommand("data")]
)
