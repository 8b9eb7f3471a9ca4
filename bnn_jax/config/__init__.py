"""The configuration of a run: frozen dataclasses, strict YAML in and out, presets by name."""

from bnn_jax.config.config import Config
from bnn_jax.config.presets import PresetName
from bnn_jax.config.sections import (
    DropoutConfig,
    EnsembleConfig,
    EvidentialConfig,
    IVONConfig,
    LaplaceConfig,
    MassName,
    MeanVarianceConfig,
    MixtureConfig,
    ModelConfig,
    OptimizerName,
    PosteriorConfig,
    RateSchedule,
    SamplerConfig,
    ShallowConfig,
    TrainerConfig,
    Variant,
)

__all__ = [
    "Config",
    "DropoutConfig",
    "EnsembleConfig",
    "EvidentialConfig",
    "IVONConfig",
    "LaplaceConfig",
    "MassName",
    "MeanVarianceConfig",
    "MixtureConfig",
    "ModelConfig",
    "OptimizerName",
    "PosteriorConfig",
    "PresetName",
    "RateSchedule",
    "SamplerConfig",
    "ShallowConfig",
    "TrainerConfig",
    "Variant",
]
