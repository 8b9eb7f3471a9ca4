"""The one call of a script: from structures to a posterior."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase
import jax

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.config import Config
from bnn_jax.methods import Posterior, sghmc

Structures = Dataset | Sequence[ase.Atoms]


def as_dataset(structures: Structures) -> Dataset:
    """A data set of structures that may already be one."""
    return structures if isinstance(structures, Dataset) else Dataset.from_atoms(structures)


def fit(
    train: Structures,
    valid: Structures | None = None,
    config: Config | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> Posterior:
    """Sample the posterior of a stochastic NequIP, given labelled structures.

    Args:
        train: training set, with energies (eV), forces (eV/Angstrom), stresses, or some of them.
        valid: validation set; the log shows its force error, the samples do not depend on it.
        config: of the run; the preset ``small`` if none.
        seed: every random number of the run follows from it.
        out: run folder for configuration, log, checkpoints and posterior; nothing is written without one.
        resume: continue the run in ``out``; its samples equal those of an uninterrupted one bit for bit.
        progress: show a progress bar on a terminal.
        metadata: further plain values for the record of a new run, ``run.json``.

    Raises:
        InputError: the data or the configuration cannot be used, or ``out`` holds another run.
        DivergenceError: a chain's state is no longer finite.
    """
    return sghmc.fit(
        jax.random.key(seed),
        as_dataset(train),
        None if valid is None else as_dataset(valid),
        config or Config.preset("small"),
        seed=seed,
        out=out,
        resume=resume,
        progress=progress,
        metadata=metadata,
    )
