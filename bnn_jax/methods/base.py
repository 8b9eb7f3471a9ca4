"""What every method returns: a posterior that predicts, and that one file holds."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt64

from bnn_jax import compose
from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.graph import gather_batch, pack
from bnn_jax.atoms.sources import Structures, load
from bnn_jax.atoms.statistics import Statistics
from bnn_jax.calibration import Calibration, calibrate
from bnn_jax.checkpoint import DamagedFileError, load_tree, read_metadata, save_tree
from bnn_jax.config import Config, ModelConfig
from bnn_jax.export import PLATFORMS, export, is_exported, load_exported
from bnn_jax.methods.registry import get
from bnn_jax.predict import Predictor, described, every_sample
from bnn_jax.rigidity import Network
from bnn_jax.types import AtomGraph, InputError, Params, PickledByFields, Potential, Prediction, Predictive, Verdict
from bnn_jax.validated import ValidatedRange

POSTERIOR_FILE = "posterior.safetensors"
FORMAT_VERSION = "3"


def num_shared(dataset: Dataset, hashes: UInt64[np.ndarray, " structure"] | None) -> int:
    """How many structures are among those of the hashes; none where they are not known."""
    return 0 if hashes is None else int(np.isin(dataset.hashes(), hashes).sum())


def fill_model_config(config: ModelConfig, statistics: Statistics) -> ModelConfig:
    """The model's configuration with what it must know of the training set."""
    return replace(
        config,
        species=statistics.species,
        avg_num_neighbors=float(statistics.avg_num_neighbors),
        scale=float(statistics.forces_rms),
    )


def example_graph(config: ModelConfig) -> AtomGraph:
    """A graph of one atom of each species, from which parameters take their shapes."""
    atoms = Dataset.from_atoms([ase.Atoms(numbers=[number]) for number in config.species])
    packed = pack(atoms, config.cutoff, config.species, np.zeros(len(config.species)))
    return gather_batch(packed, np.arange(len(config.species)), len(config.species) + 1, 2).graph


@lru_cache(maxsize=32)
def shared_potential(potential_fn: Callable[[Config], Potential], config: Config) -> Potential:
    """A method's potential: one and the same for all posteriors of a configuration, so that they share compilations.

    Args:
        potential_fn: the method's ``potential``.
        config: with the model's data-dependent fields filled in.
    """
    return potential_fn(config)


@dataclass(frozen=True)
class SamplesOfMethod:
    """:func:`bnn_jax.predict.every_sample` of a method's potential; unlike its closure it can be pickled."""

    potential_fn: Callable[[Config], Potential]
    """The method's ``potential``."""
    config: Config
    """With the model's data-dependent fields filled in."""

    @classmethod
    def of(cls, config: Config) -> Self:
        """Those of the method that the configuration names.

        Raises:
            InputError: there is no such method here.
        """
        return cls(get(config.method).potential, config)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of, (self.config,)  # a method is found again by its name

    def __call__(self, samples: Params, graph: AtomGraph, at_once: int | None = None) -> Prediction:
        return every_sample(shared_potential(self.potential_fn, self.config).apply)(samples, graph, at_once)


class SamplingRecord(NamedTuple):
    """How the chains that gave the samples came through; of each chain, those that were stopped left out."""

    temperature: float
    """The sampler's, that of the target."""
    kinetic_temperature: tuple[float, ...]
    """Mean over the steps after the first sample; NaN where there is one sample only."""
    num_halvings: tuple[int, ...]
    """How often a divergence halved the step size."""
    stopped: tuple[tuple[int, int, str], ...]
    """Number, step and cause of each chain that diverged and was stopped."""


