"""``bnn-jax neb``: two minima in, the path between them and its barrier with an error bar out."""

import io

import ase
import ase.io

from bnn_jax.atoms.sources import load
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.cli.commands import Neb
from bnn_jax.cli.predict import checked_output, predicted_structures
from bnn_jax.methods import load_predictor
from bnn_jax.properties import barrier
from bnn_jax.report import beyond_note, save
from bnn_jax.report.property_plots import barrier_plot
from bnn_jax.types import InputError


def run(command: Neb) -> None:
    """Find the path, write it, draw it.

    Raises:
        InputError: the run or the ends cannot be used, no path is found, or OUT exists or cannot be written.
    """
    out = checked_output(command.out, command.overwrite)
    picture = checked_output(str(out.with_suffix(".png")), command.overwrite)
    start, end = (_one(name) for name in (command.start, command.end))
    predictor = load_predictor(command.run)
    found = barrier(predictor, start, end, command.images, command.max_force, each=command.each)
    structures = load(found.images, use_labels=False)
    text = io.StringIO()
    predictive = predictor.predict(structures)
    ase.io.write(text, predicted_structures(structures, predictive), format="extxyz")
    write_text_atomic(out, text.getvalue())
    save(barrier_plot(found), picture)
    for name, height in (("forward", found.forward), ("reverse", found.reverse)):
        print(f"{name} barrier {height.mean:.4f} ± {height.std:.4f} eV (std over {len(height.draws)} samples)")
    print(f"{out}: {len(found.images)} images; {picture}: the path with its band.")
    beyond = predictive.structures_beyond_validated
    if beyond is not None and (note := beyond_note(int(beyond.sum()), len(beyond))):
        print(note)


def _one(name: str) -> ase.Atoms:
    found = load(name, use_labels=False)
    if len(found) != 1:
        raise InputError(f"{name} has {len(found)} structures; an end is one: name it as {name}@0.")
    return found.to_atoms()[0]
