"""Last-layer rigidities of NequIP against errors and a committee, after figures 1 and 2 of Chong et al. (2024).

From the repository's root::

    python experiments/rigidity/committee.py

A killed run continues when it is started again; what is finished is not computed twice.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import least_squares
import numpy as np
from ase.data import chemical_symbols
from committee_figures import draw, table
from jaxtyping import Float, Int
from last_layer import ZETAS, Choice, choose, derivatives, weighted
from pieces import data_folder, environment, run_command, stored
from reference_sets import (
    NUM_VALID,
    SPLIT_SEED,
    SYSTEMS,
    System,
    configuration,
    read_train,
    rounded,
    trained,
)
from scipy.stats import linregress
from tqdm import tqdm

from bnn_jax import Config, Dataset, InputError, Posterior, load
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.metrics import (
    bootstrap_interval,
    gaussian_log_likelihood,
    mean_absolute_error,
    mean_squared_z_score,
    root_mean_square_error,
    spearman,
)
from bnn_jax.rigidity import calibration_factor, gauss_newton_matrix, prediction_rigidity

ENVIRONMENTS_PER_BIN = 100
"""Of figure 2, as in the paper."""


class Sizes(NamedTuple):
    """What a smaller run has less of."""

    folds: int = 10
    spread: int = 3
    """Networks of the committee whose rigidities are computed too, to see what another training changes."""
    steps: int | None = None
    """Of every network; None for the system's."""
    features: int | None = None
    """Likewise."""
    valid: int = NUM_VALID
    structures: int | None = None
    """Of the training file, the first so many after shuffling; None for all."""
    test: int | None = None
    """Of each test set, likewise."""


class Parts(NamedTuple):
    """The data of one system."""

    train: Dataset
    valid: Dataset
    tests: dict[str, Dataset]


# --- data ---


def read_parts(system: System, data: Path, sizes: Sizes) -> Parts:
    """Training, validation and test sets.

    Raises:
        InputError: a file holds too few structures.
    """
    train, valid = read_train(system, data, sizes.valid, sizes.structures)
    tests = {name: load(data / system.file(file)) for name, file in system.tests.items()}
    if sizes.test is not None:
        tests = {name: each.split(test=min(sizes.test, len(each)), seed=SPLIT_SEED)[0] for name, each in tests.items()}
    return Parts(train, valid, tests)


def without_fold(num_structures: int, num_folds: int, seed: int = SPLIT_SEED) -> list[Int[np.ndarray, " structure"]]:
    """What each network of the committee is trained on: all but one of equal, disjoint parts."""
    order = np.random.default_rng(seed).permutation(num_structures)
    parts = np.array_split(order, num_folds)
    return [np.sort(np.concatenate([part for j, part in enumerate(parts) if j != i])) for i in range(num_folds)]


# --- figures of one prediction ---


