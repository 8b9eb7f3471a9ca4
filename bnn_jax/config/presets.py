"""The presets: ``tiny`` for tests, ``quick`` for a first look, ``small`` for a laptop, ``paper`` as published."""

from typing import Any, Literal

PresetName = Literal["tiny", "quick", "small", "paper"]

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "model": {"num_blocks": 2, "num_features": 8, "radial_hidden": [16]},
        "sampler": {"convergence_steps": 200, "cycle_steps": 50, "num_samples": 4},
        "trainer": {"num_steps": 400, "log_every": 50},
    },
    # Many short chains of a small network: far from the data they know better what they do not know than few long ones.
    "quick": {
        "model": {"num_blocks": 2, "num_features": 8, "radial_hidden": [16]},
        "sampler": {
            "num_chains": 8,
            "num_samples": 4,
            "batch_size": 5,
            "mass": "kronecker",
            "convergence_steps": 8_000,
            "step_size_first": 2e-2,
            "step_size_last": 1e-4,
            "cycle_steps": 500,
            "cycle_step_size": 5e-4,
            "log_every": 500,
        },
        "trainer": {"batch_size": 5, "num_steps": 8_000, "log_every": 200},
    },
    "small": {
        "model": {"l_max": 2},
        "sampler": {
            "num_chains": 4,
            "num_samples": 4,
            "batch_size": 5,
            "mass": "kronecker",
            "convergence_steps": 13_000,
            "step_size_first": 2e-2,
            "step_size_last": 1e-3,
            "cycle_steps": 2_000,
            "cycle_step_size": 5e-4,
            "log_every": 500,
        },
        "trainer": {"batch_size": 5, "num_steps": 20_000, "log_every": 500},
    },
    "paper": {
        "model": {
            "cutoff": 4.0,
            "num_blocks": 4,
            "num_features": 64,
            "l_max": 2,
            "radial_hidden": [64, 64],
            "std_hidden": [32, 16],
            "std_growth": "exponential",
        },
        "sampler": {
            "batch_size": 30,
            "centre_every": 0,
            "convergence_steps": 1_000_000,
            "step_size_first": 1e-2,
            "step_size_last": 1e-5,
            "cycle_steps": 100_000,
            "cycle_step_size": 1e-3,
        },
        "trainer": {"batch_size": 30, "num_steps": 1_000_000, "centre_every": 0, "log_every": 1_000},
    },
}
