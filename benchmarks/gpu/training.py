"""The start of a run of preset ``paper`` on rMD17 ethanol: validation error against time."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.clock import Clock
from bnn_jax import Config, load
from bnn_jax.atoms import batch_size_needed, gather_batch, pack
from bnn_jax.config import PresetName
from bnn_jax.devices import placed
from bnn_jax.methods import sghmc
from bnn_jax.methods.base import fill_model_config

STEPS_PER_CALL = 50
ROW_SECONDS = 10.0
"""Between records, so that validation takes little of the time."""
DATA = Path(__file__).parents[3] / "shared" / "data" / "rmd17" / "ethanol" / "train.xyz.gz"
"""Where developers have the set; others download it."""
NUM_TRAIN, NUM_VALID, SPLIT_SEED = 970, 30, 0
"""As in ``experiments/rmd17``."""


def measure(preset: PresetName, num_chains: int, file: Path | None, clock: Clock) -> Iterator[dict[str, Any]]:
    """Records every ten seconds: ``seconds`` of sampling, ``step``, ``valid_forces_mae`` and ``rmse`` in eV/Angstrom.

    Errors are means over the chains. The time that compilation and validation take does not count.

    Args:
        preset: of the run, whose schedule is followed from its first step.
        num_chains: instead of the preset's.
        file: rMD17 ethanol; None looks for it, then downloads it.
        clock: when to end.

    Raises:
        InputError: the data cannot be had.
    """
    data_set = load(file or (DATA if DATA.is_file() else "rmd17/ethanol"))
    train, valid = data_set.split(train=NUM_TRAIN, valid=NUM_VALID, seed=SPLIT_SEED)
    config = Config.preset(preset)
    config = replace(config, sampler=replace(config.sampler, num_chains=num_chains))
    statistics = train.statistics(config.model.cutoff)
    config = replace(config, model=fill_model_config(config.model, statistics))
    packed, held_out = (
        pack(part, config.model.cutoff, statistics.species, statistics.shifts) for part in (train, valid)
    )
    chunk, plan, (states,) = sghmc.build_chains(jax.random.key(0), packed, config)
    data, states = chunk.place(packed), placed(states, chunk.sharding)
    apply, indices = sghmc.potential(config).apply, np.arange(len(valid))
    sizes = batch_size_needed(held_out, indices)

    @jax.jit
    def errors(position: Any, held_out: Any) -> tuple[jax.Array, jax.Array]:
        batch = gather_batch(held_out, indices, *sizes)
        error = jax.lax.map(lambda params: apply(params, batch.graph).forces - batch.labels.forces, position)
        error = jnp.where(batch.labels.forces_mask[:, None], error, 0)
        count = 3 * num_chains * jnp.sum(batch.labels.forces_mask)
        return jnp.sum(jnp.abs(error)) / count, jnp.sqrt(jnp.sum(error**2) / count)

    held_out = jax.device_put(held_out)
    warm, _ = chunk(states, data, plan(0, 0, STEPS_PER_CALL), 1)
    jax.block_until_ready((warm, errors(states.sampler.position, held_out)))
    step, seconds, reported = 0, 0.0, -ROW_SECONDS
    while True:
        if seconds - reported >= ROW_SECONDS or not clock.left():
            mae, rmse = errors(states.sampler.position, held_out)
            yield {
                "preset": preset,
                "chains": num_chains,
                "seconds": seconds,
                "step": step,
                "valid_forces_mae": float(mae),
                "valid_forces_rmse": float(rmse),
            }
            reported = seconds
        if not clock.left():
            return
        start = time.perf_counter()
        states, _ = jax.block_until_ready(chunk(states, data, plan(0, step, STEPS_PER_CALL), STEPS_PER_CALL))
        seconds, step = seconds + time.perf_counter() - start, step + STEPS_PER_CALL
