"""The one call of a script: from structures to a posterior."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bnn_jax.atoms.parts import check_parts
from bnn_jax.atoms.sources import Structures, load
from bnn_jax.config import Config
from bnn_jax.devices import is_first
from bnn_jax.methods import Posterior, registry
from bnn_jax.sampling.progress import OnDivergence
from bnn_jax.types import InputError
from bnn_jax.validated import ValidatedRange
from bnn_jax.verdict import judge_predictive, monitored


def fit(
    train: Structures,
    valid: Structures | None = None,
    config: Config | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    on_divergence: OnDivergence = "stop",
    devices_per_chain: int = 1,
    metadata: Mapping[str, Any] | None = None,
    allow_missing_labels: bool = False,
    checked: bool = False,
) -> Posterior:
    """A potential with error bars by ``config.method``, given labelled structures: by default samples of the posterior.

    Args:
        train: training set as :func:`bnn_jax.load` takes it, with energies (eV), forces (eV/Angstrom), stresses, or
            some of them.
        valid: validation set. The log shows its force error; samples of the posterior do not depend on it,
            networks that are trained stop early by it.
        config: of the run; the preset ``small`` if none.
        seed: every random number of the run follows from it.
        out: run folder for configuration, log, checkpoints and posterior; nothing is written without one.
        resume: continue the run in ``out``; its samples equal those of an uninterrupted one bit for bit.
        progress: show a progress bar on a terminal.
        on_divergence: what to do with a chain that diverges: ``stop`` it and leave its samples out, or ``halve-step``:
            repeat from its last sound state with half its step size.
        devices_per_chain: devices that share the minibatches of each chain, which is worth it where there are more
            devices than chains; the samples are the same to rounding.
        metadata: further plain values for the record of a new run, ``run.json``.
        allow_missing_labels: consent to structures that lack labels which others of their set have.
        checked: :func:`bnn_jax.atoms.check_parts` was asked about these sets already.

    Returns:
        The posterior with a verdict on it, which ``out`` then holds too.

    Raises:
        InputError: the data or the configuration cannot be used, labels are missing without consent, ``out`` holds
            another run, or memory or disk will not suffice.
        DivergenceError: every chain diverged.
        LostProcessError: another process of the run (``jax.distributed``) has ended.
    """
    train = load(train)
    valid = None if valid is None else load(valid)
    config = config or Config.preset("small")
    if not checked:
        check_parts(train, {} if valid is None else {"valid": valid}, allow_missing_labels)
    options = {"on_divergence": on_divergence, "devices_per_chain": devices_per_chain}
    if config.method != "sghmc":
        if (on_divergence, devices_per_chain) != ("stop", 1):
            raise InputError(
                f"on_divergence and devices_per_chain are for sghmc, not for {config.method}; leave them out."
            )
        options = {}
    posterior = registry.get(config.method).fit(
        jax.random.key(seed),
        train,
        valid,
        config,
        seed=seed,
        out=out,
        resume=resume,
        progress=progress,
        metadata=metadata,
        **options,
    )
    held_out = monitored(train if valid is None else valid)
    predictive = posterior.predict(held_out)
    verdict = judge_predictive(posterior, predictive, held_out, labels_are_held_out=valid is not None)
    is_labelled = np.asarray(np.isfinite(held_out.forces).all(axis=1))
    validated = None if valid is None else ValidatedRange.of(predictive, held_out.numbers, is_labelled)
    posterior = dataclasses.replace(posterior, verdict=verdict, validated=validated)
    if out is not None and is_first():
        posterior.save(out)
    return posterior
