"""``bnn-jax rigidity``: how firmly the training set of a run holds its predictions in place."""

import io
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.data import chemical_symbols

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.sources import load
from bnn_jax.checkpoint import open_run, write_text_atomic
from bnn_jax.cli.commands import Rigidity
from bnn_jax.cli.fit import read_parts
from bnn_jax.cli.options import METADATA_KEY
from bnn_jax.cli.predict import checked_output
from bnn_jax.methods import Posterior
from bnn_jax.report import save
from bnn_jax.report.chemiscope_file import viewer, write_chemiscope
from bnn_jax.report.rigidity_plot import coloured_atoms
from bnn_jax.rigidity import FormOptions, RigidityModel, SquareLoss, fit_rigidity
from bnn_jax.types import InputError


def run(command: Rigidity) -> None:
    """Make the Hessian, judge the structures, write them with their rigidities, and draw the least rigid one.

    Raises:
        InputError: the run, the training set or the structures cannot be used, or OUT exists or cannot be written.
    """
    out = checked_output(command.out, command.overwrite)
    picture = out.with_suffix(".png")
    if command.kind == "local":
        checked_output(str(picture), command.overwrite)
    if command.chemiscope is not None:
        viewer(checked_output(command.chemiscope, command.overwrite))
    posterior = Posterior.load(command.run)
    if not 0 <= command.sample < posterior.num_samples:
        raise InputError(f"--sample {command.sample}: the posterior has samples 0 to {posterior.num_samples - 1}.")
    structures = load(command.structures, use_labels=False)
    train = _training_set(command)
    loss = SquareLoss(command.energy_weight, command.forces_weight)
    model = fit_rigidity(
        posterior.network(command.sample),
        train,
        loss,
        command.zeta,
        command.form,
        zeta_is_relative=True,
        options=FormOptions(num_directions=50, seed=command.seed),
    )
    frames, values = _judged(model, structures, command)
    text = io.StringIO()
    ase.io.write(text, frames, format="extxyz")
    write_text_atomic(out, text.getvalue())
    print(f"{out}: {command.kind} rigidities of {len(frames)} structures, {_range(values)}; zeta {model.zeta:.3g}.")
    if command.kind == "local":
        lowest = int(np.argmin(np.minimum.reduceat(values, structures.offsets[:-1])))
        save(coloured_atoms(frames[lowest], frames[lowest].arrays["local_rigidity"]), picture)
        print(f"{picture}: structure {lowest}, which has the least rigid atom.")
    if command.chemiscope is not None:
        path, is_local = Path(command.chemiscope), command.kind == "local"
        write_chemiscope(path, frames, _by_name(frames, is_local), is_local, model.network.cutoff)
        print(f"{path}: open it at https://chemiscope.org.")


def _training_set(command: Rigidity) -> Dataset:
    """As the run's record says, or as ``--train`` does."""
    if command.train is not None:
        return load(command.train, require_labels=True)
    if not Path(command.run).is_dir():
        raise InputError(f"{command.run} is a file and names no training set; give it by --train.")
    run = open_run(command.run)
    options: dict[str, Any] = dict(run.record["metadata"].get(METADATA_KEY) or {})
    if "data" not in options:
        raise InputError(f"{command.run} does not say what it was trained on; give the training set by --train.")
    data = options.pop("data")
    data = [data] if isinstance(data, str) else data
    train = read_parts(data, options, run.record["seed"]).train
    if train.fingerprint() != run.record["data_fingerprint"]:
        raise InputError(
            f"{' '.join(data)} has changed since {command.run} was trained on it; give the training set by --train."
        )
    return train


def _judged(model: RigidityModel, structures: Dataset, command: Rigidity) -> tuple[list[ase.Atoms], np.ndarray]:
    frames = [
        ase.Atoms(structures.numbers[atoms], structures.positions[atoms], cell=cell, pbc=pbc)
        for atoms, cell, pbc in zip(_slices(structures), structures.cell, structures.pbc, strict=True)
    ]
    if command.kind == "global":
        values = model.energies(structures)
        for frame, value in zip(frames, values, strict=True):
            frame.info["rigidity"] = float(value)
    elif command.kind == "local":
        values = model.atoms(structures)
        for frame, atoms in zip(frames, _slices(structures), strict=True):
            frame.set_array("local_rigidity", values[atoms])
    else:
        parts = model.of_elements(structures)
        values = np.concatenate(list(parts.values()))
        for number, found in parts.items():
            for frame, value in zip(frames, found, strict=True):
                frame.info[f"rigidity_{chemical_symbols[number]}"] = float(value)
    if command.forces:
        rigidities = model.forces(structures)
        for frame, atoms in zip(frames, _slices(structures), strict=True):
            frame.set_array("forces_rigidity", rigidities[atoms])
    return frames, values


def _by_name(frames: list[ase.Atoms], is_local: bool) -> dict[str, np.ndarray]:
    if is_local:
        return {"local_rigidity": np.concatenate([frame.arrays["local_rigidity"] for frame in frames])}
    names = [name for name in frames[0].info if name.startswith("rigidity")]
    return {name: np.array([frame.info[name] for frame in frames]) for name in names}


def _slices(structures: Dataset) -> list[slice]:
    return [slice(*ends) for ends in zip(structures.offsets[:-1], structures.offsets[1:], strict=True)]


def _range(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "none of them finite"
    return f"{finite.min():.3g} to {finite.max():.3g} (median {np.median(finite):.3g}) in 1/eV^2"