def slope(x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"]) -> float:
    """Of the straight line through logarithms by least squares; NaN for fewer than two different abscissae."""
    if len(np.unique(x)) < 2:
        return float("nan")
    return float(linregress(np.log(x), np.log(y)).slope)


def binned(
    x: Float[np.ndarray, " element"], y: Float[np.ndarray, " element"], size: int
) -> dict[str, Float[np.ndarray, " bin"]]:
    """Means over elements of similar x, about ``size`` of them in each bin."""
    order = np.argsort(x, kind="stable")
    parts = np.array_split(order, max(1, round(len(x) / size)))
    return {"x": np.array([x[part].mean() for part in parts]), "y": np.array([y[part].mean() for part in parts])}


def attainable(std: Float[np.ndarray, " element"], num_draws: int = 200, seed: int = 0) -> float:
    """Mean rank correlation of stds with normal errors that have just these stds: what a perfect one would reach."""
    rng = np.random.default_rng(seed)
    return float(np.mean([spearman(rng.normal(0, std), std) for _ in range(num_draws)]))


def interval(
    errors: Float[np.ndarray, " element"],
    scores: Float[np.ndarray, " element"],
    owner: Int[np.ndarray, " element"],
    num_resamples: int,
) -> dict[str, float]:
    """Rank correlation of sizes of errors and scores, with the 95 % interval over draws of structures."""
    found = bootstrap_interval(lambda index: spearman(errors[index], scores[index]), owner, num_resamples)
    return {"estimate": found.estimate, "lower": found.lower, "upper": found.upper}


def assess(
    errors: Float[np.ndarray, " element"],
    std: Float[np.ndarray, " element"],
    owner: Int[np.ndarray, " element"],
    constant_std: float,
    bin_size: int,
    num_resamples: int = 1000,
) -> dict[str, Any]:
    """Numbers of figure 1 for one kind of prediction.

    Args:
        errors: predicted minus true.
        std: estimated, calibrated on other data; same unit.
        owner: structure of each element.
        constant_std: the same for all, calibrated on those other data too: what the rigidities are to improve on.
        bin_size: elements in each bin.
        num_resamples: of the bootstrap.
    """
    bins = binned(std**2, errors**2, bin_size)
    likelihood = gaussian_log_likelihood(np.zeros(len(errors)), std, errors)
    return {
        "mae": mean_absolute_error(errors, np.zeros(len(errors))),
        "rmse": root_mean_square_error(errors, np.zeros(len(errors))),
        "spearman": interval(errors, std, owner, num_resamples),
        "attainable_spearman": attainable(std, 200 if len(std) < 5000 else 10),
        "mean_squared_z": mean_squared_z_score(errors, std),
        "log_likelihood": likelihood,
        "gain_over_constant": likelihood
        - gaussian_log_likelihood(np.zeros(len(errors)), np.full(len(errors), constant_std), errors),
        "slope": slope(bins["x"], bins["y"]),
        "std_ratio_95_5": float(np.quantile(std, 0.95) / np.quantile(std, 0.05)),
        "bins": {"variance": bins["x"].tolist(), "squared_error": bins["y"].tolist(), "size": bin_size},
    }


# --- one system ---


def energies_only(
    posterior: Posterior, train: Dataset, parts: Parts, bin_size: int
) -> tuple[Choice, dict[str, dict[str, Any]]]:
    """Hessian, regulariser and factor of one network, and figure 1 of its energies."""
    network = posterior.network()
    matrix = gauss_newton_matrix(weighted(network, train, least_squares.square_loss(posterior.config)))
    errors = posterior.predict(parts.valid).energy - parts.valid.energy
    rows = derivatives(network, parts.valid, ("energy",))["energy"]
    choice = choose(matrix, rows, errors)
    constant = float(np.sqrt(np.mean(errors**2)))
    found = {}
    for name, test in parts.tests.items():
        errors = posterior.predict(test).energy - test.energy
        std = choice.alpha / np.sqrt(
            prediction_rigidity(derivatives(network, test, ("energy",))["energy"], choice.hessian)
        )
        found[name] = assess(errors, std, np.arange(len(test)), constant, bin_size) | {
            "mae_per_atom": mean_absolute_error(errors / test.num_atoms, np.zeros(len(test))),
            "error": errors.tolist(),
            "std": std.tolist(),
        }
    return choice, found


def forces_of(posterior: Posterior, choice: Choice, parts: Parts) -> dict[str, dict[str, Any]]:
    """Figure 1 of force components, with a factor of their own from the validation set."""
    network = posterior.network()
    rigidities, errors = {}, {}
    for name, each in {"valid": parts.valid, **parts.tests}.items():
        rigidities[name] = prediction_rigidity(derivatives(network, each, ("forces",))["forces"], choice.hessian)
        errors[name] = (posterior.predict(each).forces - each.forces).ravel()
    alpha = calibration_factor(errors["valid"], rigidities["valid"])
    constant = float(np.sqrt(np.mean(errors["valid"] ** 2)))
    found = {}
    for name, test in parts.tests.items():
        owner = np.repeat(test.structure_index, 3)
        std = alpha / np.sqrt(rigidities[name])
        size = max(1, len(std) // 50)
        found[name] = assess(errors[name], std, owner, constant, size, num_resamples=200) | {"alpha": alpha}
    return found


def local(
    rigidities: Float[np.ndarray, " atom"],
    atom_energies: Float[np.ndarray, "network atom"],
    test: Dataset,
    per_bin: int = ENVIRONMENTS_PER_BIN,
) -> dict[str, Any]:
    """Numbers of figure 2: how local energies vary over a committee where the local rigidity is high and low.

    Args:
        rigidities: of the atoms' energies.
        atom_energies: of each network, in eV.
        test: the structures.
        per_bin: environments in a bin.
    """
    variance = atom_energies.var(axis=0, ddof=1)
    relative = rigidities / rigidities.max()
    bins = binned(relative, variance, per_bin)
    root = np.sqrt(variance)
    by_element = {}
    for number in test.species:
        chosen = test.numbers == number
        by_element[chemical_symbols[number]] = interval(
            root[chosen], -relative[chosen], test.structure_index[chosen], 200
        )
    return {
        "bins": {"lpr": bins["x"].tolist(), "variance": bins["y"].tolist(), "size": per_bin},
        "spearman": interval(root, -relative, test.structure_index, 400),
        "spearman_by_element": by_element,
        "slope": slope(bins["x"], bins["y"]),
        "max_lpr": float(rigidities.max()),
    }


def run_system(
    name: str, parts: Parts, config: Config, seed: int, sizes: Sizes, out: Path, progress: bool = True
) -> dict[str, Any]:
    """Train, and compute all figures; nothing is done where ``results-<name>.json`` is there already.

    Raises:
        InputError: the folder holds results of other data, sizes or another seed.
    """
    path, system = out / f"results-{name}.json", SYSTEMS[name]
    sets = {"train": parts.train, "valid": parts.valid, **parts.tests}
    known = {
        "system": name,
        "seed": seed,
        "sizes": sizes._asdict(),
        "config": config.to_dict(),
        "num_structures": {key: len(each) for key, each in sets.items()},
        "data": {key: each.fingerprint() for key, each in sets.items()},
    }
    if (found := stored(path, known)) is not None:
        return found
    start = time.perf_counter()
    main_network = trained(parts.train, parts.valid, config, seed, out / name / "whole", progress)
    members, member_sets = [], [parts.train.take(kept) for kept in without_fold(len(parts.train), sizes.folds)]
    for i, each in enumerate(tqdm(member_sets, desc=f"{name}: committee", delay=5, disable=None)):
        folder = out / name / f"fold-{i}"
        members.append(trained(each, parts.valid, config, seed + 1 + i, folder, progress))
    trained_at = time.perf_counter()

    choice, energies = energies_only(main_network, parts.train, parts, system.bin_size)
    committee = {}
    for key, test in parts.tests.items():
        predictions = [each.predict(test) for each in members]
        spread = np.stack([each.energy for each in predictions]).std(axis=0, ddof=1)
        errors = np.asarray(energies[key]["error"])
        committee[key] = {"spearman": interval(errors, spread, np.arange(len(test)), 1000)}
        if key == "test":
            rows = derivatives(main_network.network(), test, ("atom_energies",))["atom_energies"]
            local_energies = np.stack([each.atom_energies for each in predictions])
            figure_two = local(prediction_rigidity(rows, choice.hessian), local_energies, test)
    others = [
        energies_only(each, subset, parts, system.bin_size)
        for each, subset in list(zip(members, member_sets, strict=True))[: sizes.spread]
    ]
    found = known | {
        "title": system.title,
        "loss": least_squares.square_loss(config)._asdict(),
        "zeta": {
            "relative": choice.relative_zeta,
            "absolute": choice.absolute_zeta,
            "grid": list(ZETAS),
            "validation_log_likelihood": choice.likelihoods,
        },
        "alpha": choice.alpha,
        "energies": energies,
        "forces": forces_of(main_network, choice, parts) if system.forces else {},
        "committee": committee,
        "local": figure_two,
        "other_networks": [
            {
                "relative_zeta": other.relative_zeta,
                "alpha": other.alpha,
                "energies": {
                    key: {k: v for k, v in value.items() if k not in ("error", "std", "bins")}
                    for key, value in figures.items()
                },
            }
            for other, figures in others
        ],
        "training_seconds": trained_at - start,
        "analysis_seconds": time.perf_counter() - trained_at,
        "environment": environment(),
    }
    write_text_atomic(path, json.dumps(rounded(found), indent=1))
    return rounded(found)


def write_tables(out: Path) -> str:
    """Table, figures and ``results.json`` of the systems that are finished.

    Raises:
        InputError: none is.
    """
    found = [json.loads(path.read_text()) for name in SYSTEMS if (path := out / f"results-{name}.json").exists()]
    if not found:
        raise InputError(f"{out} holds no results-*.json; run the experiment without --table-only first.")
    write_text_atomic(out / "results.json", json.dumps({each["system"]: each for each in found}, indent=1))
    text = table(found)
    write_text_atomic(out / "table.md", text)
    draw(found, out)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="folder of reference data; default: $BNN_JAX_TEST_DATA")
    parser.add_argument("--out", type=Path, default=Path("runs/rigidity-committee"))
    parser.add_argument("--folds", type=int, default=10, help="networks of the committee")
    parser.add_argument("--spread", type=int, default=3, help="of them, those that get rigidities of their own")
    parser.add_argument("--steps", type=int, help="of every training; default: each system's")
    parser.add_argument("--features", type=int, help="of every network; default: each system's")
    parser.add_argument("--valid", type=int, default=NUM_VALID, help="structures to validate and calibrate on")
    parser.add_argument("--structures", type=int, help="to train and validate on; default: all")
    parser.add_argument("--test", type=int, help="structures of each test set; default: all")
    parser.add_argument("--table-only", action="store_true", help="rebuild tables and figures from --out")
    options = parser.parse_args(arguments)
    if not options.table_only:
        sizes = Sizes(**{name: getattr(options, name) for name in Sizes._fields})
        folder = data_folder(options.data, [file for name in options.systems for file in SYSTEMS[name].files])
        parts = {name: read_parts(SYSTEMS[name], folder, sizes) for name in options.systems}
        options.out.mkdir(parents=True, exist_ok=True)
        for name, each in parts.items():
            run_system(
                name, each, configuration(SYSTEMS[name], sizes.steps, sizes.features), options.seed, sizes, options.out
            )
            write_tables(options.out)
    print(write_tables(options.out))


if __name__ == "__main__":
    run_command(main)
