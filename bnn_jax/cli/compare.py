"""``bnn-jax compare``: every uncertainty method on the user's own data, in one page."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.sources import load
from bnn_jax.cli.commands import Compare
from bnn_jax.cli.evaluate import given
from bnn_jax.cli.fit import Parts, read_parts
from bnn_jax.cli.options import make_config
from bnn_jax.comparison import config_of, summarise
from bnn_jax.comparison import run as run_comparison
from bnn_jax.config import Config
from bnn_jax.methods import names
from bnn_jax.report.comparison_page import comparison_markdown, write_comparison
from bnn_jax.sampling import schedule
from bnn_jax.types import InputError

IN_DOMAIN = "in domain"
README_FIGURES = ("mae", "mll", "cnll", "crps", "spearman", "auroc", "rejection_ratio", "miscalibration_area")


def run(command: Compare) -> None:
    """Fit and measure what is missing, and write the page and the CSV.

    Raises:
        InputError: the data or the options cannot be used, or the folder holds another comparison.
        DivergenceError: every chain or network of a run diverged.
    """
    out = Path(command.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; choose another --out for the folder of the comparison.")
    config = make_config(command.preset, command.config, command.set, None)
    methods = names() if tuple(command.methods) == ("all",) else tuple(command.methods)
    options = {"valid": command.valid, "test": command.in_domain, **dataclasses.asdict(command.labels)}
    parts = read_parts(command.data, {**options, "test": options["test"] or "0.1"}, command.seed)
    if parts.valid is None or parts.test is None:
        raise InputError("A comparison needs a validation set and a test set; give --valid and --in-domain.")
    tests = {IN_DOMAIN: parts.test, **_extra_tests(command)}
    consent = command.labels.allow_missing_labels
    found = run_comparison(
        parts.train, parts.valid, tests, config, methods, command.seeds, out, allow_missing_labels=consent
    )
    results = list(found)
    description = _description(" ".join(command.data), parts, tests, config, methods, command.seeds)
    page, table = write_comparison(out, results, description, list(tests))
    for name in tests:
        print(
            f"\nForce components, {name}:\n\n{comparison_markdown(summarise(results, name, 'forces'), README_FIGURES)}"
        )
    print(f"\n{page} has all figures with their intervals, {table} the numbers.")


def _description(
    data: str, parts: Parts, tests: Mapping[str, Dataset], config: Config, methods: Sequence[str], num_seeds: int
) -> dict[str, str]:
    """What was compared, for the head of the page."""
    model, sampler = config.model, config.sampler
    steps = {
        name: schedule.total_steps(sampler) if name == "sghmc" else config_of(config, name).trainer.num_steps
        for name in methods
    }
    gradients = schedule.total_steps(sampler) * sampler.num_chains
    each = ", ".join(f"{name} {number}" for name, number in steps.items())
    return {
        "data": data,
        "training, validation": f"{len(parts.train)}, {len(parts.valid or ())} structures",
        "test sets": ", ".join(f"{name}: {len(test)} structures" for name, test in tests.items()),
        "network": f"{model.num_blocks} blocks, {model.num_features} features, l_max {model.l_max}",
        "budget of each method": f"{gradients} gradients of {sampler.batch_size} structures, fewer if it stops early",
        "steps of each network or chain": each,
        "seeds": f"0 to {num_seeds - 1}",
    }


def _extra_tests(command: Compare) -> dict[str, Dataset]:
    """``--test NAME=PATH``, or PATH, whose name is then that of the file."""
    tests: dict[str, Dataset] = {}
    for item in command.test:
        name, equals, path = item.partition("=")
        name, path = (name, path) if equals else (Path(item).name.partition(".")[0], item)
        if not name or "/" in name or name == IN_DOMAIN or name in tests:
            raise InputError(f"--test {item}: the name {name!r} is taken or cannot be used; write --test NAME=PATH.")
        tests[name] = load(path, require_labels=True, **given(dataclasses.asdict(command.labels)))
    return tests
