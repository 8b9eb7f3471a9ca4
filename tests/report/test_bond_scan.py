"""Bonds of each kind are found, stretched with what hangs on them, and shown with the std that is predicted."""

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from posteriors import random_posterior
from systems import labelled_series, rattled, water

from bnn_jax import Dataset
from bnn_jax.report.bond_scan import FACTORS, bond_scan, find_bonds, scan_bonds, stretched
from bnn_jax.validated import ValidatedRange


def test_every_kind_of_bond_is_found_with_its_lengths():
    dataset = Dataset.from_atoms([rattled(molecule("CH3CH2OH"), 0.02, seed) for seed in range(4)])
    bonds = {bond.name: bond for bond in find_bonds(dataset)}
    assert set(bonds) == {"H-C", "C-C", "H-O", "C-O"}
    for name, length in (("H-C", 1.09), ("C-C", 1.51), ("H-O", 0.97), ("C-O", 1.43)):
        shortest, longest = bonds[name].known
        assert shortest < longest and shortest == pytest.approx(length, abs=0.12) == longest
    assert find_bonds(Dataset.from_atoms([Atoms("Ne")])) == []


def test_what_hangs_on_the_lighter_end_moves_along():
    ethanol = molecule("CH3CH2OH")
    (bond,) = [each for each in find_bonds(Dataset.from_atoms([ethanol])) if each.name == "C-O"]
    frames = stretched(ethanol, bond)
    lengths = [frame.get_distance(bond.first, bond.second) for frame in frames]
    np.testing.assert_allclose(lengths, FACTORS * ethanol.get_distance(bond.first, bond.second), rtol=1e-12)
    moved = np.abs(frames[-1].positions - ethanol.positions).max(axis=1) > 1e-12
    assert sorted(ethanol.symbols[moved]) == ["H", "O"]
    inside = frames[-1][moved].get_all_distances(), ethanol[moved].get_all_distances()
    np.testing.assert_allclose(*inside, atol=1e-12)


def test_in_rings_and_crystals_one_atom_moves():
    for atoms in (molecule("C6H6"), bulk("Si", cubic=True)):
        bond = next(each for each in find_bonds(Dataset.from_atoms([atoms])) if each.name in ("C-C", "Si-Si"))
        frames = stretched(atoms, bond)
        moved = np.abs(frames[0].positions - atoms.positions).max(axis=1) > 1e-12
        assert moved.sum() == 1
        assert frames[0].get_distance(bond.first, bond.second, mic=True) == pytest.approx(
            0.6 * atoms.get_distance(bond.first, bond.second, mic=True)
        )


def test_the_scan_has_the_stds_of_the_two_ends():
    posterior = random_posterior(labelled_series(water(), 6), num_samples=4, num_chains=2)
    near = Dataset.from_atoms(labelled_series(water(), 12, seed=5))
    found = ValidatedRange.of(posterior.predict(near), near.numbers, np.isfinite(near.forces).all(axis=1))
    posterior = dataclasses.replace(posterior, validated=found)
    (scan,) = scan_bonds(posterior.predict, near)
    (bond,) = find_bonds(near)
    rows = slice(near.offsets[bond.structure], near.offsets[bond.structure + 1])
    frames = stretched(near_atoms := water_at(near.positions[rows]), bond)
    assert len(near_atoms) == 3
    for point in (0, 12, 24):
        predictive, ends = posterior.predict(frames[point]), [bond.first, bond.second]
        assert scan.forces_std[point] == pytest.approx(predictive.forces_std[ends].max(), rel=1e-4)
        assert predictive.beyond_validated is not None
        assert scan.is_beyond[point] == predictive.beyond_validated[ends].any()
    assert scan.name == "H-O"
    summary = scan.summary()
    inside = (scan.lengths >= bond.known[0]) & (scan.lengths <= bond.known[1])
    assert summary["std_known"] == pytest.approx(scan.forces_std[inside].mean())
    assert (summary["std_squeezed"], summary["std_stretched"]) == (scan.forces_std[0], scan.forces_std[-1])
    figure = bond_scan([scan])
    assert figure.axes[0].get_xlabel() == "H-O (Å)"
    figure = bond_scan([scan] * 4)
    assert [axes.get_visible() for axes in figure.axes] == [True] * 4 + [False] * 2


def water_at(positions: np.ndarray):
    atoms = water()
    atoms.positions = positions
    return atoms
