"""The configuration of a run: frozen dataclasses, strict YAML in and out, and the presets tiny, small and paper."""

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from bnn_jax.types import InputError

PresetName = Literal["tiny", "small", "paper"]


@dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters of the stochastic NequIP (Batzner 2022; Rensmeyer 2024, section 3.2).

    ``species``, ``avg_num_neighbors`` and ``scale`` are properties of the training set and are filled in by
    ``fit``; give them only to build a potential without one.
    """

    cutoff: float = 5.0
    """Cutoff radius, in Angstrom."""
    num_blocks: int = 3
    num_features: int = 32
    """Channels of each irreducible representation."""
    l_max: int = 1
    parity: bool = True
    """Carry even and odd features of each l; otherwise only those of the spherical harmonics' parity."""
    num_bessel: int = 8
    polynomial_cutoff: int = 6
    """Exponent p of the polynomial envelope."""
    radial_hidden: tuple[int, ...] = (64,)
    """Widths of the hidden layers of the radial network."""
    layer_norm: bool = False
    species_self_connection: bool = True
    """One self-connection matrix per species; otherwise one for all."""
    std_hidden: tuple[int, ...] = (32, 16)
    """Widths of the hidden layers of the two networks that predict standard deviations."""
    species: tuple[int, ...] = ()
    """Atomic numbers the potential knows, ascending."""
    avg_num_neighbors: float = 1.0
    scale: float = 1.0
    """Unit of energies and standard deviations: the root mean square of the training forces, in eV/Angstrom."""


@dataclass(frozen=True)
class PosteriorConfig:
    """Prior and likelihood."""

    prior_std: float = 1.0
    """Standard deviation of the normal prior of every weight (Rensmeyer 2024, section 3.2)."""
    stress_std: float = 0.002
    """Standard deviation of a diagonal stress component, in eV/Angstrom^3, used where stress labels are given; that of
    an off-diagonal one is smaller by the root of two, so that the density does not depend on the orientation."""


@dataclass(frozen=True)
class SamplerConfig:
    """SGHMC with an AMSGrad mass that is frozen before the first sample (Rensmeyer 2024, algorithm 1)."""

    num_samples: int = 8
    """Posterior samples of each chain."""
    num_chains: int = 1
    batch_size: int = 10
    alpha: float = 0.1
    """Friction."""
    beta: float = 0.999
    """Decay of the running mean of squared gradients."""
    stability: float = 1e-5
    """Added to the mass."""
    convergence_steps: int = 10_000
    """Steps before the first sample."""
    step_size_first: float = 1e-2
    step_size_last: float = 1e-5
    """The step size decays exponentially between these during the convergence steps."""
    freeze_fraction: float = 0.9
    """Fraction of the convergence steps after which the mass is kept constant."""
    cycle_steps: int = 2_000
    """Steps of a cosine cycle, from step size zero up to ``cycle_step_size`` and back; a sample ends each cycle."""
    cycle_step_size: float = 1e-3
    temperature: float = 1.0
    """Scales the variance of the injected noise; 1 samples the posterior."""
    warm_start_fraction: float = 0.0
    """Fraction of the convergence steps at ``warm_start_temperature`` (Rensmeyer 2024, section 5)."""
    warm_start_temperature: float = 0.01
    log_every: int = 200
    """Steps between rows of the log."""


@dataclass(frozen=True)
class Config:
    """Everything that defines a run, apart from the data and the seed."""

    model: ModelConfig = field(default_factory=ModelConfig)
    posterior: PosteriorConfig = field(default_factory=PosteriorConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    @classmethod
    def preset(cls, name: PresetName) -> Self:
        """A named configuration: ``tiny`` for tests, ``small`` for a laptop, ``paper`` for the published one.

        Raises:
            InputError: no preset has that name.
        """
        if name not in _PRESETS:
            raise InputError(f"There is no preset {name!r}; choose one of {', '.join(_PRESETS)}.")
        return cls.from_dict(_PRESETS[name], source=f"preset {name}")

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "config") -> Self:
        """Build from nested dictionaries; missing keys take their defaults.

        Raises:
            InputError: a key is unknown (the nearest known one is named) or a value has the wrong type.
        """
        return _build(cls, values, source, "")

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a YAML file, strictly.

        Raises:
            InputError: the file is absent, is not YAML, or :meth:`from_dict` refuses it.
        """
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise InputError(f"Config file {path} cannot be read ({reason}); check the path.") from error
        return cls.from_yaml_text(text, source=str(path))

    @classmethod
    def from_yaml_text(cls, text: str, source: str = "config") -> Self:
        """Read YAML, strictly; ``source`` names it in errors.

        Raises:
            InputError: it is not YAML, or :meth:`from_dict` refuses it.
        """
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{source} is not valid YAML ({reason}); correct it there.") from error
        return cls.from_dict({} if values is None else values, source)

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
        raise InputError(f"The {where} of {source} must map keys to values, not be {values!r}.")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.0)
            raise InputError(f"Unknown key {prefix}{key} in {source}; the nearest known key is {prefix}{near[0]}.")
        arguments[key] = _convert(hints[key], value, source, f"{prefix}{key}")
    return cls(**arguments)


def _convert(hint: Any, value: Any, source: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, source, f"{key}.")
    if isinstance(hint, types.GenericAlias) and isinstance(value, list | tuple):
        (item_hint, _) = typing.get_args(hint)
        return tuple(_convert(item_hint, item, source, f"{key}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if hint in (int, float, bool, str) and type(value) is hint:
        return value
    wanted = getattr(hint, "__name__", str(hint)) if hint in (int, float, bool, str) else "a list"
    raise InputError(f"Key {key} in {source} must be {wanted}, not {value!r}.")


_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "model": {"num_blocks": 2, "num_features": 8, "radial_hidden": [16]},
        "sampler": {"convergence_steps": 200, "cycle_steps": 50, "num_samples": 4},
    },
    "small": {
        "model": {"l_max": 2},
        "sampler": {
            "num_chains": 2,
            "num_samples": 4,
            "batch_size": 5,
            "convergence_steps": 72_000,
            "step_size_first": 2e-2,
            "step_size_last": 1e-4,
            "cycle_steps": 6_000,
            "cycle_step_size": 5e-4,
            "log_every": 500,
        },
    },
    "paper": {
        "model": {
            "cutoff": 4.0,
            "num_blocks": 4,
            "num_features": 64,
            "l_max": 2,
            "radial_hidden": [64, 64],
            "std_hidden": [32, 16],
        },
        "sampler": {
            "batch_size": 30,
            "convergence_steps": 1_000_000,
            "step_size_first": 1e-2,
            "step_size_last": 1e-5,
            "cycle_steps": 100_000,
            "cycle_step_size": 1e-3,
        },
    },
}
