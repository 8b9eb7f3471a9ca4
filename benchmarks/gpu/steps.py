"""Time of an SGHMC step of each preset at its own batch size, by number of chains on one device."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.cases import build_case, build_steps
from benchmarks.gpu.clock import Clock, Compiled, compile_call, figures, left_out_if_it_fails, median_ms, side_by_side
from bnn_jax.config import PresetName

CHAINS = (1, 8, 2, 4, 16)
"""In the order of what one wants to know first."""
MOST_STEPS = 50
COMPILE_SHARE = 0.7
"""Of the time, for compilation."""
SECONDS = 1.0
"""That each setting is timed."""


def measure(presets: Sequence[PresetName], clock: Clock) -> Iterator[dict[str, Any]]:
    """Records of all settings, those of one chain first, as far as the time goes.

    Each has ``preset``, ``chains``, ``batch_size``, ``ms_per_step`` (of all chains together) and what XLA says
    (:class:`~benchmarks.gpu.clock.Compiled`).
    """
    jobs = {(preset, chains): partial(_build, preset, chains) for chains in CHAINS for preset in presets}
    for key, (batch_size, compiled, arguments) in side_by_side(jobs, clock.part(COMPILE_SHARE)).items():
        if not clock.left():
            return
        with left_out_if_it_fails(key):
            about = dict(zip(("preset", "chains"), key, strict=True)) | {"batch_size": batch_size}
            yield about | {"ms_per_step": _ms_per_step(compiled, arguments)} | figures(compiled)


def _build(preset: PresetName, num_chains: int) -> tuple[int, Compiled, tuple[Any, ...]]:
    case = build_case(preset, num_chains)
    chunk, (*arguments, _) = build_steps(case, MOST_STEPS)
    return case.config.sampler.batch_size, compile_call(chunk.jitted, *arguments, 1), tuple(arguments)


def _ms_per_step(compiled: Compiled, arguments: tuple[Any, ...]) -> float:
    """From calls of so many steps that their dispatch does not count."""
    once = median_ms(lambda: compiled.call(*arguments, 1), 0)
    num_steps = max(1, min(MOST_STEPS, round(200 / once)))
    return median_ms(lambda: compiled.call(*arguments, num_steps), SECONDS) / num_steps
