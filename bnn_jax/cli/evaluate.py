"""``bnn-jax evaluate``: figures of merit of a finished run on labelled structures."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bnn_jax.atoms.sources import families, load
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.cli.commands import Evaluate
from bnn_jax.evaluation import check_shared_structures
from bnn_jax.methods import Posterior
from bnn_jax.report import assess, beyond_note, family_table, score_table, scores_to_json
from bnn_jax.types import InputError


def run(command: Evaluate) -> None:
    """Evaluate, print the table, write what was asked for.

    Raises:
        InputError: the run, the structures or the folder to write into cannot be used.
    """
    for flag, path in (("--json", command.json), ("--plots", command.plots)):
        if path is not None:
            _check_writable(flag, path)
    posterior = Posterior.load(command.run)
    test = load(command.test, require_labels=True, **given(asdict(command.labels)))
    check_shared_structures(posterior, test)
    named = None if command.families is None else families(command.test, command.families)
    scores = assess(posterior, test, None if command.plots is None else Path(command.plots), named)
    if command.json is not None:
        write_text_atomic(command.json, scores_to_json(scores))
    print(score_table(scores))
    if named is not None:
        print(f"\n{family_table(scores['families'])}")
    if note := beyond_note(int(scores.get("num_beyond_validated", 0)), len(test), scores):
        print(note)
    if posterior.verdict is not None and not posterior.verdict.is_trusted:
        print(f"Verdict of the run: {posterior.verdict.sentence}")


def _check_writable(flag: str, path: str) -> None:
    """Before the work rather than after it."""
    folder = os.path.dirname(path) or "."
    if flag == "--json" and os.path.isdir(path):
        raise InputError(f"{flag} {path} is a folder; name a file.")
    if flag == "--json" and not os.path.isdir(folder):
        raise InputError(f"{flag}: there is no folder {folder}; make it or choose another.")
    if flag == "--plots" and os.path.exists(path) and not os.path.isdir(path):
        raise InputError(f"{flag} {path} is a file; name a folder.")


def given(options: Mapping[str, str | bool | None]) -> dict[str, Any]:
    """The options that have a value."""
    return {name: value for name, value in options.items() if value is not None}
