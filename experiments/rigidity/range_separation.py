"""Rigidities of short- and long-range components on water dimers, after fig. 7 of Chong et al. (2024).

From the repository's root::

    python experiments/rigidity/range_separation.py

A killed run continues when it is started again; what is finished is not computed twice.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import component_model
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import multi_length_scale
import numpy as np
import water_dimers
import xtb
from jaxtyping import Float
from pieces import environment, finished, mean_and_range, read_results, run_command
from tqdm import tqdm

import bnn_jax
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.report import to_json

Array = np.ndarray

SHORT, LONG = "short range", "long range"
SLICES = {
    SHORT: slice(0, multi_length_scale.NUM_SHORT),
    LONG: slice(multi_length_scale.NUM_SHORT, multi_length_scale.NUM_SHORT + multi_length_scale.NUM_LONG),
}
MODELS = {
    "all atoms": multi_length_scale.lode,
    "range-separated": multi_length_scale.range_separated_lode,
    "separated in real space": multi_length_scale.approximately_separated_lode,
}
"""What the long-range features see; the last as in the published code."""
DRAWN = ("all atoms", "range-separated")
ORDERS = ("random", "nearest first")
"""Of the training dimers as their number grows; the published code has them nearest first."""


class Setting(NamedTuple):
    """What a result follows from, beside the seed."""

    alpha: float = 1e-11
    """Added to the diagonal of the Hessian, as in the published code."""
    exponent: int = 3
    """Of the potential of LODE, as in the published code."""
    sizes: tuple[int, ...] = (5, 10, 20, 50, 100)
    """Of the training sets, which are nested."""
    num_test: int = 100
    """Dimers, and monomers."""


def evaluate(
    train: Float[Array, "structure feature"],
    train_energy: Float[Array, " structure"],
    test: Mapping[str, Float[Array, "_structure feature"]],
    test_energy: Mapping[str, Float[Array, " _structure"]],
    setting: Setting,
) -> dict[str, Any]:
    """Rigidities of test dimers and errors of dimers and monomers, by size of the training set.

    Args:
        train: features of the training dimers, in the order in which they are taken.
        train_energy: in eV an atom.
        test: features of ``dimers``, and of ``monomers`` in two boxes.
        test_energy: of dimers and monomers, in eV an atom.
        setting: sizes and regulariser.
    """
    results = {}
    for size in setting.sizes:
        rows, targets = train[:size], train_energy[:size]
        model = component_model.fit(rows, targets, setting.alpha, SLICES, offset=float(targets.mean()))
        monomers = model.energies(test["monomers"])
        results[str(size)] = {
            "cpr": {name: float(cpr.mean()) for name, cpr in model.component_rigidities(test["dimers"]).items()},
            "dimer_rmse": component_model.rmse(model.energies(test["dimers"]) - test_energy["dimers"]),
            "monomer_rmse": component_model.rmse(monomers - test_energy["monomers"]),
            "monomer_other_box_rmse": component_model.rmse(
                model.energies(test["monomers, other box"]) - test_energy["monomers"]
            ),
            "monomer_predicted": monomers.tolist(),
        }
    return results


def run_seed(seed: int, setting: Setting, out: Path) -> dict[str, Any]:
    """Labels and results of one seed, each kept in a file of its own.

    Raises:
        InputError: the folder holds results of another setting.
    """
    num_train = max(setting.sizes)
    counts = {"num_dimers": num_train + setting.num_test, "num_monomers": setting.num_test}
    water = finished(
        out / f"water-{seed}.json", {"seed": seed, **counts}, lambda: water_dimers.labelled(seed, **counts)
    )

    def compute() -> dict[str, Any]:
        start = time.perf_counter()
        shortest = np.array(water["shortest"][:num_train])
        energy = {name: np.array(water[name]["energy"]) for name in ("dimers", "monomers")}
        systems = {name: water_dimers.structures(water[name]["positions"]) for name in energy}
        other = water_dimers.structures(water["monomers"]["positions"], water_dimers.OTHER_BOX)
        every = systems["dimers"] + systems["monomers"] + other
        short = multi_length_scale.short_range(every)
        models: dict[str, Any] = {}
        for name, expand in MODELS.items():
            long = multi_length_scale.long_range(expand(every, setting.exponent), every)
            features = np.concatenate([short, long], axis=1)
            ends = np.cumsum([num_train, setting.num_test, setting.num_test])
            train, of_dimers, of_monomers, of_other = np.split(features, ends)
            test = {"dimers": of_dimers, "monomers": of_monomers, "monomers, other box": of_other}
            test_energy = {"dimers": energy["dimers"][num_train:], "monomers": energy["monomers"]}
            models[name] = {
                "largest_long_range_of_monomers": float(np.abs(long[counts["num_dimers"] :]).max()),
                **{
                    order: evaluate(train[taken], energy["dimers"][:num_train][taken], test, test_energy, setting)
                    for order, taken in zip(ORDERS, (slice(None), np.argsort(shortest)), strict=True)
                },
            }
        return {
            "models": models,
            "monomer_energy": energy["monomers"].tolist(),
            "seconds_without_labels": time.perf_counter() - start,
            "environment": environment(),
        }

    return finished(out / f"seed-{seed}.json", {"seed": seed, "setting": setting._asdict()}, compute)


def table(results: Mapping[str, Any]) -> str:
    """Means over seeds, with the least and greatest, as Markdown."""
    seeds = results["seeds"]
    setting = seeds[0]["setting"]
    spread = mean_and_range([1e3 * float(np.std(each["monomer_energy"])) for each in seeds], ".1f")
    lines = [
        f"{len(seeds)} seeds, LODE exponent {setting['exponent']}, alpha {setting['alpha']:g}; {setting['num_test']}"
        f" test dimers and as many monomers, whose energies have a std of {spread} meV an atom. Means over the seeds"
        " (least to greatest); CPR in 1/eV², RMSE in meV an atom.",
        "",
        "| LODE of | training dimers | number | CPR short range | CPR long range | dimer RMSE | monomer RMSE |"
        f" the same, box of {water_dimers.OTHER_BOX:g} Å |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in seeds[0]["models"]:
        for order in ORDERS:
            for size in map(str, setting["sizes"]):
                of_size = [each["models"][name][order][size] for each in seeds]
                cells = [mean_and_range([each["cpr"][part] for each in of_size], ".1e") for part in SLICES]
                cells += [
                    mean_and_range([1e3 * each[key] for each in of_size], ".2f")
                    for key in ("dimer_rmse", "monomer_rmse", "monomer_other_box_rmse")
                ]
                lines.append(f"| {name} | {order} | {size} | {' | '.join(cells)} |")
    machines = sorted({f"Measured on: {each['environment']}" for each in seeds})
    return "\n".join([*lines, "", *machines]) + "\n"


def draw(results: Mapping[str, Any], path: Path) -> None:
    """The figure: rigidities by size of the training set, and predicted monomers of the first seed."""
    seeds = results["seeds"]
    sizes = seeds[0]["setting"]["sizes"]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
    for k, name in enumerate(DRAWN):
        for order, width in zip(ORDERS, (1.6, 0.8), strict=True):
            for part, line, marker in ((SHORT, "-", "o"), (LONG, "--", "s")):
                cpr = np.array([[each["models"][name][order][str(n)]["cpr"][part] for n in sizes] for each in seeds])
                label = f"{name}, {part}" if order == ORDERS[0] else None
                axes[0].plot(
                    sizes, cpr.mean(axis=0), f"{line}{marker}", color=f"C{k}", lw=width, ms=2.5 * width, label=label
                )
                if order == ORDERS[0]:
                    axes[0].fill_between(sizes, cpr.min(axis=0), cpr.max(axis=0), color=f"C{k}", alpha=0.15, lw=0)
    axes[0].set(
        xscale="log", yscale="log", xticks=sizes, xlabel="training dimers", ylabel="mean CPR of dimers / eV$^{-2}$"
    )
    axes[0].set_xticks([], minor=True)
    axes[0].set_xticklabels(sizes)
    axes[0].set_title("thick: random order, thin: nearest first", fontsize=10)
    axes[0].legend(fontsize=7, loc="lower right", bbox_to_anchor=(1.0, 0.27))
    reference = np.array(seeds[0]["monomer_energy"])
    zero = reference.mean()
    limits = 1e3 * np.array([reference.min() - zero, reference.max() - zero])
    limits += 0.2 * np.ptp(limits) * np.array([-1, 1])
    for axis, name in zip(axes[1:], DRAWN, strict=True):
        for k, size in enumerate(sizes):
            of_size = seeds[0]["models"][name][ORDERS[0]][str(size)]
            axis.plot(
                1e3 * (reference - zero),
                1e3 * (np.array(of_size["monomer_predicted"]) - zero),
                ".",
                color=plt.get_cmap("viridis")(k / max(len(sizes) - 1, 1)),
                ms=4,
                label=f"{size}: RMSE {1e3 * of_size['monomer_rmse']:.1f}",
            )
        axis.plot(limits, limits, "k-", lw=0.8)
        axis.set(xlim=limits, ylim=limits, xlabel="GFN2-xTB / (meV/atom)", ylabel="predicted / (meV/atom)")
        axis.set_title(f"monomers, {name}, seed {seeds[0]['seed']}", fontsize=10)
        axis.legend(fontsize=7, title="training dimers", title_fontsize=7)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def write_all(results: Mapping[str, Any], out: Path) -> str:
    """Table and figure from the results."""
    text = table(results)
    write_text_atomic(out / "table.md", text)
    draw(results, out / "range_separation-cpr.png")
    return text


def run(seeds: Sequence[int], setting: Setting, out: Path) -> str:
    """Every seed, then ``results.json``, the table and the figure."""
    out.mkdir(parents=True, exist_ok=True)
    of_seeds = [run_seed(seed, setting, out) for seed in tqdm(seeds, desc="seeds", unit="seed", delay=5, disable=None)]
    results = {"seeds": of_seeds}
    write_text_atomic(out / "results.json", to_json(results))
    return write_all(results, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    default = Setting()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--alpha", type=float, default=default.alpha, help="regulariser")
    parser.add_argument("--exponent", type=int, default=default.exponent, help="of the potential of LODE")
    parser.add_argument("--sizes", type=int, nargs="+", default=default.sizes, help="of the training sets")
    parser.add_argument("--test", type=int, default=default.num_test, help="test dimers, and monomers")
    parser.add_argument("--out", type=Path, default=Path("runs/rigidity-range_separation"))
    parser.add_argument("--table-only", action="store_true", help="table and figure again, from --out")
    options = parser.parse_args(arguments)
    if options.table_only:
        print(write_all(read_results(options.out), options.out))
        return
    setting = Setting(options.alpha, options.exponent, tuple(sorted(options.sizes)), options.test)
    check(setting)
    print(run(options.seeds, setting, options.out))


def check(setting: Setting) -> None:
    """Refuse what cannot work, before any work.

    Raises:
        InputError: a library is missing, or a size is too small.
    """
    if min(*setting.sizes, setting.num_test, setting.exponent) < 1:
        raise bnn_jax.InputError("--sizes, --test and --exponent must be at least 1.")
    multi_length_scale.check_installed()
    xtb.check_installed()


if __name__ == "__main__":
    run_command(main)
