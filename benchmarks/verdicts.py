"""Does the verdict tell the truth? Many short fits, good and bad, each judged by test sets that the verdict never saw.

From the repository's root, with a folder of labelled files as ``shared/data`` has them::

    python -m benchmarks.verdicts --data FOLDER --out verdicts.jsonl

A case draws a data set, its size, the length of the chains, their number and, in every other one, a fault: steps far
too large; no noise, on so few data and for so long that the network knows them by heart; a hundred times too much
noise; wrong labels of a tenth of the structures; training and validation sets from the half of lowest energy, of a test
set from all; validation structures that were trained on. Two runs of other seeds are made of it. On 200 test
structures, less what a prediction says to be beyond the validated range, a run *fails* if errors are larger than their
error bars say (``TRUTH``); it is *sound* if it does not, its stds are of use, the other run says the same of forces and
energies, and its validation structures were not trained on. Bounds are chosen on every other case and reported on the
rest. What is done is kept in the file, and a campaign that was stopped goes on.
"""

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.timing import environment
from bnn_jax import Config, Dataset, Posterior, fit, load
from bnn_jax.methods.sghmc import DivergenceError
from bnn_jax.types import Predictive
from bnn_jax.verdict.bounds import Bounds
from bnn_jax.verdict.calibrated import judge_calibration
from bnn_jax.verdict.reproducible import judge_reproducibility

FILES = {
    "ethanol": "rmd17/ethanol/train.xyz.gz",
    "benzene": "rmd17/benzene/train.xyz.gz",
    "uracil": "rmd17/uracil/train.xyz.gz",
    "ethanol, CCSD(T)": "ethanol_ccsdt/train.xyz.gz",
    "3BPA": "3bpa/train_300K.xyz.gz",
}
SHARES = (0.25, 0.2, 0.25, 0.2, 0.1)  # the last is by far the largest molecule
FAULTS = (
    "large steps",
    "no noise",
    "too much noise",
    "wrong forces",
    "wrong energies",
    "narrow labels",
    "known validation",
)
NUM_TEST, SEEDS = 200, (0, 1)
NUM_MIXED = 32
"""Cases with and without faults; those that follow all have the one that makes error bars too small."""
TRUTH = Bounds(factor=1.5, part_factor=2.0, width=4.0, misses=0.15, shift=1.0, std_factor=1.5)
"""What a run must keep on the test set, whatever bounds its verdict has."""
CALIBRATED = [
    Bounds(factor=factor, part_factor=part_factor, width=width, misses=misses)
    for factor, part_factor, width, misses in itertools.product(
        (1.2, 1.5, 2.0), (1.5, 2.0, 3.0), (4.0, 8.0), (0.10, 0.15, 0.20)
    )
]
REPRODUCIBLE = [
    Bounds(shift=shift, std_factor=std_factor)
    for shift, std_factor in itertools.product((0.6, 0.8, 1.0, 1.4), (1.3, 1.5, 2.0))
]


def case(number: int) -> dict[str, Any]:
    """What the case of a number is."""
    rng = np.random.default_rng([7, number])
    drawn = {
        "case": number,
        "data": str(rng.choice(list(FILES), p=SHARES)),
        "num_train": int(rng.choice([25, 80, 250])),
        "num_valid": int(rng.choice([6, 20, 40])),
        "num_chains": int(rng.choice([2, 4, 8], p=[0.3, 0.4, 0.3])),
        "num_samples": int(rng.choice([1, 2, 4])),
        "convergence_steps": int(rng.choice([300, 1500, 5000], p=[0.25, 0.35, 0.4])),
        "fault": str(rng.choice(FAULTS)) if rng.random() < 0.5 else None,
    }
    if number >= NUM_MIXED:
        drawn["fault"] = "no noise"
    few_for_long = {"num_train": 25, "convergence_steps": 15_000}
    return drawn | (few_for_long if drawn["fault"] == "no noise" else {})


