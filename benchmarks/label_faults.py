"""Faults of labels: which share of them the checks of a data set find, by number of structures, and how often in vain.

From the repository's root, with a folder of labelled files (``**/*.xyz.gz``, in eV and Angstrom)::

    python -m benchmarks.label_faults --data FOLDER

Beside the files there are crystals, strained and rattled, because few public files have stresses: argon by
Lennard-Jones, copper and a copper-gold alloy by ASE's effective-medium theory. Every set is checked as it is, all of it
and random parts; then with a fault put into each part.
"""

import argparse
import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import ase
import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from tqdm import tqdm

from bnn_jax import Dataset
from bnn_jax.atoms import read_file
from bnn_jax.atoms.contradictions import check_contradictions
from bnn_jax.atoms.energies import check_energies
from bnn_jax.atoms.labels import Choices
from bnn_jax.types import InputError
from bnn_jax.units import EV_PER_HARTREE, EV_PER_KCAL_PER_MOL, GPA_PER_EV_PER_ANGSTROM3

SIZES = (12, 24, 60, 200)


def mixed(energies: np.ndarray, share: float, offset: float) -> np.ndarray:
    """Some of the energies at another level of theory; the same ones each time."""
    return energies + offset * (np.random.default_rng(0).random(len(energies)) < share)


FAULTS: Mapping[str, Callable[[Dataset], Dataset]] = {
    "forces uphill": lambda data: dataclasses.replace(data, forces=-data.forces),
    "energies in Hartree": lambda data: dataclasses.replace(data, energy=data.energy / EV_PER_HARTREE),
    "energies in kcal/mol": lambda data: dataclasses.replace(data, energy=data.energy / EV_PER_KCAL_PER_MOL),
    "half of the energies 3 eV higher": lambda data: dataclasses.replace(data, energy=mixed(data.energy, 0.5, 3.0)),
    "a fifth of the energies 1 eV higher": lambda data: dataclasses.replace(data, energy=mixed(data.energy, 0.2, 1.0)),
    "stress of VASP's sign": lambda data: dataclasses.replace(data, stress=-data.stress),
    "stress in GPa": lambda data: dataclasses.replace(data, stress=data.stress * GPA_PER_EV_PER_ANGSTROM3),
    "stress in kbar, VASP's sign": lambda data: dataclasses.replace(
        data, stress=-10 * data.stress * GPA_PER_EV_PER_ANGSTROM3
    ),
}


def crystals(prototype: ase.Atoms, calculator, number: int, seed: int = 0) -> Dataset:
    """A crystal with its volume, shape and positions displaced at random, and labelled."""
    rng, frames = np.random.default_rng(seed), []
    for _ in range(number):
        atoms = prototype.copy()
        strain = 0.02 * rng.normal(size=(3, 3)) + 0.01 * rng.normal() * np.eye(3)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += 0.06 * rng.normal(size=atoms.positions.shape)
        atoms.calc = calculator
        labels = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces", "stress")}
        frames.append(ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True))
        frames[-1].calc = SinglePointCalculator(frames[-1], **labels)
    return Dataset.from_atoms(frames, energy_unit="eV", stress_unit="eV/Angstrom^3")


def families(folder: Path) -> Iterator[tuple[str, str, Callable[[], Dataset]]]:
    """Kind, name and content of each set."""
    argon = LennardJones(sigma=3.4, epsilon=0.0104, rc=8.0, smooth=True)
    alloy = bulk("Cu", a=3.8, cubic=True)
    alloy.numbers[0] = 79
    yield "crystals", "argon, 4 atoms", lambda: crystals(bulk("Ar", a=5.3, cubic=True), argon, 200)
    yield "crystals", "copper, 4 atoms", lambda: crystals(bulk("Cu", a=3.6, cubic=True), EMT(), 200)
    yield "crystals", "copper, 32 atoms", lambda: crystals(bulk("Cu", a=3.6, cubic=True) * (2, 2, 2), EMT(), 200)
    yield "crystals", "copper and gold, 32 atoms", lambda: crystals(alloy * (2, 2, 2), EMT(), 200)
    for path in sorted(folder.glob("**/*.xyz.gz")):
        name = str(path.relative_to(folder)).removesuffix(".xyz.gz")
        kind = "molecules" if path.parts[len(folder.parts)] not in PERIODIC else "condensed, public"
        yield kind, name, lambda path=path: read_file(path, energy_unit="eV", stress_unit="eV/Angstrom^3")


PERIODIC = ("carbon_gap17", "silica_zeolite", "water_pbe0", "water_rpbe_d3_n2p2", "cg_water_derived", "cg_water_n2p2")


def complaint(data: Dataset) -> str | None:
    """What the checks say of a data set."""
    numbers = np.arange(len(data))
    try:
        check_energies(data.composition, data.energy, data.forces, data.pbc, numbers, "x")
        check_contradictions(data, Choices(), numbers, "x")
    except InputError as error:
        return str(error)
    return None


def applies(fault: str, data: Dataset) -> bool:
    """Whether the labels that a fault contradicts are there."""
    has_forces, has_energy = np.isfinite(data.forces).any(), np.isfinite(data.energy).any()
    if fault.startswith("stress"):
        return bool((np.isfinite(data.stress).all(axis=(1, 2)) & data.pbc.all(axis=1)).any())
    return bool(has_forces and has_energy)


def run(folder: Path, seeds: int) -> str:
    """Both tables, as Markdown."""
    found, alarms, seconds = defaultdict(list), [], []
    num_checked = 0
    sets = list(families(folder))
    for kind, name, load in tqdm(sets):
        data = load()
        started = time.perf_counter()
        whole = complaint(data)
        seconds.append((time.perf_counter() - started, name, len(data)))
        num_checked += 1
        alarms += [f"{name}, all {len(data)}: {whole}"] if whole else []
        for size in SIZES:
            if size > len(data):
                continue
            for seed in range(seeds):
                part = data.take(np.random.default_rng(seed).permutation(len(data))[:size])
                said = complaint(part)
                num_checked += 1
                alarms += [f"{name}, {size} of seed {seed}: {said}"] if said else []
                for fault, spoil in FAULTS.items():
                    if applies(fault, part):
                        found[kind, fault, size].append(complaint(spoil(part)) is not None)
    slowest = max(seconds)
    lines = [
        f"False alarms: {len(alarms)} of {num_checked} checks ({len(sets)} whole sets, and {seeds} random parts of"
        f" each size that a set has). Slowest check: {slowest[0]:.2f} s ({slowest[1]}, {slowest[2]} structures).",
        *(f"- {alarm}" for alarm in alarms),
        "",
        "| fault | kind | " + " | ".join(f"{size} structures" for size in SIZES) + " |",
        "|---|---|" + "---|" * len(SIZES),
    ]
    for fault in FAULTS:
        for kind in sorted({key[0] for key in found}):
            cells = [found.get((kind, fault, size), []) for size in SIZES]
            if any(cells):
                shares = [f"{100 * np.mean(cell):.0f} % of {len(cell)}" if cell else "" for cell in cells]
                lines.append(f"| {fault} | {kind} | " + " | ".join(shares) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Share of label faults that the checks of a data set find.")
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled files")
    parser.add_argument("--seeds", type=int, default=3, help="random parts of each size")
    options = parser.parse_args()
    print(run(options.data, options.seeds))


if __name__ == "__main__":
    main()
