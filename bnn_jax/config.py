"""The configuration of a run: frozen dataclasses, strict YAML in and out, and the presets tiny, small and paper.

Every number has its range beside it. The upper ends are far beyond any use: they keep a configuration from anybody
from tracing or allocating without end.
"""

import contextlib
import dataclasses
import difflib
import numbers
import reprlib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import yaml

from bnn_jax import strict_yaml
from bnn_jax.types import InputError

PresetName = Literal["tiny", "small", "paper"]
MassName = Literal["diagonal", "kronecker"]
MAX_LAYERS = 16
"""Hidden layers of a network."""


class _Range(NamedTuple):
    low: float | int
    high: float | int
    excluded: Literal["none", "low", "high"] = "none"

    def __contains__(self, value: Any) -> bool:
        above = value > self.low or (value == self.low and self.excluded != "low")
        return above and (value < self.high or (value == self.high and self.excluded != "high"))

    def __str__(self) -> str:
        least = f"above {self.low:g}" if self.excluded == "low" else f"at least {self.low:g}"
        most = f"below {self.high:g}" if self.excluded == "high" else f"at most {self.high:g}"
        return f"{'positive' if least == 'above 0' else least} and {most}"


def _within(
    default: Any, low: float | int, high: float | int, excluded: Literal["none", "low", "high"] = "none"
) -> Any:
    """A field whose value, or each of whose values, lies from ``low`` to ``high``."""
    return field(default=default, metadata={"range": _Range(low, high, excluded)})


def _positive(default: float, high: float | int) -> Any:
    return _within(default, 0, high, "low")


def _check_ranges(section: Any, name: str) -> None:
    for item in dataclasses.fields(section):
        value, allowed = getattr(section, item.name), item.metadata.get("range")
        if allowed is None:
            continue
        is_list = isinstance(item.default, tuple)
        kind = numbers.Real if isinstance(item.default, float) else numbers.Integral
        for i, each in enumerate(value if is_list else (value,)):
            key = f"{name}.{item.name}[{i}]" if is_list else f"{name}.{item.name}"
            if not isinstance(each, kind) or isinstance(each, bool):
                what = "a number" if kind is numbers.Real else "an integer"
                raise InputError(f"{key} is {reprlib.repr(each)}; it must be {what}.")
            if each not in allowed:
                raise InputError(f"{key} is {reprlib.repr(each)}; it must be {allowed}.")


@dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters of the stochastic NequIP (Batzner 2022; Rensmeyer 2024, section 3.2).

    ``species``, ``avg_num_neighbors`` and ``scale`` are properties of the training set and are filled in by
    ``fit``; give them only to build a potential without one.
    """

    cutoff: float = _positive(5.0, 50)
    """Cutoff radius, in Angstrom."""
    num_blocks: int = _within(3, 1, 16)
    num_features: int = _within(32, 1, 1024)
    """Channels of each irreducible representation."""
    l_max: int = _within(1, 0, 4)
    parity: bool = True
    """Carry even and odd features of each l; otherwise only those of the spherical harmonics' parity."""
    num_bessel: int = _within(8, 1, 128)
    polynomial_cutoff: int = _within(6, 2, 64)
    """Exponent p of the polynomial envelope."""
    radial_hidden: tuple[int, ...] = _within((64,), 1, 4096)
    """Widths of the hidden layers of the radial network."""
    layer_norm: bool = False
    species_self_connection: bool = True
    """One self-connection matrix per species; otherwise one for all."""
    std_hidden: tuple[int, ...] = _within((32, 16), 1, 4096)
    """Widths of the hidden layers of the two networks that predict standard deviations."""
    species: tuple[int, ...] = _within((), 0, 118)
    """Atomic numbers the potential knows, ascending; 0 is ASE's X, a bead of a coarse-grained model."""
    avg_num_neighbors: float = _positive(1.0, 1e6)
    scale: float = _positive(1.0, 1e6)
    """Unit of energies and standard deviations: the root mean square of the training forces, in eV/Angstrom."""

    def __post_init__(self) -> None:
        _check_ranges(self, "model")
        for name in ("radial_hidden", "std_hidden"):
            if len(getattr(self, name)) > MAX_LAYERS:
                raise InputError(
                    f"model.{name} has {len(getattr(self, name))} widths; it must have {MAX_LAYERS} at most."
                )
        if list(self.species) != sorted(set(self.species)):
            raise InputError(
                f"model.species is {reprlib.repr(self.species)}; it must ascend and name each atomic number once."
            )


