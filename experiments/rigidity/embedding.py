"""Which small structure to label in place of a large one with an unsure environment, after figure 5 of Chong et al.

From the repository's root::

    python experiments/rigidity/embedding.py --data FOLDER

A killed run continues when it is started again; what is finished is not computed twice.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ase
import ase.io
import least_squares
import numpy as np
from ase.build import bulk
from embedding_report import figures, tables
from jaxtyping import Bool, Float
from liquid import Stage, coordination, diamond, dynamics, neighbours, radial_distribution
from pieces import data_folder, environment, finished, read_frames, read_results, run_command
from power_spectrum import Basis, atom_features
from tqdm import tqdm

import bnn_jax
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.report import to_json
from bnn_jax.rigidity import (
    Embedding,
    Hessian,
    Network,
    SquareLoss,
    carve_cluster,
    dense_hessian,
    displace_buffer,
    embed_in_crystal,
    embed_periodic,
    enhancement,
    fit_rigidity,
    jacobians,
    last_layer,
    outputs,
    prediction_rigidity,
)

FOLDER = "carbon_gap17"
FILES = tuple(
    f"{FOLDER}/{name}.xyz.gz"
    for name in ("train_bulk_cryst", "train_bulk_amo_20", "train_dimers", "test_high_T_md", "test_random_spheres")
)
NUM_VALID = 20
"""Of the structures that the network is trained on, drawn for validation."""
CUTOFF = 3.7
"""Of the linear model and of a message of the network, in Angstrom, as in the paper."""
RADIUS = 3.75
"""Of the extracted environment, in Angstrom, as in the paper."""
ZETA_SQUARED = {"linear": 1e-6, "network": 1e-6}
"""Regularisers over the mean diagonal element of the Hessian."""
NETWORK = {
    "method": least_squares.NAME,
    "model": {"cutoff": CUTOFF, "num_blocks": 2, "num_features": 8, "l_max": 1, "radial_hidden": [16]},
    "trainer": {
        "batch_size": 2,
        "learning_rate": 1e-2,
        "energy_weight": 0.01,  # 1/eV^2
        "forces_weight": 1.0,  # 1/(eV/Angstrom)^2
        "log_every": 250,
    },
}
"""The preset ``tiny`` with the paper's cutoff, trained on half the weighted square errors."""
DENSITY = 2.5
"""Of the liquid, in g/cm^3."""
TEMPERATURE = 5500.0
"""In K."""
MELTING = 9000.0
"""In K."""
LATTICE_CONSTANT = 3.567
"""Of diamond, in Angstrom."""
STRATEGIES = ("original", "cluster", "periodic", "crystal")
COUNTS = (1, 2, 3, 5, 10, 20, 30, 50, 100)
"""Of added structures."""


class Model(NamedTuple):
    """What is asked of a model that is linear in its weights; the derivatives of energies are its features."""

    hessian: Hessian
    atoms_fn: Callable[[ase.Atoms], Float[np.ndarray, "atom feature"]]
    """Derivatives of the atoms' energies."""
    rows_fn: Callable[[list[ase.Atoms]], Float[np.ndarray, "structure feature"]]
    """Weighted derivatives of the energies per atom."""


def linear_model(frames: Sequence[ase.Atoms], basis: Basis, zeta_squared: float) -> Model:
    """Linear in the SOAP power spectrum, with energies per atom as labels of weight one."""
    species = sorted({int(number) for frame in frames for number in frame.numbers})

    def rows_fn(structures: Sequence[ase.Atoms]) -> np.ndarray:
        return atom_features(structures, basis, species).means()

    rows = rows_fn(frames)
    zeta = np.sqrt(zeta_squared * np.sum(rows**2) / rows.shape[1])
    return Model(dense_hessian([rows], zeta), lambda atoms: atom_features([atoms], basis, species).values, rows_fn)


def last_layer_model(network: Network, train: bnn_jax.Dataset, loss: SquareLoss, zeta_squared: float) -> Model:
    """Linear in the last layer of a network; structures that are added have labelled energies alone."""
    fitted = fit_rigidity(network, train, loss, np.sqrt(zeta_squared), zeta_is_relative=True)
    weights = last_layer(network)

    def rows_of(structures: list[ase.Atoms], name: str) -> list[np.ndarray]:
        dataset = bnn_jax.Dataset.from_atoms([_bare(atoms) for atoms in structures])
        return [each.rows[name] for each in jacobians(network, weights, dataset, outputs(network, (name,)))]

    def rows_fn(structures: list[ase.Atoms]) -> np.ndarray:
        scale = np.sqrt(loss.energy) / (np.array([len(atoms) for atoms in structures]) if loss.per_atom else 1.0)
        rows = np.concatenate(rows_of(structures, "energy")).astype(np.float64)
        return rows * np.broadcast_to(scale, len(rows))[:, None]

    return Model(fitted.hessian, lambda atoms: rows_of([atoms], "atom_energies")[0].astype(np.float64), rows_fn)


