"""Last-layer local rigidities along training and with more data, after figure 3 of Chong et al. (2024).

From the repository's root::

    python experiments/rigidity/learning.py

A killed run continues when it is started again; what is finished is not computed twice.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import least_squares
import numpy as np
from jaxtyping import Float
from last_layer import ZETAS, choose, derivatives, weighted
from learning_figures import draw, relative_change, table
from pieces import data_folder, environment, run_command, stored
from reference_sets import (
    NUM_VALID,
    SPLIT_SEED,
    SYSTEMS,
    configuration,
    load_network,
    read_train,
    rounded,
)
from tqdm import tqdm

from bnn_jax import Config, Dataset, InputError, Posterior, load
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.methods.preparation import check_batch_size, prepare
from bnn_jax.methods.training import build_training
from bnn_jax.metrics import mean_absolute_error, root_mean_square_error, spearman
from bnn_jax.rigidity import gauss_newton_matrix, prediction_rigidity
from bnn_jax.rigidity.gauss_newton import regularised

FRACTIONS = (0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)
"""Of the steps of the training, after which the network is looked at."""
TRAIN_SIZES = {"qm9": (50, 100, 200, 400), "ethanol": (50, 100, 250, 500)}
"""Beside the whole training set."""
STEPS_PER_CALL = 50
"""Of one compiled call; they change nothing but the pace of the progress bar."""
ZETA_FACTORS = (0.1, 1.0, 10.0)
"""On the regulariser, to see what hangs on it."""


class Sizes(NamedTuple):
    """What a smaller run has less of."""

    molecules: int = 100
    """Of the test set, whose environments are looked at."""
    steps: int | None = None
    """Of every training; None for the system's."""
    features: int | None = None
    """Of every network; likewise."""
    valid: int = NUM_VALID
    structures: int | None = None
    """Of the training file, the first so many after shuffling; None for all."""
    train_sizes: tuple[int, ...] | None = None
    """None for the system's."""


class Parts(NamedTuple):
    """The data of one system."""

    train: Dataset
    valid: Dataset
    test: Dataset


def read_parts(name: str, data: Path, sizes: Sizes) -> Parts:
    """Training and validation set, and the structures whose environments are looked at.

    Raises:
        InputError: a file holds too few structures.
    """
    train, valid = read_train(SYSTEMS[name], data, sizes.valid, sizes.structures)
    (test,) = load(data / SYSTEMS[name].file("test")).split(test=sizes.molecules, seed=SPLIT_SEED)
    return Parts(train, valid, test)


# --- training ---


def snapshots(train: Dataset, config: Config, seed: int, at_steps: Sequence[int]) -> Posterior:
    """Averaged weights of one training after several numbers of steps: one trajectory, one schedule.

    The last of them are the weights that :func:`bnn_jax.fit` without a validation set ends with.

    Args:
        train: training set.
        config: of the run, whose ``trainer.num_steps`` sets the schedule.
        seed: of the run.
        at_steps: ascending, from zero.

    Returns:
        A posterior whose samples are the networks, in this order; they are no draws from anything.

    Raises:
        InputError: the training set is smaller than a minibatch.
    """
    check_batch_size(config.trainer.batch_size, train, "trainer.batch_size")
    prepared = prepare(train, None, config)
    chunk, plan, states = build_training(jax.random.key(seed), prepared, least_squares.task(prepared.config))
    data = chunk.place(prepared.packed)
    kept = [jax.device_get(states.average)]
    with tqdm(total=at_steps[-1], desc=f"{len(train)} structures", unit="step", delay=5, disable=None) as bar:
        for first, last in pairwise(at_steps):
            for step in range(first, last, STEPS_PER_CALL):
                num_steps = min(STEPS_PER_CALL, last - step)
                states, _ = chunk(states, data, plan(step, STEPS_PER_CALL), num_steps)
                bar.update(num_steps)
            kept.append(jax.device_get(states.average))
    samples = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *kept)
    return Posterior(prepared.config, prepared.statistics, samples, 1, seed, train_hashes=train.hashes())


