"""Which structures make a model fit for a family that it never saw, after figure 4 of Chong et al. (2024).

From the repository's root::

    python experiments/rigidity/augmentation.py --data FOLDER

A killed run continues when it is started again; what is finished is not computed twice.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ase
import numpy as np
from augmentation_report import figure, tables
from jaxtyping import Bool, Float, Int
from pieces import (
    data_folder,
    densities,
    energies_per_atom,
    environment,
    finished,
    read_frames,
    read_results,
    run_command,
)
from power_spectrum import Basis, atom_features
from tqdm import tqdm

from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.report import to_json
from bnn_jax.rigidity import (
    dense_hessian,
    prediction_rigidity,
    random_selection,
    select_by_rigidity,
    stratified_selection,
)

CARBON, SILICA = "carbon_gap17", "silica_zeolite"
FILES = (
    f"{CARBON}/train_bulk_cryst.xyz.gz",
    f"{CARBON}/train_bulk_amo_20.xyz.gz",
    f"{CARBON}/test_high_T_md.xyz.gz",
    f"{CARBON}/test_random_spheres.xyz.gz",
    f"{SILICA}/train.xyz.gz",
    f"{SILICA}/test_unseen_frameworks.xyz.gz",
)
DENSE = 2.95
"""Liquids at least this dense are training structures of ``carbon-dense``, in g/cm^3; they come in steps of 0.1."""
LOW_DENSITY = {"carbon": 2.0, "silica": 1.65}
"""Below which candidates count as of low density, in g/cm^3; the first is the paper's."""
TRAIN_FRAMEWORKS = ("abw", "bct", "jbw")
"""The three densest on average."""
BIN_WIDTH = 0.5
"""Of the strata of densities, in g/cm^3."""
CUTOFFS = {"carbon": 3.7, "silica": 5.0}
"""In Angstrom; the first is the paper's."""
OTHER_CUTOFFS = {"carbon": 5.0, "silica": 3.7}
"""In the sweep, besides."""
ZETA_SQUARED = 1e-6
"""Regulariser over the mean diagonal element of the training set's Hessian."""
SWEEP = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
SHARE = 0.75
"""Of the training structures and of the candidates, drawn for each seed, which all strategies see."""
STRATEGIES = ("guided", "random", "low density", "stratified")


class Frames(NamedTuple):
    """Structures of one question: what is trained on, what may be added and what is asked for."""

    train: list[ase.Atoms]
    candidates: list[ase.Atoms]
    targets: list[ase.Atoms]
    strata: list[str]
    """Of the candidates."""
    low_density: float
    """In g/cm^3."""


class Problem(NamedTuple):
    """The same as a linear model sees it. Energies are per atom, in eV."""

    train: Float[np.ndarray, "train feature"]
    train_energies: Float[np.ndarray, " train"]
    candidates: Float[np.ndarray, "candidate feature"]
    candidate_energies: Float[np.ndarray, " candidate"]
    is_low_density: Bool[np.ndarray, " candidate"]
    strata: list[str]
    targets: Float[np.ndarray, "target feature"]
    target_energies: Float[np.ndarray, " target"]
    target_sizes: Int[np.ndarray, " target"]
    """Numbers of atoms."""


def carbon(folder: Path, with_dense_liquids: bool) -> Frames:
    """Crystals, and dense liquids or none, in training; random spheres, which are full of surfaces, as targets."""
    crystals, amorphous, liquids, spheres = (read_frames(folder / name) for name in FILES[:4])
    is_dense = densities(liquids) >= DENSE if with_dense_liquids else np.zeros(len(liquids), bool)
    train = crystals + [liquid for liquid, dense in zip(liquids, is_dense, strict=True) if dense]
    candidates = amorphous + [liquid for liquid, dense in zip(liquids, is_dense, strict=True) if not dense]
    strata = [f"{np.floor(round(density, 2) / BIN_WIDTH) * BIN_WIDTH:.1f}" for density in densities(candidates)]
    return Frames(train, candidates, spheres, strata, LOW_DENSITY["carbon"])


def silica(folder: Path) -> Frames:
    """Three dense frameworks in training, fifteen others to choose from, five more as targets."""
    train, targets = (read_frames(folder / name) for name in FILES[4:])
    candidates = [frame for frame in train if frame.info["framework"] not in TRAIN_FRAMEWORKS]
    kept = [frame for frame in train if frame.info["framework"] in TRAIN_FRAMEWORKS]
    return Frames(kept, candidates, targets, [f.info["framework"] for f in candidates], LOW_DENSITY["silica"])