def _bare(atoms: ase.Atoms) -> ase.Atoms:
    return ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def least_rigid(atoms: ase.Atoms, rigidities: Float[np.ndarray, " atom"], apart: float) -> Iterator[int]:
    """Atoms by rigidity, lowest first, but none within ``apart`` (Angstrom) of one before it."""
    is_free = np.ones(len(atoms), bool)
    for index in map(int, np.argsort(rigidities, kind="stable")):
        if is_free[index]:
            yield index
            is_free &= atoms.get_distances(index, np.arange(len(atoms)), mic=True) > apart


def small_structures(atoms: ase.Atoms, index: int, radius: float) -> dict[str, Embedding]:
    """An environment by each strategy, buffers not displaced yet."""
    crystal = bulk("C", "diamond", a=LATTICE_CONSTANT, cubic=True)
    return {
        "cluster": carve_cluster(atoms, index, radius),
        "periodic": embed_periodic(atoms, index, radius),
        "crystal": embed_in_crystal(atoms, index, radius, crystal),
    }


def added_rows(
    model: Model, original: Float[np.ndarray, "1 feature"], found: dict[str, Embedding], number: int, seed: int
) -> dict[str, Float[np.ndarray, "row feature"]]:
    """Rows of the structures that each strategy adds, in order.

    The original structure and the cluster have no buffer and are added repeatedly; diamond comes with the first of
    those that are embedded in it.
    """
    rows = {"original": np.repeat(original, number, axis=0)}
    rows["cluster"] = np.repeat(model.rows_fn([found["cluster"].atoms]), number, axis=0)
    for name in ("periodic", "crystal"):
        structures = [displace_buffer(found[name], seed * number + i).atoms for i in range(number)]
        rows[name] = model.rows_fn(structures)
    diamond_row = model.rows_fn([bulk("C", "diamond", a=LATTICE_CONSTANT, cubic=True)])
    rows["crystal"] = np.concatenate([diamond_row, rows["crystal"]])
    return rows


def enhancements(
    hessian: Hessian,
    g: Float[np.ndarray, " feature"],
    rows: dict[str, Float[np.ndarray, "row feature"]],
    counts: Sequence[int],
) -> dict[str, list[float]]:
    """Relative change of the rigidity of one atom's energy by the first structures of each strategy."""
    found = {}
    for name, each in rows.items():
        extra = int(name == "crystal")  # diamond itself
        found[name] = [float(enhancement(hessian, g[None], each[: count + extra])[0]) for count in counts]
    return found


def of_environment(
    model: Model,
    found: dict[str, Embedding],
    g: Float[np.ndarray, " feature"],
    original: Float[np.ndarray, "1 feature"],
    index: int,
    counts: Sequence[int],
) -> dict[str, Any]:
    """All strategies for one atom's environment.

    Args:
        model: whose rigidities are meant.
        found: the small structures.
        g: derivatives of the atom's energy in the large structure.
        original: row of the large structure.
        index: of the atom.
        counts: of added structures.
    """
    held = {name: model.atoms_fn(each.atoms)[each.center] for name, each in found.items()}
    rows = added_rows(model, original, found, max(counts), index)
    return {
        "index": index,
        "rigidity": float(prediction_rigidity(g[None], model.hessian)[0]),
        "num_atoms": {name: len(each.atoms) for name, each in found.items()},
        "num_buffer": {name: int(each.is_buffer.sum()) for name, each in found.items()},
        "feature_change": {name: float(np.linalg.norm(each - g) / np.linalg.norm(g)) for name, each in held.items()},
        "enhancement": enhancements(model.hessian, g, rows, counts),
    }


def compare(model: Model, atoms: ase.Atoms, radius: float, number: int, counts: Sequence[int]) -> dict[str, Any]:
    """The least rigid environments of a structure, which do not overlap, by all strategies."""
    features = model.atoms_fn(atoms)
    rigidities = prediction_rigidity(features, model.hessian)
    original = model.rows_fn([atoms])
    environments: list[dict[str, Any]] = []
    refused: list[int] = []
    with tqdm(total=number, desc="environments", delay=5, disable=None) as bar:
        for index in least_rigid(atoms, rigidities, 2 * radius):
            try:
                found = small_structures(atoms, index, radius)
            except bnn_jax.InputError:  # atoms in close contact, which no strategy may move
                refused.append(index)
                continue
            environments.append(of_environment(model, found, features[index], original, index, counts))
            bar.update()
            if len(environments) == number:
                break
    quantiles = np.quantile(rigidities, [0, 0.01, 0.5, 0.99, 1])
    found = {"environments": environments, "refused": refused, "num_atoms": len(atoms)}
    return found | {"rigidity_quantiles": quantiles.tolist(), "counts": list(counts)}