def kept_snapshots(train: Dataset, config: Config, seed: int, at_steps: Sequence[int], file: Path) -> Posterior:
    """The same, which the file holds afterwards; they are not trained again where they were.

    Raises:
        InputError: the file has networks of other data, another configuration or another seed.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        snapshots(train, config, seed, at_steps).save(file)
    found = load_network(file, train, config, seed)
    if found.num_samples != len(at_steps):
        raise InputError(f"{file} has {found.num_samples} networks and not {len(at_steps)}; choose another --out.")
    return found


def checkpoints(num_steps: int) -> list[int]:
    """Steps after which networks of a training are looked at, ascending from zero."""
    return sorted({round(fraction * num_steps) for fraction in FRACTIONS})


# --- rigidities ---


class Judged(NamedTuple):
    """One network, and what its rigidities are made of."""

    rows: list[Float[np.ndarray, "_row feature"]]
    """Weighted derivatives of each training structure."""
    environments: Float[np.ndarray, "atom feature"]
    """Derivatives of the test environments' energies."""
    valid_rows: Float[np.ndarray, "structure feature"]
    """Derivatives of the energies of the validation set."""
    valid_errors: Float[np.ndarray, " structure"]
    """Predicted minus true energies of the validation set, in eV."""


def judged_networks(posterior: Posterior, train: Dataset, parts: Parts) -> list[Judged]:
    """Derivatives and errors of several networks of one training.

    Args:
        posterior: whose samples are the networks.
        train: what they are trained on.
        parts: whose test set to look at and whose validation set to judge by.
    """
    loss = least_squares.square_loss(posterior.config)
    errors = posterior.predict(parts.valid).energy_samples - parts.valid.energy
    found = []
    for i in tqdm(range(posterior.num_samples), desc="derivatives", unit="network", delay=5, disable=None):
        network = posterior.network(i)
        rows = list(weighted(network, train, loss))
        environments = derivatives(network, parts.test, ("atom_energies",))["atom_energies"]
        valid_rows = derivatives(network, parts.valid, ("energy",))["energy"]
        found.append(Judged(rows, environments, valid_rows, np.asarray(errors[i], np.float64)))
    return found


def local_rigidities(
    judged: Judged, zeta: float, num_structures: int | None = None
) -> Float[np.ndarray, " environment"]:
    """LPR of the test environments, in 1/eV^2.

    Args:
        judged: the network.
        zeta: absolute.
        num_structures: the first so many training structures only; None for all.
    """
    return prediction_rigidity(
        judged.environments, regularised(gauss_newton_matrix(judged.rows[:num_structures]), zeta)
    )


def compared(
    networks: Mapping[int, Judged], final: Judged, zeta: float, num_structures: Mapping[int, int] | None = None
) -> dict[str, Any]:
    """Rigidities under each network beside those under the final one, at several regularisers.

    Args:
        networks: by step or by size of the training set.
        final: the network that is compared with.
        zeta: absolute.
        num_structures: of the Hessian, by the same keys, where not all training structures count.
    """
    counts = num_structures or {}
    found: dict[str, Any] = {"at": list(networks), "change": {}, "normalised_change": {}}
    for factor in ZETA_FACTORS:
        reference = local_rigidities(final, factor * zeta)
        values = [local_rigidities(each, factor * zeta, counts.get(key)) for key, each in networks.items()]
        found["change"][f"{factor:g}"] = [relative_change(each, reference) for each in values]
        found["normalised_change"][f"{factor:g}"] = [relative_change(each, reference, True) for each in values]
        if factor == 1:
            found["lpr"] = [each.tolist() for each in values]
            found["spearman"] = [spearman(reference, each) for each in values]
    zero = np.zeros(len(final.valid_errors))
    found["energy_mae"] = [mean_absolute_error(each.valid_errors, zero) for each in networks.values()]
    found["energy_rmse"] = [root_mean_square_error(each.valid_errors, zero) for each in networks.values()]
    return found


# --- one training ---


