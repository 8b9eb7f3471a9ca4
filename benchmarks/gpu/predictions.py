"""Energies, forces and standard deviations of K posterior samples in one call, for molecules and crystals."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.cases import build_case, build_predictions
from benchmarks.gpu.clock import Clock, Compiled, compile_call, figures, left_out_if_it_fails, median_ms, side_by_side
from bnn_jax.config import PresetName

SYSTEMS = {"ethanol": 9, "biphenyl": 22, "silicon 64": 64, "silicon 512": 512}
"""Names and numbers of atoms."""
SAMPLES = (8, 1, 32, 16, 4, 2)
"""K, in the order of what one wants to know first."""
COMPILE_SHARE = 0.7
"""Of the time, for compilation."""
SECONDS = 0.3
"""That each setting is timed."""


def measure(presets: Sequence[PresetName], clock: Clock) -> Iterator[dict[str, Any]]:
    """Records of all settings, as far as the time goes.

    Each has ``preset``, ``system``, ``atoms``, ``samples``, ``ms`` of a call, ``us_per_atom_and_sample`` and what XLA
    says (:class:`~benchmarks.gpu.clock.Compiled`).
    """
    keys = [(preset, system, samples) for samples in SAMPLES for preset in presets for system in SYSTEMS]
    jobs = {key: partial(_build, *key) for key in keys}
    for key, (compiled, arguments) in side_by_side(jobs, clock.part(COMPILE_SHARE)).items():
        if not clock.left():
            return
        with left_out_if_it_fails(key):
            preset, system, samples = key
            ms, atoms = median_ms(partial(compiled.call, *arguments), SECONDS), SYSTEMS[system]
            about = {"preset": preset, "system": system, "atoms": atoms, "samples": samples, "ms": ms}
            yield about | {"us_per_atom_and_sample": 1e3 * ms / (atoms * samples)} | figures(compiled)


def _build(preset: PresetName, system: str, num_samples: int) -> tuple[Compiled, tuple[Any, ...]]:
    case = build_case(preset, system=system, num_structures=1)
    predictor, (*arguments, num_nodes, num_edges) = build_predictions(case, num_samples, 1)
    compiled = compile_call(predictor, *arguments, num_nodes=num_nodes, num_edges=num_edges)
    return compiled, tuple(arguments)