@dataclass(frozen=True, repr=False)
class Posterior(PickledByFields):
    """Samples of the weights and all that is needed to predict with them."""

    config: Config
    """As the run had it, with the model's data-dependent fields filled in."""
    statistics: Statistics
    samples: Params
    """Parameters with a leading sample axis: the samples of the first chain, then those of the next."""
    num_chains: int
    """Chains that the samples come from; of a method that samples none, one."""
    seed: int
    sampling: SamplingRecord | None = None
    """None for samples that no chain gave."""
    verdict: Verdict | None = None
    """Whether the samples can be trusted, as judged when the run ended; None where nobody has judged."""
    train_hashes: UInt64[np.ndarray, " structure"] | None = None
    """Of the training structures (:meth:`bnn_jax.Dataset.hashes`), to tell when they are met again in a test set."""
    calibration: Calibration | None = None
    """Corrects the error bars of predictions; from :meth:`calibrated`."""
    validated: ValidatedRange | None = None
    """Beyond which no label could check the error bars; None where there was no validation set."""

    @cached_property
    def potential(self) -> Potential:
        """The potential whose parameters the samples are."""
        return shared_potential(get(self.config.method).potential, self.config)

    @cached_property
    def predictor(self) -> Predictor:
        """What predictions need of it, compiled once for each shape."""
        return Predictor(
            SamplesOfMethod.of(self.config),
            self.samples,
            self.statistics,
            self.config.model.cutoff,
            self.verdict,
            self.calibration,
            self.validated,
        )

    def __repr__(self) -> str:
        chains = f" of {self.num_chains} chains" if self.is_sampled else ""
        rest = described(self.samples, self.statistics, self.verdict)
        return f"<Posterior: {self.config.method}{chains}, seed {self.seed}; {rest}>"

    def network(self, sample: int = 0) -> Network:
        """The network of one sample, for :mod:`bnn_jax.rigidity`.

        Args:
            sample: its number.
        """
        params = jax.tree.map(lambda leaf: leaf[sample], self.samples)
        return Network(self.potential.apply, params, self.statistics, self.config.model.cutoff)

    @property
    def is_sampled(self) -> bool:
        """Whether its samples come from chains, which can agree or not."""
        return self.sampling is not None

    @property
    def num_samples(self) -> int:
        """Samples of all chains together."""
        return int(jax.tree.leaves(self.samples)[0].shape[0])

    def predict(self, structures: Structures) -> Predictive:
        """The posterior predictive of structures; see :class:`bnn_jax.types.Predictive` for units and shapes.

        Args:
            structures: one or many, as :func:`bnn_jax.load` takes them; their labels are left alone.

        Raises:
            InputError: there is no structure, or one holds an element that was not in training.
        """
        return self.predictor.predict(structures)

    def energy_fn(self, structure: Structures, samples: compose.Which = "mean") -> compose.SystemFn:
        """``fn(positions, cell=None, edges=None)``: energy above the atomic shifts (:func:`bnn_jax.compose.energy_fn`).

        Args:
            structure: one, as :func:`bnn_jax.load` takes it.
            samples: ``mean``, ``all`` or the number of one.
        """
        return compose.energy_fn(self.predictor, structure, samples)

    def forces_fn(self, structure: Structures, samples: compose.Which = "mean") -> compose.SystemFn:
        """``fn(positions, cell=None, edges=None)``: forces in eV/Angstrom (:func:`bnn_jax.compose.forces_fn`).

        Args:
            structure: one, as :func:`bnn_jax.load` takes it.
            samples: ``mean``, ``all`` or the number of one.
        """
        return compose.forces_fn(self.predictor, structure, samples)

    def predict_fn(self, structure: Structures) -> compose.SystemFn:
        """``fn(positions, cell=None, edges=None)``: means and stds (:func:`bnn_jax.compose.predict_fn`).

        Args:
            structure: one, as :func:`bnn_jax.load` takes it.
        """
        return compose.predict_fn(self.predictor, structure)

    def neighbor_fn(self, structure: Structures, skin: float = 0.5) -> compose.Search:
        """Neighbours that such functions take as ``edges`` (:func:`bnn_jax.compose.neighbor_fn`).

        Args:
            structure: one, as :func:`bnn_jax.load` takes it.
            skin: so much further than the cutoff pairs are kept, in Angstrom.
        """
        return compose.neighbor_fn(self.predictor, structure, skin)

    def draws(self, structures: Structures) -> dict[str, Float[np.ndarray, "chain draw ..."]]:
        """Predictions of every sample by name and chain, as ArviZ takes them (``arviz.from_dict``).

        Args:
            structures: one or many, as :func:`bnn_jax.load` takes them.

        Returns:
            ``energy`` [chain, draw, structure] in eV and ``forces`` [chain, draw, atom, 3] in eV/Angstrom.
        """
        predictive = self.predict(structures)
        samples = {"energy": predictive.energy_samples, "forces": predictive.forces_samples}
        return {name: values.reshape(self.num_chains, -1, *values.shape[1:]) for name, values in samples.items()}

    def calibrated(
        self,
        valid: Structures,
        method: str = "affine",
        *,
        per_element: bool = False,
        coverage: float | None = None,
    ) -> Self:
        """This posterior with error bars that are corrected on structures it was not trained on.

        Predictions, the calculator and the exported file then have recalibrated ``energy_std`` and ``forces_std``, or,
        by ``conformal``, ``energy_half_width`` and ``forces_half_width`` beside the old ones. An earlier calibration
        is replaced. Test it on further structures: :func:`bnn_jax.evaluate` refuses those it was calibrated on.

        Args:
            valid: labelled structures, as :func:`bnn_jax.load` takes them.
            method: ``variance``, ``affine``, ``isotonic`` or ``conformal``
                (:func:`bnn_jax.recalibration.fit_recalibration` says what each of them is).
            per_element: one curve of the forces for each element.
            coverage: of the intervals of ``conformal``, such as 0.9.

        Raises:
            InputError: a structure was trained on, the validation set has no labels or is too small for the method or
                the coverage, or the method does not fit what the posterior offers.
        """
        valid = load(valid)
        if count := num_shared(valid, self.train_hashes):
            raise InputError(
                f"{count} of {len(valid)} structures to calibrate on were in the training set, where errors are too"
                " small; give others."
            )
        raw = replace(self, calibration=None)
        return replace(self, calibration=calibrate(raw.predict(valid), valid, method, per_element, coverage))

    def export(self, path: str | Path, platforms: Sequence[str] = PLATFORMS) -> Path:
        """Write the predictor with its program to one file, for :func:`bnn_jax.load_exported` or plain JAX.

        Unlike that of :meth:`save`, the file can be used without this package's model code.

        Args:
            path: of the file.
            platforms: that the program is lowered for, of ``cpu``, ``cuda`` and ``tpu``.

        Returns:
            The path.

        Raises:
            InputError: it cannot be written, or a platform is unknown.
        """
        return export(self.potential.apply, self.predictor, path, platforms)

    def save(self, path: str | Path) -> Path:
        """Write one self-describing file (``posterior.safetensors`` if ``path`` is a folder); the path is returned.

        Raises:
            InputError: it cannot be written.
        """
        path = Path(path)
        path = path / POSTERIOR_FILE if path.is_dir() else path
        metadata = {
            "format": FORMAT_VERSION,
            "config": self.config.to_yaml(),
            "statistics": self.statistics.to_json(),
            "num_chains": str(self.num_chains),
            "num_samples": str(self.num_samples),
            "seed": str(self.seed),
            "sampling": json.dumps(None if self.sampling is None else self.sampling._asdict()),
            "verdict": json.dumps(None if self.verdict is None else self.verdict.to_dict()),
        }
        if self.calibration is not None:
            metadata["calibration"] = self.calibration.to_json()
        if self.validated is not None:
            metadata["validated"] = self.validated.to_json()
        hashes = np.zeros(0, np.uint64) if self.train_hashes is None else self.train_hashes
        save_tree(path, {"samples": self.samples, "train_hashes": hashes}, metadata | {"num_train": str(len(hashes))})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote, from the file or the run folder that holds it.

        Raises:
            InputError: there is no such file (a run that was stopped has none yet), or it is damaged.
        """
        path = Path(path)
        file = path / POSTERIOR_FILE if path.is_dir() else path
        if path.is_dir() and not file.exists():
            raise InputError(f"{path} holds no {POSTERIOR_FILE}: its run has not finished; continue it with --resume.")
        metadata = read_metadata(file)
        if metadata.get("format") != FORMAT_VERSION:
            raise InputError(
                f"{file} has posterior format {metadata.get('format')!r:.20}, not {FORMAT_VERSION}; use the version"
                " that wrote it."
            )
        try:
            fields = _fields(metadata, file)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise DamagedFileError(
                f"{file} has no sound description ({error!r:.200}); restore it from a copy."
            ) from error
        config, num_samples, num_train = fields["config"], int(metadata["num_samples"]), int(metadata["num_train"])
        init = get(config.method).potential(config).init
        shapes = jax.eval_shape(init, jax.random.key(0), example_graph(config.model))
        like = {
            "samples": jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((num_samples, *leaf.shape), leaf.dtype), shapes),
            "train_hashes": np.broadcast_to(np.uint64(0), num_train),  # takes no memory, whatever the number
        }
        tree = load_tree(file, like)
        hashes = tree["train_hashes"] if num_train else None
        return cls(samples=jax.tree.map(jnp.asarray, tree["samples"]), train_hashes=hashes, **fields)


def _fields(metadata: Mapping[str, str], file: Path) -> dict[str, Any]:
    """What the texts of a posterior file say, converted and checked."""
    config = Config.from_yaml_text(metadata["config"], source=str(file))
    statistics = Statistics.from_json(metadata["statistics"])
    num_samples, num_chains = int(metadata["num_samples"]), int(metadata["num_chains"])
    if statistics.species != config.model.species:
        raise ValueError("species and shifts do not fit the configuration")
    if num_chains < 1 or num_samples < 1 or num_samples % num_chains or not 0 <= int(metadata["num_train"]) < 2**40:
        raise ValueError(f"{num_samples} samples of {num_chains} chains")
    if not max(num_samples, num_chains, abs(int(metadata["seed"]))) < 2**40:
        raise ValueError("a number is too large")
    sampling, verdict = (json.loads(metadata[name]) for name in ("sampling", "verdict"))
    if sampling is not None:
        sampling = SamplingRecord(
            float(sampling["temperature"]),
            tuple(float(value) for value in sampling["kinetic_temperature"]),
            tuple(int(value) for value in sampling["num_halvings"]),
            tuple((int(chain), int(step), str(cause)) for chain, step, cause in sampling["stopped"]),
        )
    if verdict is not None:
        verdict = Verdict.from_dict(verdict)
    return {
        "config": config,
        "statistics": statistics,
        "num_chains": num_chains,
        "seed": int(metadata["seed"]),
        "sampling": sampling,
        "verdict": verdict,
        "calibration": Calibration.from_json(metadata["calibration"]) if "calibration" in metadata else None,
        "validated": ValidatedRange.from_json(metadata["validated"]) if "validated" in metadata else None,
    }


def load_predictor(path: str | Path) -> Predictor:
    """What predicts, of a run folder, a posterior file or an exported file.

    Args:
        path: of it.

    Raises:
        InputError: it is none of them, or is damaged.
    """
    return load_exported(path) if is_exported(path) else Posterior.load(path).predictor