def config_of(settings: Mapping[str, Any]) -> Config:
    """The preset ``quick`` with what the case says."""
    config = Config.preset("quick")
    changes = {name: settings[name] for name in ("num_chains", "num_samples", "convergence_steps")}
    changes |= {"cycle_steps": max(50, settings["convergence_steps"] // 10), "log_every": 100}
    changes |= {
        "large steps": {"cycle_step_size": 5e-2, "step_size_first": 0.1, "step_size_last": 5e-2},
        "no noise": {"temperature": 0.0},
        "too much noise": {"temperature": 100.0},
    }.get(settings["fault"], {})
    return dataclasses.replace(config, sampler=dataclasses.replace(config.sampler, **changes))


def spoilt(data: Dataset, fault: str | None, seed: int) -> Dataset:
    """With wrong labels of a tenth of the structures."""
    rng = np.random.default_rng([8, seed])
    chosen = rng.random(len(data)) < 0.1
    if fault == "wrong forces":
        noise = np.where(chosen[data.structure_index][:, None], rng.normal(size=data.forces.shape), 0.0)
        return dataclasses.replace(data, forces=data.forces + noise)
    if fault == "wrong energies":
        return dataclasses.replace(data, energy=data.energy + np.where(chosen, 0.5 * rng.normal(size=len(data)), 0.0))
    return data


def parts(settings: Mapping[str, Any], folder: Path) -> tuple[Dataset, Dataset, Dataset]:
    """Training, validation and test set, the first two with the faults of the case."""
    data = load(folder / FILES[settings["data"]])
    test, rest = data.split(train=NUM_TEST, valid=len(data) - NUM_TEST, seed=settings["case"])
    if settings["fault"] == "narrow labels":
        rest = rest.take(np.argsort(rest.energy)[: len(rest) // 2])
    train, valid = rest.split(train=settings["num_train"], valid=settings["num_valid"], seed=settings["case"])
    if settings["fault"] == "known validation":
        train = Dataset.concatenate([train.take(np.arange(len(valid), len(train))), valid])
    return spoilt(train, settings["fault"], 0), spoilt(valid, settings["fault"], 1), test


def figures(predictive: Predictive, test: Dataset) -> dict[str, float]:
    """Of the test set: z-scores and shares of misses within the validated range, and on all as ``forces_z_all``."""
    atoms, structures = predictive.beyond_validated, predictive.structures_beyond_validated
    assert atoms is not None and structures is not None
    within = dataclasses.replace(
        test,
        forces=np.where(atoms[:, None], np.nan, test.forces),
        energy=np.where(structures, np.nan, test.energy),
    )
    found = judge_calibration(predictive, within).figures
    return {
        f"{name}_{key}": value
        for name in ("energies", "forces")
        for key, value in (
            ("z", found.get(f"{name}_rms_z", np.nan)),
            ("misses", 1 - found.get(f"{name}_coverage_95", np.nan)),
        )
    } | {
        "share_beyond": float(structures.mean()),
        "forces_z_all": judge_calibration(predictive, test).figures["forces_rms_z"],
    }


def run(settings: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The two runs of a case, a row each."""
    train, valid, test = parts(settings, folder)
    rows, tests = [], []
    for seed in SEEDS:
        start = time.perf_counter()
        row: dict[str, Any] = {**settings, "seed": seed}
        try:
            posterior = fit(train, valid, config_of(settings), seed, progress=False, checked=True)
        except DivergenceError as error:
            rows.append(row | {"diverged": str(error)[:100], "trusted": False})
            continue
        tests.append((len(rows), posterior.predict(test)))
        rows.append(row | judged(posterior, valid) | figures(tests[-1][1], test))
        rows[-1]["seconds"] = time.perf_counter() - start
    if len(tests) == len(SEEDS):
        (first, one), (second, other) = tests
        pair = apart("forces", one.forces - other.forces, one.forces_std, other.forces_std)
        pair |= apart("energies", one.energy - other.energy, one.energy_std, other.energy_std)
        rows[first] |= pair
        rows[second] |= pair
    return rows


def apart(name: str, difference: np.ndarray, std: np.ndarray, other_std: np.ndarray) -> dict[str, float]:
    """How far two runs are apart: root mean square of their means' difference over stds, median factor of stds."""
    return {
        f"{name}_shift": float(np.sqrt(np.mean(2 * difference**2 / (std**2 + other_std**2)))),
        f"{name}_factor": float(np.exp(np.median(np.abs(np.log(std / other_std))))),
    }


def judged(posterior: Posterior, valid: Dataset) -> dict[str, Any]:
    """What the verdict says, with its own bounds and with those of the grids."""
    predictive = posterior.predict(valid)
    labels = posterior.statistics.labels
    verdict = posterior.verdict
    assert verdict is not None
    repeats = [judge_reproducibility(predictive, posterior.num_chains, labels, bounds) for bounds in REPRODUCIBLE]
    return {
        "trusted": verdict.is_trusted,
        "mixed": verdict.mixed.holds,
        "sentence": verdict.sentence[:300],
        "calibrated": [bool(judge_calibration(predictive, valid, bounds).holds) for bounds in CALIBRATED],
        "reproducible": [bool(each.holds) for each in repeats],
        "figures": verdict.calibrated.figures | verdict.reproducible.figures,
    }


def trusted_by(row: Mapping[str, Any], bounds: tuple[int, int]) -> bool:
    """Whether bounds of the two grids trust a run."""
    calibrated, reproducible = bounds
    return "diverged" not in row and row["calibrated"][calibrated] and row["reproducible"][reproducible]


def fails(row: Mapping[str, Any]) -> bool:
    """Whether errors of the test set are larger than their error bars say."""
    if "diverged" in row:
        return True
    forces = row["forces_z"] > TRUTH.factor or row["forces_misses"] > TRUTH.misses
    return bool(forces or row["energies_z"] > TRUTH.part_factor or row["energies_misses"] > TRUTH.misses)


def is_sound(row: Mapping[str, Any]) -> bool:
    """Whether the run deserves trust: error bars that hold, that are of use, and that the other run gives too."""
    if fails(row) or "forces_shift" not in row or row["fault"] == "known validation":
        return False
    of_use = min(row["forces_z"], row["energies_z"]) >= 1 / TRUTH.width
    shift, factor = (max(row[f"{name}_{what}"] for name in ("forces", "energies")) for what in ("shift", "factor"))
    return bool(of_use and shift <= TRUTH.shift and factor <= TRUTH.std_factor)


def shares(rows: Sequence[Mapping[str, Any]], trusted: Sequence[bool]) -> dict[str, tuple[int, int]]:
    """Failing ones among the trusted, and refused ones among the sound, each with the number that it is of."""
    pairs = list(zip(rows, trusted, strict=True))
    return {
        "trusted runs that fail": (sum(fails(row) for row, yes in pairs if yes), sum(trusted)),
        "sound runs that are refused": (sum(not yes for row, yes in pairs if is_sound(row)), sum(map(is_sound, rows))),
    }


def chosen_bounds(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Of the two grids, those with the fewest mistakes of both kinds, a failing trusted run counting three times."""

    def mistakes(bounds: tuple[int, int]) -> float:
        found = shares(rows, [trusted_by(row, bounds) for row in rows])
        weights = {"trusted runs that fail": 3.0, "sound runs that are refused": 1.0}
        return sum(weights[name] * count / max(number, 1) for name, (count, number) in found.items())

    return min(itertools.product(range(len(CALIBRATED)), range(len(REPRODUCIBLE))), key=mistakes)


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: shares with the bounds as they are and with those chosen on every other case, and the worst misses."""
    halves = [[row for row in rows if row["case"] % 2 == half] for half in (0, 1)]
    best = chosen_bounds(halves[0])
    calibrated, reproducible = CALIBRATED[best[0]], REPRODUCIBLE[best[1]]
    chosen = calibrated._replace(shift=reproducible.shift, std_factor=reproducible.std_factor)
    lines = [
        f"{len(rows)} runs of {len({row['case'] for row in rows})} cases; sound {sum(map(is_sound, rows))}, failing"
        f" {sum(map(fails, rows))}, diverged {sum('diverged' in row for row in rows)}, trusted"
        f" {sum(row['trusted'] for row in rows)}.",
        "",
        "| bounds | runs | trusted runs that fail | sound runs that are refused |",
        "|---|---|---|---|",
    ]
    settings = [("as they are", rows, [row["trusted"] for row in rows])]
    settings += [(f"chosen: {chosen}", half, [trusted_by(row, best) for row in half]) for half in halves]
    for (name, some, trusted), which in zip(settings, ("all", "chosen on", "reported on"), strict=True):
        cells = [f"{count} of {number}" for count, number in shares(some, trusted).values()]
        lines.append(f"| {name} | {len(some)}, {which} | {' | '.join(cells)} |")
    wrong = [row for row in rows if row["trusted"] and fails(row)]
    wrong += [row for row in rows if not row["trusted"] and is_sound(row)]
    lines += ["", *(f"- {_told(row)}" for row in wrong)]
    return "\n".join(lines)


def _told(row: Mapping[str, Any]) -> str:
    what = "fails and is trusted" if row["trusted"] else "is sound and refused"
    numbers = ", ".join(
        f"{name} {row[name]:.2f}"
        for name in (
            *("forces_z", "forces_misses", "energies_z", "energies_misses"),
            *("forces_shift", "forces_factor", "energies_shift", "energies_factor"),
        )
        if name in row
    )
    return (
        f"case {row['case']}, seed {row['seed']} {what}: {row['data']}, {row['num_train']} + {row['num_valid']},"
        f" {row['num_chains']} chains of {row['convergence_steps']} steps, fault {row['fault']}; {numbers}."
        f" {row.get('sentence', '')[:160]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Share of trusted runs that fail, and of sound runs that are refused.")
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled files")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, to be continued")
    parser.add_argument("--cases", type=int, default=40)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {row["case"] for row in rows}
    for number in tqdm([number for number in range(options.cases) if number not in done]):
        found = run(case(number), options.data)
        with options.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in found)
        rows += found
    print(report(rows))
    print("\n" + environment())


if __name__ == "__main__":
    main()