@dataclass(frozen=True)
class PosteriorConfig:
    """Prior and likelihood."""

    prior_std: float = _positive(1.0, 1e6)
    """Standard deviation of the normal prior of every weight (Rensmeyer 2024, section 3.2)."""
    stress_std: float = _positive(0.002, 1e6)
    """Standard deviation of a diagonal stress component, in eV/Angstrom^3, used where stress labels are given; that of
    an off-diagonal one is smaller by the root of two, so that the density does not depend on the orientation."""

    def __post_init__(self) -> None:
        _check_ranges(self, "posterior")


@dataclass(frozen=True)
class SamplerConfig:
    """SGHMC with an AMSGrad mass that is frozen before the first sample (Rensmeyer 2024, algorithm 1)."""

    num_samples: int = _within(8, 1, 100_000)
    """Posterior samples of each chain."""
    num_chains: int = _within(1, 1, 1024)
    batch_size: int = _within(10, 1, 100_000)
    alpha: float = _positive(0.1, 1)
    """Friction."""
    beta: float = _within(0.999, 0, 1, "high")
    """Decay of the running mean of squared gradients."""
    stability: float = _positive(1e-5, 1e6)
    """Added to the mass."""
    mass: MassName = "diagonal"
    """Diagonal in the weights, as algorithm 1 has it, or in the eigenvectors of the Kronecker factors of the squared
    gradient (:mod:`bnn_jax.sampling.kronecker`), which are learnt and frozen with it."""
    basis_every: int = _within(20, 1, 10**9)
    """Steps between turns of that basis while it is learnt."""
    convergence_steps: int = _within(10_000, 1, 10**9)
    """Steps before the first sample."""
    step_size_first: float = _positive(1e-2, 1e30)
    step_size_last: float = _positive(1e-5, 1e30)
    """The step size decays exponentially between these during the convergence steps."""
    freeze_fraction: float = _within(0.9, 0, 1)
    """Fraction of the convergence steps after which the mass is kept constant."""
    cycle_steps: int = _within(2_000, 1, 10**9)
    """Steps of a cosine cycle, from step size zero up to ``cycle_step_size`` and back; a sample ends each cycle."""
    cycle_step_size: float = _positive(1e-3, 1e30)
    temperature: float = _within(1.0, 0, 1e6)
    """Scales the variance of the injected noise; 1 samples the posterior."""
    warm_start_fraction: float = _within(0.0, 0, 1)
    """Fraction of the convergence steps at ``warm_start_temperature`` (Rensmeyer 2024, section 5)."""
    warm_start_temperature: float = _within(0.01, 0, 1e6)
    log_every: int = _within(200, 1, 10**9)
    """Steps between rows of the log."""

    def __post_init__(self) -> None:
        _check_ranges(self, "sampler")


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
            shown = " ".join(str(key)[:40].split())
            near = difflib.get_close_matches(shown, hints, n=1, cutoff=0.0)
            raise InputError(f"Unknown key {prefix}{shown} in {source}; the nearest known key is {prefix}{near[0]}.")
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
            "mass": "kronecker",
            "convergence_steps": 26_000,
            "step_size_first": 2e-2,
            "step_size_last": 1e-3,
            "cycle_steps": 4_000,
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
