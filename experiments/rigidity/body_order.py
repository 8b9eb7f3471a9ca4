"""Component-wise prediction rigidities of a body-ordered model, after fig. 6 of Chong et al. (2024).

From the repository's root::

    python experiments/rigidity/body_order.py

A killed run continues when it is started again; what is finished is not computed twice.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import component_model
import many_body
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import silicon_clusters
import xtb
from jaxtyping import Float
from pieces import environment, finished, mean_and_range, read_results, run_command
from tqdm import tqdm

import bnn_jax
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.report import to_json

Array = np.ndarray

CUTOFF = 5.5
"""Å."""
LESS_REGULARISED = 1e-2
"""Factor of alpha of a second set of rigidities: those that the data do not hold follow it."""
MODELS = {"self-interacting": False, "purified": True}


class Setting(NamedTuple):
    """What a result follows from, beside the seed."""

    alpha: float = 1e-3
    """Added to the diagonal of the Hessian, as in the published code."""
    num_train: int = 500
    num_replaced: int = 50
    """Pentamers that give way to each kind of smaller clusters."""
    num_test: int = 200
    degrees: tuple[int, ...] = (24, 20, 16, 12)
    """Of the features of each correlation order; as published."""


def training_sets(setting: Setting) -> dict[str, dict[int, int]]:
    """How many clusters of which number of atoms each training set has; pentamers make room for the smaller ones."""
    sets = {"pentamers": {5: setting.num_train}}
    for name, num_atoms in (("+ dimers", 2), ("+ trimers", 3), ("+ tetramers", 4)):
        last = list(sets.values())[-1]
        sets[name] = {**last, 5: last[5] - setting.num_replaced, num_atoms: setting.num_replaced}
    return sets


def evaluate(
    features: Mapping[int, Float[Array, "_cluster feature"]],
    energy: Mapping[int, Float[Array, " _cluster"]],
    curve: Float[Array, "distance feature"],
    reference: Float[Array, " distance"],
    slices: Mapping[str, slice],
    setting: Setting,
) -> dict[str, Any]:
    """Rigidities and errors of one kind of features, for every training set.

    Args:
        features: of the clusters by number of atoms; the last pentamers are the test set.
        energy: of the same, in eV an atom.
        curve: features of the dimer curve.
        reference: its energies, in eV an atom.
        slices: columns of each correlation order.
        setting: sizes and regulariser.
    """
    test, test_energy = features[5][setting.num_train :], energy[5][setting.num_train :]
    results = {}
    for name, counts in training_sets(setting).items():
        rows = np.concatenate([features[size][:count] for size, count in counts.items()])
        targets = np.concatenate([energy[size][:count] for size, count in counts.items()])
        # The energy of free atoms is the offset, the term of order zero of a body-ordered expansion.
        model = component_model.fit(rows, targets, setting.alpha, slices, offset=0.0)
        less = component_model.fit(rows, targets, LESS_REGULARISED * setting.alpha, slices, offset=0.0)
        total, pairs = model.energies(curve), model.component_energies(curve)["1"]
        results[name] = {
            "cpr": {order: float(cpr.mean()) for order, cpr in model.component_rigidities(test).items()},
            "cpr_less_regularised": {
                order: float(cpr.mean()) for order, cpr in less.component_rigidities(test).items()
            },
            "test_rmse": component_model.rmse(model.energies(test) - test_energy),
            "curve_total": total.tolist(),
            "curve_pairs": pairs.tolist(),
            "curve_total_rmse": component_model.rmse(total - reference),
            "curve_pairs_rmse": component_model.rmse(pairs - reference),
        }
    return results


def run_seed(seed: int, setting: Setting, out: Path) -> dict[str, Any]:
    """Labels and results of one seed, each kept in a file of its own.

    Raises:
        InputError: the folder holds results of another setting.
    """
    known = {"seed": seed, "setting": setting._asdict()}
    counts = {2: setting.num_replaced, 3: setting.num_replaced, 4: setting.num_replaced}
    counts[5] = setting.num_train + setting.num_test
    clusters = finished(
        out / f"clusters-{seed}.json",
        {"seed": seed, "counts": {str(size): count for size, count in counts.items()}},
        lambda: silicon_clusters.labelled(seed, counts),
    )
    curve = finished(out / "dimer-curve.json", {"distances": silicon_clusters.DIMER_GRID.tolist()}, dimer_curve)

    def compute() -> dict[str, Any]:
        start = time.perf_counter()
        basis = many_body.Basis(CUTOFF, setting.degrees)
        energy = {size: np.array(clusters[str(size)]["energy"]) for size in counts}
        positions = {size: np.array(clusters[str(size)]["positions"]) for size in counts}
        reference, pairs = np.array(curve["energy"]), silicon_clusters.dimers(silicon_clusters.DIMER_GRID)
        slices = many_body.component_slices(basis)
        models = {}
        for name, purified in MODELS.items():
            features = {size: many_body.cluster_features(each, basis, purified) for size, each in positions.items()}
            of_curve = many_body.cluster_features(pairs, basis, purified)
            models[name] = evaluate(features, energy, of_curve, reference, slices, setting)
        return {
            "models": models,
            "num_features": {order: columns.stop - columns.start for order, columns in slices.items()},
            "test_std": float(energy[5][setting.num_train :].std()),
            "seconds_without_labels": time.perf_counter() - start,
            "environment": environment(),
        }

    return finished(out / f"seed-{seed}.json", known, compute)


def dimer_curve() -> dict[str, Any]:
    """Energies of the dimer at the distances of the grid."""
    return {"energy": silicon_clusters.label(silicon_clusters.dimers(silicon_clusters.DIMER_GRID)).energy.tolist()}


def table(results: Mapping[str, Any]) -> str:
    """Means over seeds, with the least and greatest, as Markdown."""
    seeds = results["seeds"]
    orders = list(seeds[0]["num_features"])
    setting = seeds[0]["setting"]
    lines = [
        f"{len(seeds)} seeds, {setting['num_train']} training clusters, {setting['num_test']} test pentamers, alpha"
        f" {setting['alpha']:g}; features by order: {', '.join(str(seeds[0]['num_features'][k]) for k in orders)}.",
        "",
        "CPR of the test pentamers in 1/eV², mean over them and the seeds; in brackets by what factor it is smaller"
        f" with a regulariser {1 / LESS_REGULARISED:g} times smaller: about 1 is held by the data,"
        f" {1 / LESS_REGULARISED:g} by the regulariser alone.",
        "",
        "| model | training set | " + " | ".join(f"ν = {order}" for order in orders) + " |",
        "|---|---|" + "---:|" * len(orders),
    ]
    for model, name in _rows(seeds):
        cells = []
        for order in orders:
            cpr = np.mean([each["models"][model][name]["cpr"][order] for each in seeds])
            less = np.mean([each["models"][model][name]["cpr_less_regularised"][order] for each in seeds])
            cells.append(f"{cpr:.1e} ({cpr / less:.3g})")
        lines.append(f"| {model} | {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "RMSE in meV an atom, mean over seeds (least to greatest); "
        f"the test energies have a std of {mean_and_range([1e3 * each['test_std'] for each in seeds], '.0f')}.",
        "",
        "| model | training set | test pentamers | dimer curve | dimer curve, ν = 1 alone |",
        "|---|---|---:|---:|---:|",
    ]
    for model, name in _rows(seeds):
        cells = [
            mean_and_range([1e3 * each["models"][model][name][key] for each in seeds], ".1f")
            for key in ("test_rmse", "curve_total_rmse", "curve_pairs_rmse")
        ]
        lines.append(f"| {model} | {name} | {' | '.join(cells)} |")
    machines = sorted({f"Measured on: {each['environment']}" for each in seeds})
    return "\n".join([*lines, "", *machines]) + "\n"


def _rows(seeds: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(model, name) for model, sets in seeds[0]["models"].items() for name in sets]


def draw(results: Mapping[str, Any], path: Path) -> None:
    """The figure: rigidities, and the dimer curve by all components and by the first."""
    seeds, distances = results["seeds"], np.array(results["distances"])
    figure, axes = plt.subplots(2, 3, figsize=(9.4, 5.4), layout="constrained", sharex="col", sharey="col")
    for row, (model, sets) in zip(axes, seeds[0]["models"].items(), strict=True):
        for k, name in enumerate(sets):
            style = {"color": f"C{k}", "label": name}
            of_set = [each["models"][model][name] for each in seeds]
            cpr = np.array([list(each["cpr"].values()) for each in of_set])
            orders = np.arange(1, cpr.shape[1] + 1)
            mean = cpr.mean(axis=0)
            spread = np.maximum([mean - cpr.min(axis=0), cpr.max(axis=0) - mean], 0)  # rounding
            row[0].errorbar(orders + 0.06 * (k - 1.5), mean, spread, **style, marker="o", ms=4, capsize=2)
            for axis, key in ((row[1], "curve_total"), (row[2], "curve_pairs")):
                for number, each in enumerate(of_set):
                    axis.plot(distances, each[key], color=f"C{k}", lw=0.9, label=name if number == 0 else None)
        for axis in row[1:]:
            axis.plot(distances, results["reference"], "k--", lw=1.2, label="GFN2-xTB")
        row[0].set(yscale="log", xticks=orders, ylabel=f"{model}\n\nCPR of pentamers / eV$^{{-2}}$")
        row[1].set_ylabel("energy / (eV/atom)")
        row[2].set_ylabel("energy / (eV/atom)")
    low = min(results["reference"])
    for axis in axes[:, 1:].flat:
        axis.set_ylim(low - 0.6, 1.2)
    axes[0, 0].legend(fontsize=8)
    axes[0, 1].legend(fontsize=8, loc="lower right")
    axes[0, 1].set_title("dimer, all components", fontsize=10)
    axes[0, 2].set_title("dimer, ν = 1 alone", fontsize=10)
    axes[0, 0].set_title("rigidity by correlation order", fontsize=10)
    axes[1, 0].set_xlabel("correlation order ν")
    for axis in axes[1, 1:]:
        axis.set_xlabel("distance / Å")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def write_all(results: Mapping[str, Any], out: Path) -> str:
    """Table and figure from the results."""
    text = table(results)
    write_text_atomic(out / "table.md", text)
    draw(results, out / "body_order-cpr.png")
    return text


def run(seeds: Sequence[int], setting: Setting, out: Path) -> str:
    """Every seed, then ``results.json``, the table and the figure."""
    out.mkdir(parents=True, exist_ok=True)
    of_seeds = [run_seed(seed, setting, out) for seed in tqdm(seeds, desc="seeds", unit="seed", delay=5, disable=None)]
    curve = finished(out / "dimer-curve.json", {"distances": silicon_clusters.DIMER_GRID.tolist()}, dimer_curve)
    results = {"distances": curve["distances"], "reference": curve["energy"], "seeds": of_seeds}
    write_text_atomic(out / "results.json", to_json(results))
    return write_all(results, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    default = Setting()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--alpha", type=float, default=default.alpha, help="regulariser")
    parser.add_argument("--train", type=int, default=default.num_train, help="training clusters")
    parser.add_argument("--replace", type=int, default=default.num_replaced, help="pentamers replaced by each n-mer")
    parser.add_argument("--test", type=int, default=default.num_test, help="test pentamers")
    parser.add_argument("--degrees", type=int, nargs="+", default=default.degrees, help="total degree of each order")
    parser.add_argument("--out", type=Path, default=Path("runs/rigidity-body_order"))
    parser.add_argument("--table-only", action="store_true", help="table and figure again, from --out")
    options = parser.parse_args(arguments)
    if options.table_only:
        print(write_all(read_results(options.out), options.out))
        return
    setting = Setting(options.alpha, options.train, options.replace, options.test, tuple(options.degrees))
    check(setting)
    print(run(options.seeds, setting, options.out))


def check(setting: Setting) -> None:
    """Refuse what cannot work, before any work.

    Raises:
        InputError: tblite is missing, or a size or order does not fit.
    """
    if setting.num_train <= 3 * setting.num_replaced:
        raise bnn_jax.InputError("--train must be more than three times --replace, so that pentamers are left.")
    if min(setting.num_replaced, setting.num_test) < 1 or not 1 <= len(setting.degrees) <= 4:
        raise bnn_jax.InputError("--replace and --test must be at least 1, and --degrees one to four numbers.")
    xtb.check_installed()


if __name__ == "__main__":
    run_command(main)
