"""``bnn-jax fit``: check everything, sample, and report."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bnn_jax import api
from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.parts import check_parts
from bnn_jax.atoms.sources import load
from bnn_jax.cli.commands import Fit
from bnn_jax.cli.evaluate import given
from bnn_jax.cli.options import DEFAULT_VALID, METADATA_KEY, Settled, settle
from bnn_jax.devices import is_first, wait_for_all
from bnn_jax.methods import Posterior
from bnn_jax.methods.base import POSTERIOR_FILE
from bnn_jax.methods.recorder import losses_explained
from bnn_jax.report import beyond_note, score_table, write_run_report
from bnn_jax.sampling.diagnostics import MIN_DRAWS
from bnn_jax.types import Criterion, InputError


class Parts(NamedTuple):
    """The data of a run."""

    train: Dataset
    valid: Dataset | None
    test: Dataset | None


def run(command: Fit) -> Posterior:
    """Sample the posterior, or what is missing of it, and write the report.

    Raises:
        InputError: the data or the options cannot be used, or the run folder is occupied.
        DivergenceError: every chain diverged.
        LostProcessError: another process of the run has ended.
    """
    settled = settle(command)
    parts = read_parts(command.data, settled.data_options, settled.seed)
    others = {name: part for name, part in (("valid", parts.valid), ("test", parts.test)) if part is not None}
    check_parts(parts.train, others, allow_missing_labels=True)  # files with gaps are read with consent only
    out = Path(command.out)
    posterior = _finished(out, settled, command.until is not None)
    if posterior is not None:
        if settled.run is not None and settled.run.record["data_fingerprint"] != parts.train.fingerprint():
            raise InputError(f"{out} was sampled on other training data; give the same data or choose another --out.")
        print(f"{out} has finished; only what is missing of its report is made.")
    else:
        if is_first():
            print(f"{_doing(settled)} {out}: {_sizes(parts)}", flush=True)
        posterior = api.fit(
            parts.train,
            parts.valid,
            settled.config,
            settled.seed,
            out,
            resume=command.resume,
            on_divergence=command.on_divergence,
            devices_per_chain=command.devices_per_chain,
            checked=True,
            minutes=command.minutes,
            until=command.until,
            on_verdict=_print_figures if command.until else lambda _: None,
            metadata={METADATA_KEY: {"data": command.data, **settled.data_options}},
        )
    if is_first():
        report = write_run_report(out, posterior, parts.valid or parts.test, parts.test)
        _print_report(out, report, posterior)
    with losses_explained():
        wait_for_all()  # JAX ends all processes a few seconds after the first of them has left
    return posterior


def read_parts(data: Sequence[str], options: Mapping[str, Any], seed: int) -> Parts:
    """Training, validation and test set.

    Args:
        data: files or names.
        options: ``valid``, ``test``, and what was said of the labels.
        seed: of the split.

    Raises:
        InputError: a set cannot be read, has no labels, or asks for more structures than there are.
    """
    keys = given({name: value for name, value in options.items() if name not in ("valid", "test")})
    train = load(data, require_labels=True, **keys)
    valid_option, test_option = options["valid"], options["test"]
    if valid_option is None:
        valid_option = DEFAULT_VALID if len(train) >= 10 else "0"
    counts = {}
    sets: dict[str, Dataset | None] = {"valid": None, "test": None}
    for name, option in (("valid", valid_option), ("test", test_option)):
        size = None if option is None else _part_size(option, len(train), name)
        if size is None and option is not None:
            sets[name] = load(option, require_labels=True, **keys)
        elif size:
            counts[name] = size
    if counts:
        rest = len(train) - sum(counts.values())
        if rest < 1:
            asked = " and ".join(f"{count} for --{name}" for name, count in counts.items())
            raise InputError(
                f"{' '.join(data)} has {len(train)} structures and {asked} leave none to train on; ask for fewer."
            )
        train, *drawn = train.split(train=rest, **counts, seed=seed)
        sets |= dict(zip(counts, drawn, strict=True))
    return Parts(train, **sets)


def _part_size(option: str, size: int, name: str) -> int | None:
    """Number of structures that an option asks for; None for the path or name of a data set."""
    if os.path.isfile(option):
        return None
    try:
        number = float(option)
    except ValueError:
        return None
    if 0 < number < 1:
        return max(1, int(number * size + 1e-9))
    if number < 0 or not number.is_integer():
        raise InputError(f"--{name} {option} is no fraction below 1, no number of structures and no file; correct it.")
    return int(number)


def _finished(out: Path, settled: Settled, until_trusted: bool) -> Posterior | None:
    """The posterior of the run in the folder, where there is nothing to add to it."""
    if settled.run is None or not (out / POSTERIOR_FILE).exists():
        return None
    posterior = Posterior.load(out)
    is_done = not until_trusted or (posterior.verdict is not None and posterior.verdict.is_trusted)
    return posterior if posterior.config == settled.config and is_done else None


def _print_figures(posterior: Posterior) -> None:
    """The three questions of a verdict, each with its leading figure, in a line."""
    verdict = posterior.verdict
    if verdict is None or not is_first():
        return

    def figure(part: Criterion, name: str) -> str:
        value = part.figures.get(name, float("nan"))
        return "-" if math.isnan(value) else f"{value:.2f}"

    words = {True: "yes", False: "no", None: "unknown"}
    shift, factor = (figure(verdict.reproducible, f"forces_{name}_of_another_run") for name in ("shift", "factor"))
    num_samples = posterior.num_samples // posterior.num_chains
    print(
        f"{posterior.num_chains} chains, {num_samples} samples each:"
        f" calibrated {words[verdict.calibrated.holds]} (rms z of forces"
        f" {figure(verdict.calibrated, 'forces_rms_z')});"
        f" reproducible {words[verdict.reproducible.holds]} (another run's forces by {shift} stds, its stds by a factor"
        f" {factor}); mixed {words[verdict.mixed.holds]} (median R-hat {figure(verdict.mixed, 'rhat_median')}).",
        flush=True,
    )


def _doing(settled: Settled) -> str:
    if settled.run is None:
        return "fitting"
    return "continuing" if settled.run.config == settled.config else "extending"


def _sizes(parts: Parts) -> str:
    return (
        ", ".join(f"{name} {len(part)}" for name, part in parts._asdict().items() if part is not None) + " structures"
    )


def _print_report(out: Path, report: dict[str, dict], posterior: Posterior) -> None:
    found = _numbers(report["diagnostics"])
    if "rhat_median" in found:
        print(
            f"R-hat of {found['num_quantities']} predictions: median {found['rhat_median']:.3f}, largest"
            f" {found['rhat_max']:.3f}; p value of the chains' agreement: {found['agreement_p_value']:.3f}; effective"
            f" sample size: median {found['ess_median']:.1f} of {found['num_samples']}."
        )
    elif posterior.is_sampled:
        per_chain = posterior.num_samples // posterior.num_chains
        print(f"No R-hat: it needs held-out structures and {MIN_DRAWS} samples a chain (there are {per_chain}).")
    if "metrics" in report:
        scores = _numbers(report["metrics"])
        print(score_table(scores))
        if note := beyond_note(int(scores.get("num_beyond_validated", 0)), int(scores["num_structures"]), scores):
            print(note)
    if posterior.verdict is not None:
        print(f"Verdict: {posterior.verdict.sentence}")
    print(f"{out}: {posterior.num_samples} samples in {POSTERIOR_FILE}, plots in {out / 'plots'}.")


def _numbers(entries: dict) -> dict[str, int | float]:
    """What is a number in a JSON file of the report, where null stands for NaN."""
    return {
        key: float("nan") if value is None else value
        for key, value in entries.items()
        if value is None or isinstance(value, int | float)
    }
