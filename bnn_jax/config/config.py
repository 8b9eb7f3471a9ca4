"""The configuration of a run as a whole: strict YAML in and out, and the presets."""

import contextlib
import dataclasses
import reprlib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from bnn_jax import strict_yaml
from bnn_jax.config.presets import PRESETS, PresetName
from bnn_jax.config.sections import (
    DropoutConfig,
    EnsembleConfig,
    EvidentialConfig,
    IVONConfig,
    LaplaceConfig,
    MeanVarianceConfig,
    MixtureConfig,
    ModelConfig,
    PosteriorConfig,
    SamplerConfig,
    ShallowConfig,
    TrainerConfig,
)
from bnn_jax.types import InputError, nearest_name


@dataclass(frozen=True)
class Config:
    """Everything that defines a run, apart from the data and the seed."""

    method: str = "sghmc"
    """Name of the method (:mod:`bnn_jax.methods`)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    posterior: PosteriorConfig = field(default_factory=PosteriorConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    shallow: ShallowConfig = field(default_factory=ShallowConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    ivon: IVONConfig = field(default_factory=IVONConfig)
    mean_variance: MeanVarianceConfig = field(default_factory=MeanVarianceConfig)
    evidential: EvidentialConfig = field(default_factory=EvidentialConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    laplace: LaplaceConfig = field(default_factory=LaplaceConfig)

    @classmethod
    def preset(cls, name: PresetName) -> Self:
        """A named configuration: ``tiny`` for tests, ``small`` for a laptop, ``paper`` for the published one.

        Raises:
            InputError: no preset has that name.
        """
        if name not in PRESETS:
            raise InputError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
        return cls.from_dict(PRESETS[name], source=f"preset {name}")

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "config") -> Self:
        """Build from nested dictionaries; missing keys take their defaults.

        Raises:
            InputError: a key is unknown (the nearest known one is named), or a value has the wrong type or is out of
                its range.
        """
        return _build(cls, values, source, "")

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a YAML file, strictly.

        Raises:
            InputError: the file is absent, is not YAML, or :meth:`from_dict` refuses it.
        """
        return cls._from_parsed(strict_yaml.read(path), str(path))

    @classmethod
    def from_yaml_text(cls, text: str, source: str = "config") -> Self:
        """Read YAML, strictly; ``source`` names it in errors.

        Raises:
            InputError: it is not YAML, or :meth:`from_dict` refuses it.
        """
        return cls._from_parsed(strict_yaml.parse(text, source), source)

    @classmethod
    def _from_parsed(cls, values: Any, source: str) -> Self:
        return _build(cls, {} if values is None else values, source, "")

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries of plain values, as :meth:`from_dict` takes them."""
        return _plain(dataclasses.asdict(self))

    def to_yaml(self) -> str:
        """The YAML text that :meth:`from_yaml` reads back to an equal configuration."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _build(cls: type, values: Any, source: str, prefix: str) -> Any:
    if not isinstance(values, dict):
        where = f"section {prefix[:-1]!r}" if prefix else "top level"
        raise InputError(f"The {where} of {source} must map keys to values, not be {reprlib.repr(values)}.")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            shown, near = nearest_name(key, hints)
            raise InputError(f"Unknown key {prefix}{shown} in {source}; the nearest known key is {prefix}{near}.")
        arguments[key] = _convert(hints[key], value, source, f"{prefix}{key}")
    try:
        return cls(**arguments)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _convert(hint: Any, value: Any, source: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, source, f"{key}.")
    if isinstance(hint, types.GenericAlias) and isinstance(value, list | tuple):
        (item_hint, _) = typing.get_args(hint)
        return tuple(_convert(item_hint, item, source, f"{key}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):  # YAML 1.1 reads 1e-3 as text
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)
    if hint in (int, float, bool, str) and type(value) is hint:
        return value
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value in choices and isinstance(value, str):
            return value
        raise InputError(f"Key {key} in {source} must be one of {', '.join(choices)}, not {reprlib.repr(value)}.")
    wanted = getattr(hint, "__name__", str(hint)) if hint in (int, float, bool, str) else "a list"
    raise InputError(f"Key {key} in {source} must be {wanted}, not {reprlib.repr(value)}.")
