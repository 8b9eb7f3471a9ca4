"""A liquid by molecular dynamics, in chunks that a killed run does not repeat, and what shows that it is one."""

from pathlib import Path
from typing import Any, NamedTuple

import ase
import ase.io
import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary
from jaxtyping import Float, Int
from pieces import GRAMS_PER_CM3, finished
from tqdm import tqdm

from bnn_jax.atoms.neighbors import neighbor_list

TIME_STEP = 1.0
"""In fs."""
FRICTION = 0.01
"""In 1/fs."""
CHUNK = 100
"""Steps between states on disk."""
SAMPLE_EVERY = 10
"""Steps between rows of what is watched."""
BOND = 1.9
"""About the first minimum of the radial distribution of liquid carbon, in Angstrom; neighbours are counted to here."""


class Stage(NamedTuple):
    """Of a dynamics at constant volume and temperature."""

    name: str
    temperature: float
    """In K."""
    num_steps: int


def diamond(density: float, repeats: int) -> ase.Atoms:
    """Conventional cells of diamond, ``repeats`` along each axis, expanded to a density in g/cm^3."""
    cell = bulk("C", "diamond", a=1.0, cubic=True)
    edge = (cell.get_masses().sum() * GRAMS_PER_CM3 / density) ** (1 / 3)
    cell.set_cell([edge] * 3, scale_atoms=True)
    return cell.repeat(repeats)


def dynamics(atoms: ase.Atoms, calculator: Calculator, stage: Stage, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Langevin dynamics; the atoms change in place.

    Velocities are drawn anew at the start of a stage, so that copies of one cell part. Each chunk has a random stream
    of its own, and its last state is on disk.

    Args:
        atoms: at the start of the stage.
        calculator: of the forces.
        stage: what to do.
        seed: of velocities and noise.
        folder: of the chunks.

    Returns:
        A row for every :data:`SAMPLE_EVERY` steps: step, temperature (K), potential energy (eV/atom), shortest
        distance (Angstrom) and mean square displacement since the start of the stage (Angstrom^2).
    """
    start = atoms.positions.copy()
    rows: list[dict[str, Any]] = []
    known = {"stage": list(stage), "num_atoms": len(atoms), "seed": seed, "volume": atoms.get_volume()}
    for chunk in tqdm(range(-(-stage.num_steps // CHUNK)), desc=stage.name, unit="chunk", delay=5, disable=None):
        state = folder / f"{stage.name}-{chunk}.extxyz"

        def make(chunk: int = chunk, state: Path = state) -> dict[str, Any]:
            rng = np.random.default_rng([seed, chunk, len(atoms)])
            if chunk == 0:
                spread = np.sqrt(atoms.get_masses() * units.kB * stage.temperature)
                atoms.set_momenta(spread[:, None] * rng.standard_normal((len(atoms), 3)))
                Stationary(atoms)
            num_steps = min(CHUNK, stage.num_steps - chunk * CHUNK)
            found = _chunk(atoms, calculator, stage.temperature, num_steps, chunk * CHUNK, start, rng)
            partial = state.with_suffix(".part")
            ase.io.write(partial, _bare(atoms), format="extxyz")
            partial.replace(state)
            return {"rows": found}

        found = finished(folder / f"{stage.name}-{chunk}.json", known, make)
        last = ase.io.read(state)
        assert isinstance(last, ase.Atoms)
        atoms.positions[:] = last.positions  # as a run that goes on from disk has them
        atoms.set_momenta(last.get_momenta())
        rows += found["rows"]
    return rows


def _bare(atoms: ase.Atoms) -> ase.Atoms:
    """Without the calculator, whose results need not be kept."""
    bare = atoms.copy()
    bare.calc = None
    return bare


def _chunk(
    atoms: ase.Atoms,
    calculator: Calculator,
    temperature: float,
    num_steps: int,
    first_step: int,
    start: Float[np.ndarray, "atom 3"],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    atoms.calc = calculator
    rows: list[dict[str, Any]] = []
    step, friction = TIME_STEP * units.fs, FRICTION / units.fs
    # With the centre of mass held fixed, ASE would not sample the right distribution.
    langevin = Langevin(atoms, step, temperature_K=temperature, friction=friction, fixcm=False, rng=rng)
    for done in range(0, num_steps, SAMPLE_EVERY):
        langevin.run(min(SAMPLE_EVERY, num_steps - done))
        rows.append(
            {
                "step": first_step + min(done + SAMPLE_EVERY, num_steps),
                "temperature": float(atoms.get_temperature()),
                "energy_per_atom": float(atoms.get_potential_energy() / len(atoms)),
                "min_distance": min_distance(atoms),
                "msd": mean_square_displacement(start, atoms.positions),
            }
        )
    atoms.calc = None
    return rows


def mean_square_displacement(start: Float[np.ndarray, "atom 3"], end: Float[np.ndarray, "atom 3"]) -> float:
    """In Angstrom^2, about the centre of all atoms, which drifts."""
    moved = end - start
    return float(np.mean(np.sum((moved - moved.mean(axis=0)) ** 2, axis=1)))


def distances(atoms: ase.Atoms, reach: float) -> Float[np.ndarray, " pair"]:
    """Of all pairs within reach, both ways, images included, in Angstrom."""
    senders, receivers, shifts = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, reach)
    vectors = atoms.positions[senders] + shifts @ atoms.cell.array - atoms.positions[receivers]
    return np.linalg.norm(vectors, axis=1)


def min_distance(atoms: ase.Atoms) -> float:
    """Shortest distance, at most 2 Angstrom."""
    return float(distances(atoms, 2.0).min(initial=2.0))


def neighbours(atoms: ase.Atoms, reach: float) -> Int[np.ndarray, " atom"]:
    """How many neighbours each atom has within reach (Angstrom), images included."""
    receivers = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, reach)[1]
    return np.bincount(receivers, minlength=len(atoms))


def coordination(atoms: ase.Atoms) -> dict[str, float]:
    """Share of atoms by their number of neighbours within :data:`BOND`."""
    numbers = neighbours(atoms, BOND)
    return {str(number): float(np.mean(numbers == number)) for number in range(int(numbers.max()) + 1)}


def radial_distribution(
    atoms: ase.Atoms, reach: float = 6.0, num_bins: int = 120
) -> tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " bin"]]:
    """Middles of bins of the distance, in Angstrom, and g(r): pairs over those of as dense an ideal gas."""
    counts, edges = np.histogram(distances(atoms, reach), bins=num_bins, range=(0.0, reach))
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    return (edges[:-1] + edges[1:]) / 2, counts / (len(atoms) * shells * len(atoms) / atoms.get_volume())