def is_crystal_environment(found: Embedding) -> Bool[np.ndarray, " atom"]:
    """Atoms of the crystal's own environment in a structure, which do not move."""
    if found.crystal_center is None:
        return np.zeros(len(found.atoms), bool)
    away = found.atoms.get_distances(found.crystal_center, np.arange(len(found.atoms)), mic=True)
    return ~found.is_buffer & (away <= found.radius + 1e-6)


def drawn_structures(atoms: ase.Atoms, index: int, radius: float, seed: int, folder: Path) -> None:
    """Write small structures of one environment; ``kind`` is 0 in it, 1 in that of the crystal and 2 in the buffer."""
    for name, found in small_structures(atoms, index, radius).items():
        moved = displace_buffer(found, seed)
        structure = moved.atoms.copy()
        structure.arrays["kind"] = np.where(moved.is_buffer, 2, is_crystal_environment(moved).astype(int))
        ase.io.write(folder / f"drawn-{name}.extxyz", structure)


def training_frames(folder: Path) -> list[ase.Atoms]:
    """All carbon there is, but structures with an atom that has no neighbour within the cutoff."""
    frames = [frame for name in FILES for frame in read_frames(folder / name)]
    return [frame for frame in frames if neighbours(frame, CUTOFF).min() > 0]


def trained(folder: Path, out: Path, num_steps: int, seed: int) -> tuple[bnn_jax.Posterior, bnn_jax.Dataset]:
    """The network and what it is trained on: all structures but the validation set."""
    whole = bnn_jax.Dataset.from_atoms(training_frames(folder))
    train, valid = whole.split(train=len(whole) - NUM_VALID, valid=NUM_VALID, seed=seed)
    config = bnn_jax.Config.from_dict(NETWORK | {"trainer": NETWORK["trainer"] | {"num_steps": num_steps}})
    return bnn_jax.fit(train, valid, config, seed, out / "network", resume=True), train