def run_seed(
    name: str,
    seed: int,
    parts: Parts,
    config: Config,
    sizes: Sizes,
    out: Path,
    train_sizes: Sequence[int],
    zeta: float | None = None,
) -> dict[str, Any]:
    """All networks of one seed; nothing is done where ``results-<name>-seed-<seed>.json`` is there already.

    Args:
        name: of the system.
        seed: of initial weights and minibatches.
        parts: the data.
        config: of the networks.
        sizes: for the record.
        out: folder.
        train_sizes: ascending, smaller than the training set.
        zeta: absolute, so that seeds can be compared; None to choose it on the validation set.

    Raises:
        InputError: the folder holds results of other data or sizes.
    """
    path = out / f"results-{name}-seed-{seed}.json"
    known = {
        "system": name,
        "seed": seed,
        "sizes": sizes._asdict(),
        "config": config.to_dict(),
        "data": {key: each.fingerprint() for key, each in parts._asdict().items()},
        "zeta_given": zeta,
    }
    if (found := stored(path, known)) is not None:
        return found
    start, folder = time.perf_counter(), out / name / f"seed-{seed}"
    steps = checkpoints(config.trainer.num_steps)
    whole = kept_snapshots(parts.train, config, seed, steps, folder / "trajectory.safetensors")
    smaller = {
        size: kept_snapshots(
            parts.train[:size], config, seed, (0, config.trainer.num_steps), folder / f"{size}.safetensors"
        )
        for size in train_sizes
    }
    trained_at = time.perf_counter()
    along = dict(zip(steps, judged_networks(whole, parts.train, parts), strict=True))
    final = along[steps[-1]]
    choice = choose(gauss_newton_matrix(final.rows), final.valid_rows, final.valid_errors)
    used = choice.absolute_zeta if zeta is None else zeta
    by_size = {size: judged_networks(each, parts.train[:size], parts)[-1] for size, each in smaller.items()}
    by_size[len(parts.train)] = final
    found = known | {
        "title": SYSTEMS[name].title,
        "loss": least_squares.square_loss(config)._asdict(),
        "steps_per_epoch": len(parts.train) // config.trainer.batch_size,
        "zeta": {
            "absolute": used,
            "own_choice": choice.absolute_zeta,
            "own_relative_choice": choice.relative_zeta,
            "grid": list(ZETAS),
            "validation_log_likelihood": choice.likelihoods,
        },
        "trajectory": compared(along, final, used),
        "sizes_of_training_set": compared(by_size, final, used),
        # The network of all data under the Hessian of some: what the data alone change, features kept.
        "same_network": compared(dict.fromkeys(by_size, final), final, used, {size: size for size in by_size}),
        "training_seconds": trained_at - start,
        "analysis_seconds": time.perf_counter() - trained_at,
        "environment": environment(),
    }
    write_text_atomic(path, json.dumps(rounded(found)))
    return rounded(found)


def write_tables(out: Path) -> str:
    """Table, figures and ``results.json`` of what is finished.

    Raises:
        InputError: nothing is.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for name in TRAIN_SIZES:
        paths = out.glob(f"results-{name}-seed-*.json")
        results = sorted((json.loads(path.read_text()) for path in paths), key=lambda each: each["seed"])
        if results:
            found[name] = results
    if not found:
        raise InputError(f"{out} holds no results-*.json; run the experiment without --table-only first.")
    write_text_atomic(out / "results.json", json.dumps(found))
    text = table(found)
    write_text_atomic(out / "table.md", text)
    draw(found, out)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=list(TRAIN_SIZES), default=["qm9"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, help="folder of reference data; default: $BNN_JAX_TEST_DATA")
    parser.add_argument("--out", type=Path, default=Path("runs/rigidity-learning"))
    parser.add_argument("--molecules", type=int, default=100, help="test structures to look at")
    parser.add_argument("--steps", type=int, help="of every training; default: each system's")
    parser.add_argument("--features", type=int, help="of every network; default: each system's")
    parser.add_argument("--valid", type=int, default=NUM_VALID, help="structures to choose the regulariser on")
    parser.add_argument("--structures", type=int, help="to train and validate on; default: all")
    parser.add_argument("--train-sizes", type=int, nargs="+", help="beside all; default: each system's")
    parser.add_argument("--table-only", action="store_true", help="rebuild tables and figures from --out")
    options = parser.parse_args(arguments)
    out = options.out
    if not options.table_only:
        sizes = Sizes(**{name: getattr(options, name) for name in Sizes._fields})
        folder = data_folder(options.data, [file for name in options.systems for file in SYSTEMS[name].files])
        parts = {name: read_parts(name, folder, sizes) for name in options.systems}
        out.mkdir(parents=True, exist_ok=True)
        for name, each in parts.items():
            config = configuration(SYSTEMS[name], sizes.steps, sizes.features)
            chosen = sorted(size for size in sizes.train_sizes or TRAIN_SIZES[name] if size < len(each.train))
            zeta = None  # the first seed chooses it for all
            for seed in options.seeds:
                zeta = run_seed(name, seed, each, config, sizes, out, chosen, zeta)["zeta"]["absolute"]
                write_tables(out)
    print(write_tables(out))


if __name__ == "__main__":
    run_command(main)
