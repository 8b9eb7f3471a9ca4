"""All-atom liquid water by OpenMM, mapped to one bead a molecule while it runs."""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import ase
import numpy as np
from ase.data import atomic_masses
from jaxtyping import Float
from tqdm import trange

import bnn_jax
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.checkpoint.files import write_bytes_atomic
from bnn_jax.units import EV_PER_KJ_PER_MOL

MASSES = atomic_masses[[8, 1, 1]]
"""Of O, H and H, in u."""
BEAD_MASS = float(MASSES.sum())
"""In u."""
BEAD = 8
"""Atomic number that stands for a bead: that of oxygen."""
DENSITY = 0.9965
"""Of water at 300 K and 1 bar, in g/cm^3."""
AVOGADRO_PER_CUBIC_ANGSTROM = 0.602214076
"""Molecules per cubic Angstrom of one mol/cm^3."""
ANGSTROM_PER_NM = 10.0


class Settings(NamedTuple):
    """Of the simulation."""

    num_molecules: int = 128
    num_frames: int = 4800
    frames_a_piece: int = 200
    """What is stored, and so repeated after a kill, at a time."""
    steps_a_frame: int = 50
    time_step_fs: float = 2.0
    temperature: float = 300.0
    friction_per_ps: float = 1.0
    equilibration_ps: float = 40.0
    seed: int = 0


class Beads(NamedTuple):
    """A trajectory of beads in a cube."""

    positions: Float[np.ndarray, "frame bead 3"]
    """Centres of mass, in Angstrom; not wrapped into the cube."""
    forces: Float[np.ndarray, "frame bead 3"]
    """Sums over the atoms of each molecule, in eV/Angstrom."""
    side: float
    """Of the cube, in Angstrom."""


def side(num_molecules: int) -> float:
    """Of a cube of water, in Angstrom."""
    return float((num_molecules * BEAD_MASS / DENSITY / AVOGADRO_PER_CUBIC_ANGSTROM) ** (1 / 3))


def beads(
    positions: Float[np.ndarray, "molecule 3 3"], forces: Float[np.ndarray, "molecule 3 3"]
) -> tuple[Float[np.ndarray, "molecule 3"], Float[np.ndarray, "molecule 3"]]:
    """Centres of mass, and net forces, of molecules whose atoms are O, H and H.

    Forces that hold a molecule rigid add up to zero within it, so that the sum needs none of them.
    """
    return np.einsum("a,max->mx", MASSES / BEAD_MASS, positions), forces.sum(axis=1)


