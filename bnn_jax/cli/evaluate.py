"""``bnn-jax evaluate``: figures of merit of a finished run on labelled structures."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bnn_jax.atoms.sources import load
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.cli.commands import Evaluate
from bnn_jax.methods import Posterior
from bnn_jax.report import assess, score_table, scores_to_json


def run(command: Evaluate) -> None:
    """Evaluate, print the table, write what was asked for.

    Raises:
        InputError: the run, the structures or the folder to write into cannot be used.
    """
    posterior = Posterior.load(command.run)
    test = load(command.test, require_labels=True, **given(asdict(command.labels)))
    scores = assess(posterior, test, plots=None if command.plots is None else Path(command.plots))
    if command.json is not None:
        write_text_atomic(command.json, scores_to_json(scores))
    print(score_table(scores))


def given(options: Mapping[str, str | bool | None]) -> dict[str, Any]:
    """The options that have a value."""
    return {name: value for name, value in options.items() if value is not None}