SYSTEMS: dict[str, Callable[[Path], Frames]] = {
    "carbon-crystals": lambda folder: carbon(folder, with_dense_liquids=False),
    "carbon-dense": lambda folder: carbon(folder, with_dense_liquids=True),
    "silica": silica,
}


def problem(frames: Frames, basis: Basis) -> Problem:
    """Features and labels; energies are counted from the mean of the training structures."""
    species = sorted({int(number) for frame in frames.train for number in frame.numbers})
    train, candidates, targets = (
        atom_features(part, basis, species) for part in (frames.train, frames.candidates, frames.targets)
    )
    energies = [energies_per_atom(part) for part in (frames.train, frames.candidates, frames.targets)]
    is_low = densities(frames.candidates) < frames.low_density
    return Problem(
        train=train.means(),
        train_energies=energies[0],
        candidates=candidates.means(),
        candidate_energies=energies[1],
        is_low_density=is_low,
        strata=frames.strata,
        targets=targets.means(),
        target_energies=energies[2],
        target_sizes=targets.num_atoms,
    )


def subset(whole: Problem, share: float, seed: int) -> Problem:
    """A random share of the training structures and of the candidates, which differs between seeds."""
    rng = np.random.default_rng(seed)
    kept = [
        np.sort(rng.permutation(number)[: max(1, round(share * number))])
        for number in (len(whole.train), len(whole.candidates))
    ]
    return whole._replace(
        train=whole.train[kept[0]],
        train_energies=whole.train_energies[kept[0]],
        candidates=whole.candidates[kept[1]],
        candidate_energies=whole.candidate_energies[kept[1]],
        is_low_density=whole.is_low_density[kept[1]],
        strata=[whole.strata[i] for i in kept[1]],
    )


def absolute_zeta(rows: Float[np.ndarray, "row feature"], zeta_squared: float) -> float:
    """Regulariser in the unit of the rows, from its square over the mean diagonal element of their Hessian."""
    return float(np.sqrt(zeta_squared * np.sum(rows**2) / rows.shape[1]))


def choose(part: Problem, strategy: str, zeta: float, number: int, seed: int) -> Int[np.ndarray, " choice"]:
    """Candidates in the order in which a strategy adds them.

    Args:
        part: of one seed.
        strategy: one of :data:`STRATEGIES`.
        zeta: regulariser, absolute.
        number: of structures to add.
        seed: of the strategies that draw.
    """
    if strategy == "guided":
        hessian = dense_hessian([part.train], zeta)
        return select_by_rigidity(hessian, list(part.candidates[:, None]), part.targets, number).indices
    if strategy == "stratified":
        return stratified_selection(part.strata, number, seed)
    among = part.is_low_density if strategy == "low density" else None
    return random_selection(len(part.candidates), number, seed, among)


def retrained(
    part: Problem, indices: Int[np.ndarray, " choice"], zeta: float
) -> tuple[Float[np.ndarray, " choice_and_one"], Float[np.ndarray, "choice_and_one target"]]:
    r"""Mean rigidity of the targets, and their errors, before the first choice and after each.

    The weights minimise :math:`\tfrac12 \sum (E - w^T x)^2 + \tfrac12 \zeta^2 w^T w` over energies per atom, so that
    the Hessian of their fit is the one that rigidities are from.

    Returns:
        Rigidities, in 1/eV^2 of energies per atom where each label weighs one; errors in eV/atom.
    """
    reference = part.train_energies.mean()
    hessian = dense_hessian([part.train], zeta)
    moment = part.train.T @ (part.train_energies - reference)
    rigidities, errors = [], []
    for step in range(len(indices) + 1):
        if step:
            row = part.candidates[indices[step - 1]]
            hessian = hessian.update(row[None])
            moment = moment + row * (part.candidate_energies[indices[step - 1]] - reference)
        weights = hessian.solve(moment[None])[0]
        rigidities.append(prediction_rigidity(part.targets, hessian).mean())
        errors.append(part.targets @ weights + reference - part.target_energies)
    return np.array(rigidities), np.array(errors)


def rms(errors: Float[np.ndarray, "*axes target"]) -> Float[np.ndarray, "*axes"]:
    """Root mean square over targets."""
    return np.sqrt(np.mean(errors**2, axis=-1))