def simulate(folder: Path, settings: Settings) -> Beads:
    """Run what is missing of the simulation, piece by piece, and read all of it.

    Args:
        folder: of the pieces; each begins with the state that the one before left, and a random seed of its own.
        settings: which the folder's must equal, if it has some.

    Raises:
        InputError: OpenMM is not there, or the folder holds another simulation.
    """
    path = folder / "settings.json"
    known = json.loads(json.dumps(settings._asdict()))
    if path.exists() and json.loads(path.read_text()) != known:
        raise bnn_jax.InputError(f"{folder} holds another simulation; choose another --out.")
    paths = [folder / f"piece-{i:03d}.npz" for i in range(-(-settings.num_frames // settings.frames_a_piece))]
    if not all(piece.exists() for piece in paths):
        water = _Water(settings)
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, json.dumps(known, indent=1))
        _run_missing(water, folder / "equilibrated.npz", paths)
    pieces = [np.load(piece) for piece in paths]
    frames = {name: np.concatenate([piece[name] for piece in pieces]) for name in ("positions", "forces")}
    return Beads(
        **{name: array[: settings.num_frames] for name, array in frames.items()}, side=side(settings.num_molecules)
    )


def _run_missing(water: "_Water", equilibrated: Path, paths: list[Path]) -> None:
    if not equilibrated.exists():
        print("all-atom water: equilibrating", flush=True)
        save_arrays(equilibrated, water.equilibrate())
    last = equilibrated
    for i in trange(len(paths), desc="all-atom water", unit="piece", disable=None):
        if not paths[i].exists():
            with np.load(last) as state:
                save_arrays(paths[i], water.run(state["atoms"], state["velocities"], number=i))
        last = paths[i]


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """A compressed archive, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes_atomic(path, buffer.getvalue())


class _Water:
    """OpenMM's objects; lengths in nm, as its own."""

    def __init__(self, settings: Settings):
        try:
            import openmm
            from openmm import app, unit
        except ImportError:
            raise bnn_jax.InputError(
                "The all-atom simulation needs OpenMM; install bnn_jax with the extra 'experiments'."
            ) from None
        self.openmm, self.unit, self.settings = openmm, unit, settings
        force_field = app.ForceField("tip3p.xml")
        modeller = app.Modeller(app.Topology(), [])
        modeller.addSolvent(force_field, model="tip3p", numAdded=settings.num_molecules)
        given = modeller.topology.getPeriodicBoxVectors()[0][0].value_in_unit(unit.nanometer)
        wanted = side(settings.num_molecules) / ANGSTROM_PER_NM
        self.start = _with_centres_scaled(self._array(modeller.positions, unit.nanometer), wanted / given)
        modeller.topology.setPeriodicBoxVectors(np.eye(3) * wanted)
        self.system = force_field.createSystem(
            modeller.topology,
            nonbondedMethod=app.PME,
            nonbondedCutoff=min(0.75, 0.48 * wanted) * unit.nanometer,
            rigidWater=True,
        )

    @staticmethod
    def _array(quantity: Any, unit: Any) -> np.ndarray:
        return np.array(quantity.value_in_unit(unit), np.float64)

    def _context(self, seed: int) -> tuple[Any, Any]:
        settings, unit = self.settings, self.unit
        integrator = self.openmm.LangevinMiddleIntegrator(
            settings.temperature, settings.friction_per_ps / unit.picosecond, settings.time_step_fs * unit.femtosecond
        )
        integrator.setRandomNumberSeed(seed + 1)  # OpenMM takes zero for "any seed"
        # One thread and a fixed order of summation: a piece is the same whenever it is repeated.
        properties = {"Threads": "1", "DeterministicForces": "true"}
        platform = self.openmm.Platform.getPlatformByName("CPU")
        return integrator, self.openmm.Context(self.system, integrator, platform, properties)

    def equilibrate(self) -> dict[str, np.ndarray]:
        """From molecules on a stretched or squeezed box to a liquid."""
        integrator, context = self._context(self.settings.seed)
        context.setPositions(self.start)
        self.openmm.LocalEnergyMinimizer.minimize(context, maxIterations=500)
        context.setVelocitiesToTemperature(self.settings.temperature, self.settings.seed + 1)
        integrator.step(round(1000 * self.settings.equilibration_ps / self.settings.time_step_fs))
        return self._state(context)

    def run(self, atoms: np.ndarray, velocities: np.ndarray, number: int) -> dict[str, np.ndarray]:
        """One piece: beads of each frame, and the state at the end."""
        integrator, context = self._context(self.settings.seed + 1 + number)
        context.setPositions(atoms)
        context.setVelocities(velocities)
        frames = []
        for _ in range(self.settings.frames_a_piece):
            integrator.step(self.settings.steps_a_frame)
            frames.append(self._beads(context))
        positions, forces = (np.array(values, np.float32) for values in zip(*frames, strict=True))
        return {"positions": positions, "forces": forces} | self._state(context)

    def _beads(self, context: Any) -> tuple[np.ndarray, np.ndarray]:
        state, unit = context.getState(getPositions=True, getForces=True), self.unit
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer).reshape(-1, 3, 3)
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        centres, net = beads(positions, forces.reshape(-1, 3, 3))
        return centres * ANGSTROM_PER_NM, net * EV_PER_KJ_PER_MOL / ANGSTROM_PER_NM

    def _state(self, context: Any) -> dict[str, np.ndarray]:
        state, unit = context.getState(getPositions=True, getVelocities=True), self.unit
        return {
            "atoms": state.getPositions(asNumpy=True).value_in_unit(unit.nanometer),
            "velocities": state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond),
        }


def _with_centres_scaled(positions: Float[np.ndarray, "atom 3"], factor: float) -> Float[np.ndarray, "atom 3"]:
    """Molecules moved with the box, without a change of their shape."""
    molecules = positions.reshape(-1, 3, 3)
    centres = np.einsum("a,max->mx", MASSES / BEAD_MASS, molecules)[:, None]
    return (molecules + (factor - 1) * centres).reshape(-1, 3)


def as_dataset(positions: Float[np.ndarray, "frame bead 3"], forces: np.ndarray | None, side: float) -> bnn_jax.Dataset:
    """Frames of beads as structures, with forces as their only labels.

    Args:
        positions: in Angstrom.
        forces: in eV/Angstrom; None leaves them out.
        side: of the cube, in Angstrom.
    """
    num_frames, num_beads, _ = positions.shape
    return bnn_jax.Dataset(
        numbers=np.full(num_frames * num_beads, BEAD),
        positions=positions.reshape(-1, 3).astype(np.float64),
        num_atoms=np.full(num_frames, num_beads),
        cell=np.tile(side * np.eye(3), (num_frames, 1, 1)),
        pbc=np.ones((num_frames, 3), bool),
        energy=np.full(num_frames, np.nan),
        forces=np.full((num_frames * num_beads, 3), np.nan) if forces is None else forces.reshape(-1, 3).astype(float),
        stress=np.full((num_frames, 3, 3), np.nan),
    )


def as_atoms(positions: Float[np.ndarray, "bead 3"], side: float) -> ase.Atoms:
    """One frame of beads, wrapped into the cube."""
    return ase.Atoms(np.full(len(positions), BEAD), np.mod(positions, side), cell=[side] * 3, pbc=True)