def large_liquid(
    posterior: bnn_jax.Posterior, out: Path, repeats: int, copies: int, steps: Sequence[int], seed: int
) -> tuple[ase.Atoms, dict[str, Any]]:
    """Melt diamond, cool it, repeat the cell and run on.

    Args:
        posterior: of the forces.
        out: of the chunks.
        repeats: conventional cells of diamond along each axis of the small cell.
        copies: of the small cell along each axis.
        steps: of melting, of equilibration and of the large cell.
        seed: of velocities and noise.
    """
    atoms, folder = diamond(DENSITY, repeats), out / "dynamics"
    folder.mkdir(parents=True, exist_ok=True)
    calculator = bnn_jax.BNNCalculator(posterior)
    stages = [
        Stage(name, temperature, number)
        for name, temperature, number in zip(
            ("melting", "small", "large"), (MELTING, TEMPERATURE, TEMPERATURE), steps, strict=True
        )
    ]
    rows = {}
    for stage in stages:
        if stage.name == "large":
            atoms = atoms.repeat(copies)
        rows[stage.name] = dynamics(atoms, calculator, stage, seed, folder)
    middles, values = radial_distribution(atoms)
    return atoms, {
        "num_atoms": len(atoms),
        "edge": float(atoms.cell.lengths()[0]),
        "rows": rows,
        "coordination": coordination(atoms),
        "radial_distribution": {"distance": middles.tolist(), "g": values.tolist()},
    }


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every piece that is not there yet, and ``results.json`` of all."""
    out, seed = options.out, options.seed
    posterior, train = trained(folder, out, options.train_steps, seed)
    known = {
        "seed": seed,
        "train_steps": options.train_steps,
        "repeats": options.repeats,
        "copies": options.copies,
        "steps": options.steps,
    }
    atoms, dynamics_found = large_liquid(posterior, out, options.repeats, options.copies, options.steps, seed)
    frames = training_frames(folder)
    kept = np.random.default_rng(seed).permutation(len(frames))[: options.train]
    basis = Basis(CUTOFF)
    counts = [count for count in COUNTS if count <= options.number]
    pieces = out / "pieces"
    models: dict[str, Any] = {}

    def linear() -> dict[str, Any]:
        model = linear_model([frames[i] for i in kept], basis, ZETA_SQUARED["linear"])
        return compare(model, atoms, RADIUS, options.environments, counts)

    asked = known | {"environments_asked": options.environments, "number": options.number}
    models["linear"] = finished(
        pieces / "linear.json", asked | {"basis": basis._asdict(), "train": options.train, "radius": RADIUS}, linear
    )
    drawn_structures(atoms, models["linear"]["environments"][0]["index"], RADIUS, seed, out)
    if options.network_environments:
        reach = posterior.config.model.num_blocks * CUTOFF + RADIUS - CUTOFF
        for name, loss, radius in (
            ("network", SquareLoss(energy=1.0, per_atom=True), RADIUS),
            ("network, receptive field", SquareLoss(energy=1.0, per_atom=True), reach),
        ):

            def network(loss: SquareLoss = loss, radius: float = radius) -> dict[str, Any]:
                model = last_layer_model(posterior.network(), train, loss, ZETA_SQUARED["network"])
                few = [count for count in counts if count <= options.network_number]
                return compare(model, atoms, radius, options.network_environments, few)

            network_asked = asked | {
                "environments_asked": options.network_environments,
                "number": options.network_number,
                "radius": radius,
                "loss": loss._asdict(),
            }
            models[name] = finished(
                pieces / f"{name.replace(', ', '-').replace(' ', '-')}.json", network_asked, network
            )
    scores = finished(pieces / "network-errors.json", known, lambda: network_errors(posterior, folder, train))
    results = {
        "environment": environment(),
        "config": known | {"network": posterior.config.to_dict(), "density": DENSITY, "temperature": TEMPERATURE},
        "network_errors": scores["errors"],
        "dynamics": dynamics_found,
        "models": models,
    }
    write_text_atomic(out / "results.json", to_json(results))
    return results


def network_errors(posterior: bnn_jax.Posterior, folder: Path, train: bnn_jax.Dataset) -> dict[str, Any]:
    """Errors of the network on what it was not trained on, and on each file, most of which it was trained on."""
    whole = bnn_jax.Dataset.from_atoms(training_frames(folder))
    valid = whole.take(np.flatnonzero(~np.isin(whole.hashes(), train.hashes())))
    by_file = {}
    for name in FILES:
        frames = [frame for frame in read_frames(folder / name) if neighbours(frame, CUTOFF).min() > 0]
        by_file[Path(name).name.split(".")[0]] = errors_of(posterior, bnn_jax.Dataset.from_atoms(frames))
    return {"errors": {"valid": errors_of(posterior, valid)} | by_file}


def errors_of(posterior: bnn_jax.Posterior, structures: bnn_jax.Dataset) -> dict[str, float]:
    """Of energies, in eV/atom, and of force components, in eV/Angstrom."""
    predicted = posterior.predict(structures)
    energy = (predicted.energy - structures.energy) / structures.num_atoms
    return {
        "num_structures": len(structures),
        "energy_mean_error": float(energy.mean()),
        "energy_std_of_error": float(energy.std()),
        "forces_rmse": float(np.sqrt(np.nanmean((predicted.forces - structures.forces) ** 2))),
        "forces_rms": float(np.sqrt(np.nanmean(structures.forces**2))),
    }


def write_report(out: Path) -> str:
    """``table.md`` and the figures, from ``results.json`` and the structures beside it.

    Raises:
        InputError: there are no results.
    """
    results = read_results(out)
    text = tables(results)
    write_text_atomic(out / "table.md", text)
    figures(results, out)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/rigidity-embedding"))
    parser.add_argument("--data", type=Path, help="folder of the reference data; default: $BNN_JAX_TEST_DATA")
    parser.add_argument("--seed", type=int, default=0, help="of the network, the dynamics and what is drawn")
    parser.add_argument("--train", type=int, default=500, help="structures that the linear model is trained on")
    parser.add_argument("--train-steps", type=int, default=3000, help="of the network")
    parser.add_argument("--repeats", type=int, default=4, help="cells of diamond along each axis of the small cell")
    parser.add_argument("--copies", type=int, default=2, help="of the small cell along each axis")
    parser.add_argument(
        "--steps",
        type=int,
        nargs=3,
        default=[500, 1500, 300],
        help="of melting, equilibration and the large cell, 1 fs",
    )
    parser.add_argument("--environments", type=int, default=10, help="of lowest rigidity")
    parser.add_argument("--number", type=int, default=100, help="structures to add")
    parser.add_argument("--network-environments", type=int, default=5, help="for the network's last layer; 0 for none")
    parser.add_argument("--network-number", type=int, default=10, help="structures to add for the network")
    parser.add_argument("--table-only", action="store_true", help="tables and figures from the results in --out")
    options = parser.parse_args(arguments)
    if not options.table_only:
        options.out.mkdir(parents=True, exist_ok=True)
        run(options, data_folder(options.data, FILES))
    print(write_report(options.out))


if __name__ == "__main__":
    run_command(main)
