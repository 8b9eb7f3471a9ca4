"""What a simulation is told: ensemble, temperature, time step, and the bounds that end it."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from bnn_jax.config.fields import check_ranges, positive, within
from bnn_jax.types import InputError

EnsembleName = Literal["nve", "langevin", "nose-hoover", "npt"]


@dataclass(frozen=True)
class Bounds:
    """Where a replica's trajectory ends before its time; what is None never ends one. Checked at every frame."""

    forces_std: float | None = None
    """Largest std of a force component, in eV/Angstrom."""
    closest: float | None = None
    """Smallest distance between two atoms, in Angstrom."""
    stretch: float | None = None
    """Largest length of a bond of the start, in units of its length there."""
    kelvin: float | None = None
    """Largest kinetic temperature of a frame."""
    validated: bool = False
    """An atom may not go beyond the range in which labels could check the error bars."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not isinstance(value, bool | None) and not 0 < value < float("inf"):
                raise InputError(f"The bound {name} is {value}; it must be positive.")


@dataclass(frozen=True)
class Settings:
    """Of a simulation."""

    ensemble: EnsembleName = "langevin"
    """``nve``; ``langevin`` (BAOAB) and ``nose-hoover`` (a chain) at constant volume and temperature; ``npt``: such
    chains on atoms and on the volume of a periodic cell, whose shape stays. The volume of a stiff solid swings many
    times faster than ``barostat_fs`` says, and takes many such periods to get its temperature."""
    kelvin: float = positive(300.0, 1e5)
    """Temperature; of ``nve`` that of the initial velocities."""
    timestep_fs: float = positive(0.5, 100)
    friction_per_ps: float = positive(10.0, 1e5)
    """Of ``langevin``."""
    thermostat_fs: float = positive(50.0, 1e6)
    """Period of the Nose-Hoover chain."""
    pressure_gpa: float = within(0.0, -1e4, 1e4)
    """Of ``npt``."""
    barostat_fs: float = positive(500.0, 1e6)
    """Period of the barostat."""
    forces: Literal["mean", "each"] = "mean"
    """What moves the atoms: the mean force over samples, or in replica k that of sample k."""
    stride: int = within(20, 1, 10**6)
    """Steps between frames, at which stds are predicted."""
    skin: float = positive(0.5, 20)
    """So much further than the cutoff neighbours are kept, in Angstrom."""

    def __post_init__(self) -> None:
        check_ranges(self, "dynamics")
