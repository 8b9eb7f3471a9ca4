"""``bnn-jax label``: structures in, the same with the energies and forces of an oracle out."""

import io

import ase.io

from bnn_jax.active import Failure, LabelStore, label, labelled, local_workers, oracle
from bnn_jax.atoms.sources import load
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.cli.commands import Label
from bnn_jax.cli.predict import checked_output
from bnn_jax.types import InputError


def run(command: Label) -> None:
    """Label, write, and say what could not be labelled.

    Raises:
        InputError: the oracle, a structure or an option cannot be used, OUT exists or cannot be written, or nothing
            could be labelled.
    """
    out = checked_output(command.out, command.overwrite)
    asked = oracle(command.oracle)
    structures = load(command.structures, use_labels=False).to_atoms()
    store = LabelStore(command.store)
    if command.retry_failed:
        store.forget_failures()
    with local_workers(command.workers, command.seconds) as workers:
        found = label(structures, asked, store, workers, retries=command.retries)
    pairs = list(zip(structures, found, strict=True))
    done = [labelled(atoms, one, asked.level) for atoms, one in pairs if not isinstance(one, Failure)]
    for i, (_, one) in enumerate(pairs):
        if isinstance(one, Failure):
            print(f"structure {i} has no label: {one.reason}.")
    if not done:
        raise InputError(f"{asked.level} could label none of {len(structures)} structures; the reasons are above.")
    text = io.StringIO()
    ase.io.write(text, done, format="extxyz")
    write_text_atomic(out, text.getvalue())
    seconds = sum(one.seconds for _, one in pairs if not isinstance(one, Failure))
    print(f"{out}: {len(done)} of {len(structures)} structures labelled by {asked.level}, {seconds:.3g} s of work.")
    if len(done) < len(pairs):
        print(f"{command.store} keeps the others aside; --retry-failed tries them again.")