def compare(whole: Problem, share: float, zeta_squared: float, number: int, seed: int) -> dict[str, Any]:
    """All strategies on one seed's share of the data."""
    part = subset(whole, share, seed)
    zeta = absolute_zeta(part.train, zeta_squared)
    found = {}
    for strategy in STRATEGIES:
        indices = choose(part, strategy, zeta, number, seed)
        rigidities, errors = retrained(part, indices, zeta)
        found[strategy] = {
            "mean_rigidity": rigidities.tolist(),
            "rmse_ev_per_atom": rms(errors).tolist(),
            "rmse_ev_per_cell": rms(errors * part.target_sizes).tolist(),
            "chosen_strata": [part.strata[i] for i in indices],
        }
    sizes = {"num_train": len(part.train), "num_candidates": len(part.candidates), "zeta": zeta}
    return sizes | {"strategies": found}


def sweep(whole: Problem, share: float, number: int, seeds: Sequence[int]) -> dict[str, Any]:
    """RMSE after the last choice of each seed for other regularisers, by strategy."""
    found = {}
    for zeta_squared in tqdm(SWEEP, desc="sweep", delay=5, disable=None):
        each = [compare(whole, share, zeta_squared, number, seed)["strategies"] for seed in seeds]
        found[f"{zeta_squared:.0e}"] = {
            strategy: [result[strategy]["rmse_ev_per_atom"] for result in each] for strategy in STRATEGIES
        }
    return found


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every piece that is not there yet, and ``results.json`` of all."""
    config = {"number": options.number, "share": options.share, "zeta_squared": options.zeta_squared}
    systems: dict[str, Any] = {}
    for name in options.systems:
        frames, kind = SYSTEMS[name](folder), name.split("-")[0]
        basis = Basis(CUTOFFS[kind])
        whole = problem(frames, basis)
        known = {"system": name, "basis": basis._asdict(), **config, "data": [len(part) for part in frames[:3]]}
        seeds = [
            finished(
                options.out / "pieces" / f"{name}-seed-{seed}.json",
                known | {"seed": seed},
                lambda seed=seed, whole=whole: compare(whole, *_of(config, "share", "zeta_squared", "number"), seed),
            )
            for seed in tqdm(options.seeds, desc=name, unit="seed", delay=5, disable=None)
        ]
        systems[name] = {"seeds": seeds, "sweeps": []}
        for cutoff in (CUTOFFS[kind], OTHER_CUTOFFS[kind]) if options.sweep else ():
            other = Basis(cutoff)
            other_known = known | {"basis": other._asdict(), "seeds": options.seeds}
            found = finished(
                options.out / "pieces" / f"{name}-sweep-{cutoff:g}.json",
                other_known,
                lambda other=other, frames=frames: {
                    "rmse_ev_per_atom": sweep(problem(frames, other), options.share, options.number, options.seeds)
                },
            )
            systems[name]["sweeps"].append(found)
    results = {"environment": environment(), "config": config | {"seeds": options.seeds}, "systems": systems}
    write_text_atomic(options.out / "results.json", to_json(results))
    return results


def _of(mapping: Mapping[str, Any], *names: str) -> list[Any]:
    return [mapping[name] for name in names]


def write_report(out: Path) -> str:
    """``table.md`` and the figures, from ``results.json``.

    Raises:
        InputError: there are no results.
    """
    results = read_results(out)
    text = tables(results)
    write_text_atomic(out / "table.md", text)
    figure(results, out / "augmentation.png")
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/rigidity-augmentation"))
    parser.add_argument("--data", type=Path, help="folder of the reference data; default: $BNN_JAX_TEST_DATA")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--number", type=int, default=10, help="structures to add")
    parser.add_argument("--share", type=float, default=SHARE, help="of the data that a seed sees")
    parser.add_argument("--zeta-squared", type=float, default=ZETA_SQUARED, help="over the mean diagonal element")
    parser.add_argument("--sweep", action=argparse.BooleanOptionalAction, default=True, help="other regularisers")
    parser.add_argument("--table-only", action="store_true", help="tables and figures from the results in --out")
    options = parser.parse_args(arguments)
    if not options.table_only:
        options.out.mkdir(parents=True, exist_ok=True)
        run(options, data_folder(options.data, FILES))
    print(write_report(options.out))


if __name__ == "__main__":
    run_command(main)
