"""Error bars beside independent test sets, within the domain of the training set and family by family outside of it.

From the repository's root, with a folder of labelled files as ``shared/data`` has them::

    python -m benchmarks.domains --data FOLDER --out RUNS [--sets ethanol silica] [--minutes 30] [--until trusted]

Each set is fitted for the minutes given, its error bars are recalibrated on its validation set by each method, and
every test family is predicted with each of them, and with stds that grow without bound, as published. Runs are kept in
the folder, and what is done is not done again.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.timing import environment, head, row
from bnn_jax import Config, Dataset, fit, load
from bnn_jax.atoms.sources import families
from bnn_jax.calibration import calibrate
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.config import PresetName, SamplerConfig
from bnn_jax.evaluation import score
from bnn_jax.sampling.schedule import total_steps
from bnn_jax.types import Predictive

NUM_TEST = 200
"""Structures of a test family, at most; drawn with the seed 0."""
CALIBRATIONS = ("variance", "affine")
NINETY = 1.6449
"""Stds that hold 90 % of a normal."""
FIGURES = ("forces_rmse", "forces_mll", "forces_crps", "forces_rms_z", "forces_coverage_68", "forces_coverage_95")


class Family(NamedTuple):
    """Test structures that belong together."""

    file: str
    """Of the folder, or a data set of the package."""
    key: str | None = None
    """Of the entry that parts the file into families; one family where there is none."""


class Domain(NamedTuple):
    """What is trained on, and what is tested."""

    train: tuple[str, ...]
    num_train: int
    num_valid: int
    preset: PresetName
    batch_size: int
    tests: Mapping[str, Family]


DOMAINS = {
    "ammonia": Domain(("ammonia",), 70, 8, "quick", 5, {"bent and stretched": Family("ammonia/test")}),
    "ethanol": Domain(("rmd17/ethanol/train",), 450, 50, "small", 5, {"same trajectory": Family("rmd17/ethanol/test")}),
    "3BPA": Domain(
        ("3bpa/train_300K",),
        450,
        50,
        "small",
        5,
        {
            "300 K": Family("3bpa/test_300K"),
            "600 K": Family("3bpa/test_600K"),
            "1200 K": Family("3bpa/test_1200K_from_mixedT"),
        },
    ),
    "water": Domain(("water_pbe0/train",), 288, 32, "small", 1, {"same liquid": Family("water_pbe0/test")}),
    "silica": Domain(
        ("silica_zeolite/train",),
        540,
        60,
        "quick",
        5,
        {
            "18 frameworks of the training set": Family("silica_zeolite/test"),
            "framework": Family("silica_zeolite/test_unseen_frameworks", "framework"),
        },
    ),
    "carbon": Domain(
        ("carbon_gap17/train_bulk_cryst", "carbon_gap17/train_bulk_amo_20"),
        378,
        42,
        "quick",
        5,
        {
            "dimers": Family("carbon_gap17/train_dimers"),
            "MD at high temperature": Family("carbon_gap17/test_high_T_md"),
            "random spheres": Family("carbon_gap17/test_random_spheres"),
        },
    ),
}


def source(folder: Path, file: str) -> str:
    """A file of the folder, or else a data set that the package knows by that name."""
    path = folder / f"{file}.xyz.gz"
    return str(path) if path.exists() else file


def test_families(domain: Domain, folder: Path) -> dict[str, Dataset]:
    """Every test family of a domain, by name."""
    found = {}
    for name, (file, key) in domain.tests.items():
        path = source(folder, file)
        data = load(path)
        indices = {name: np.arange(len(data))} if key is None else families(path, key)
        rng = np.random.default_rng(0)
        for each, of_family in indices.items():
            found[each] = data.take(np.sort(rng.permutation(of_family)[:NUM_TEST]))
    return found


def figures(predictive: Predictive, test: Dataset) -> dict[str, float]:
    """Of the forces and energies of a test family."""
    found = score(predictive, test, len(predictive.energy_samples))
    z = np.abs(predictive.forces - test.forces) / predictive.forces_std
    kept = {key: value for key, value in found.items() if key.startswith(FIGURES)}
    kept |= {key: found[key] for key in ("energy_rmse", "energy_rms_z", "num_structures", "num_beyond_validated")}
    return kept | {
        "forces_coverage_90": float(np.mean(z <= NINETY)),
        "largest_aleatoric_std": float(predictive.forces_std_aleatoric.max()),
        "largest_error": float(np.abs(predictive.forces - test.forces).max()),
    }


def run(
    name: str, folder: Path, out: Path, minutes: float, until: Literal["trusted"] | None, seed: int
) -> dict[str, Any]:
    """A domain's run and the figures of its families, raw and recalibrated."""
    domain = DOMAINS[name]
    data = load([source(folder, file) for file in domain.train])
    train, valid = data.split(train=domain.num_train, valid=domain.num_valid, seed=seed)
    config = Config.preset(domain.preset)
    config = dataclasses.replace(config, sampler=dataclasses.replace(config.sampler, batch_size=domain.batch_size))
    start = time.perf_counter()
    posterior = fit(
        train, valid, config, seed, out / name, minutes=minutes, until=until, resume=True, allow_missing_labels=True
    )
    seconds = time.perf_counter() - start
    verdict = posterior.verdict
    assert verdict is not None
    on_valid = posterior.predict(valid)
    calibrations = {method: calibrate(on_valid, valid, method) for method in CALIBRATIONS}
    unbounded = dataclasses.replace(posterior.config.model, std_growth="exponential")
    as_published = dataclasses.replace(posterior, config=dataclasses.replace(posterior.config, model=unbounded))

    def versions(test: Dataset) -> dict[str, dict[str, float]]:
        raw = posterior.predict(test)
        found = {"raw": raw} | {method: each(raw, test.numbers) for method, each in calibrations.items()}
        found["exponential"] = as_published.predict(test)
        return {kind: figures(predictive, test) for kind, predictive in found.items()}

    return {
        "set": name,
        "seed": seed,
        "seconds": seconds,
        "config": dataclasses.asdict(posterior.config.sampler),
        "trusted": verdict.is_trusted,
        "sentence": verdict.sentence,
        "parts": {
            part: {"holds": found.holds, "figures": found.figures}
            for part, found in (
                ("calibrated", verdict.calibrated),
                ("reproducible", verdict.reproducible),
                ("mixed", verdict.mixed),
            )
        },
        "families": {family: versions(test) for family, test in test_families(domain, folder).items()},
    }


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: what each verdict says; every family before and after recalibration; how stds grow."""
    intervals = [f"{name}: rms z, in 90 %" for name in ("raw", *CALIBRATIONS)]
    growths = [f"{growth}: MLL, CRPS, largest aleatoric std" for growth in ("bounded", "exponential")]
    tables = (
        _verdicts(rows),
        _by_family(rows, ["structures (beyond)", "forces RMSE, meV/Å", "MLL", *intervals], _intervals),
        _by_family(rows, ["largest error, eV/Å", *growths], _growth),
    )
    return "\n\n".join(tables)


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> str:
    titles = ("set", "chains x samples, steps", "minutes", "trusted", "calibrated", "reproducible", "mixed")
    lines = [head(*titles)]
    for each in rows:
        sampler = SamplerConfig(**each["config"])
        found = {name: part["figures"] for name, part in each["parts"].items()}
        words = {
            name: {True: "yes", False: "no", None: "unknown"}[part["holds"]] for name, part in each["parts"].items()
        }
        shift, factor = (found["reproducible"][f"forces_{key}_of_another_run"] for key in ("shift", "factor"))
        lines.append(
            row(
                each["set"],
                f"{sampler.num_chains} x {sampler.num_samples}, {total_steps(sampler):,}",
                f"{each['seconds'] / 60:.0f}",
                "yes" if each["trusted"] else "no",
                f"{words['calibrated']}: rms z {found['calibrated']['forces_rms_z']:.2f}",
                f"{words['reproducible']}: {shift:.2f} stds, factor {factor:.2f}",
                f"{words['mixed']}: R-hat {found['mixed'].get('rhat_median', np.nan):.2f}",
            )
        )
    return "\n".join(lines)


def _by_family(rows: Sequence[Mapping[str, Any]], titles: Sequence[str], cells: Callable[..., Sequence[str]]) -> str:
    """A table with a line for each set and family; ``cells`` gives what follows from their figures."""
    lines = [head("set", "family", *titles)]
    lines += [row(each["set"], name, *cells(found)) for each in rows for name, found in each["families"].items()]
    return "\n".join(lines)


def _intervals(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    raw = found["raw"]
    return [
        f"{raw['num_structures']:.0f} ({raw['num_beyond_validated']:.0f})",
        f"{1000 * raw['forces_rmse']:.0f}",
        f"{raw['forces_mll']:.2f}",
        *(
            f"{found[kind]['forces_rms_z']:.2f}, {100 * found[kind]['forces_coverage_90']:.0f} %"
            for kind in ("raw", *CALIBRATIONS)
        ),
    ]


def _growth(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [f"{found['raw']['largest_error']:.2g}"] + [
        f"{each['forces_mll']:.2f}, {each['forces_crps']:.3g}, {each['largest_aleatoric_std']:.2g}"
        for each in (found["raw"], found["exponential"])
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Error bars beside independent test sets, in and out of domain.")
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, to be continued")
    parser.add_argument("--sets", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--minutes", type=float, default=30.0, help="of each set")
    parser.add_argument("--until", choices=["trusted"], default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.sets:
        file = options.out / f"{name}.json"
        if not file.exists():
            found = run(name, options.data, options.out, options.minutes, options.until, options.seed)
            write_text_atomic(file, json.dumps(found))
        print(f"{name}: {json.loads(file.read_text())['sentence']}", flush=True)
    print("\n" + report([json.loads((options.out / f"{name}.json").read_text()) for name in options.sets]))
    print("\n" + environment())


if __name__ == "__main__":
    main()
