"""What a data set must be: complete, in one unit, at one level of theory, of structures that can exist."""

import ase
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from systems import (
    ammonia,
    crystals,
    dimer,
    far_fragments,
    isolated_atom,
    labelled,
    labelled_series,
    rattled,
    slab,
    sodium_chloride,
    triclinic_crystal,
    water,
)

from bnn_jax.atoms import Dataset, neighbor_list, pack, read_file, warn_of_isolated_atoms
from bnn_jax.atoms.geometry import OVERLAP
from bnn_jax.types import InputError, InputWarning


def without(atoms, label):
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, **{key: value for key, value in atoms.calc.results.items() if key != label})
    return copy


@pytest.mark.parametrize("label", ["energy", "forces", "stress"])
def test_a_label_that_only_some_structures_have_needs_consent(label):
    series = labelled_series(sodium_chloride(), 5)
    for atoms in series:
        atoms.calc.results["stress"] = np.ones(6)
    series[2:4] = [without(atoms, label) for atoms in series[2:4]]
    sentence = rf"structures: {label} is missing in 2 of 5 structures \(first: frame 2\); label them, or accept"
    with pytest.raises(InputError, match=sentence):
        Dataset.from_atoms(series, require_labels=True)
    dataset = Dataset.from_atoms(series, require_labels=True, allow_missing_labels=True)
    values = getattr(dataset, label).reshape(len(series), -1)
    np.testing.assert_array_equal(np.isnan(values).all(axis=1), [False, False, True, True, False])
    assert len(Dataset.from_atoms(series)) == 5  # to predict, no label is needed
    assert len(Dataset.from_atoms(series[2:4], require_labels=True)) == 2  # a label that none has is no gap


def test_what_is_no_gap():
    """Masked atoms, forces of a single atom, stress of what is not periodic in three directions."""
    masked = labelled(ammonia())
    masked.set_array("forces_mask", np.arange(4) < 1)
    alone = isolated_atom("N")
    alone.calc = SinglePointCalculator(alone, energy=-3.0)
    crystal = labelled(rattled(triclinic_crystal()))
    crystal.calc.results["stress"] = np.ones(6)
    dataset = Dataset.from_atoms([masked, alone, crystal, labelled(slab())], require_labels=True)
    assert np.isfinite(dataset.forces).all(axis=1).sum() == 1 + 0 + 2 + 2


def test_frames_are_named_by_their_number_in_the_file(tmp_path):
    series = labelled_series(ammonia(), 6)
    series[4] = without(series[4], "energy")
    ase.io.write(tmp_path / "a.xyz", series)
    with pytest.raises(InputError, match=r"a.xyz: energy is missing in 1 of 3 structures \(first: frame 4\)"):
        read_file(tmp_path / "a.xyz", index="::2", require_labels=True)


def brute_force_distance(atoms):
    """Over all pairs and the 125 nearest cells."""
    images = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), axis=-1).reshape(-1, 3) * atoms.pbc
    vectors = atoms.positions[:, None] - atoms.positions[None, :]
    distances = np.linalg.norm(vectors[None] + (images @ atoms.cell.array)[:, None, None], axis=-1)
    return np.where(np.eye(len(atoms), dtype=bool), np.inf, distances).min()


@pytest.mark.parametrize("seed", range(30))
def test_overlaps_are_found_wherever_they_are(seed):
    """Across faces, edges and corners of skewed cells, and far outside of them; against all pairs of all images."""
    rng = np.random.default_rng(seed)
    atoms = [*crystals(), slab(), water()][seed % 5].repeat(1)
    cell = atoms.cell.array if atoms.pbc.any() else np.eye(3)
    corner = rng.integers(0, 2, size=3) @ cell
    atoms.positions[0] = corner + rng.normal(scale=1e-3, size=3)
    step = rng.normal(size=3)
    other = atoms.positions[0] + rng.uniform(0.9, 1.1) * OVERLAP * step / np.linalg.norm(step)
    atoms += ase.Atoms("H", [other + (rng.integers(-3, 4, size=3) * atoms.pbc) @ cell])
    distance = np.linalg.norm(other - atoms.positions[0])
    near = atoms.copy()
    near.positions[-1] = other
    assert brute_force_distance(near) == pytest.approx(distance)
    if distance < OVERLAP:
        sentence = rf"frame 0: atoms 0 and {len(atoms) - 1} are {distance:.2g} Angstrom apart; remove one"
        with pytest.raises(InputError, match=sentence):
            Dataset.from_atoms([atoms])
    else:
        assert len(Dataset.from_atoms([atoms])) == 1


def test_many_atoms_on_one_spot_do_not_fill_the_memory():
    with pytest.raises(InputError, match="Angstrom apart"):
        Dataset.from_atoms([ase.Atoms(numbers=np.ones(3000, int), positions=np.zeros((3000, 3)))])


@pytest.mark.parametrize(
    ("cell", "pbc", "sentence"),
    [
        (
            [[0, 4, 0], [4, 0, 0], [0, 0, 4]],
            True,
            r"the lattice vectors are left-handed; swap two of them, or change the sign",
        ),
        ([[4, 0, 0], [0, 4, 0], [0, 0, 0]], True, "pbc is set but the cell has no volume"),
        ([[4, 0, 0], [0, 4, 0], [4, 4, 0]], True, "pbc is set but the cell has no volume"),
        ([[4, 0, 0], [0, 4, 0], [4, 4, 0]], [True, True, False], "the lattice vectors lie in one plane"),
        ([[4, 0, 0], [0, 4, 0], [0, 0, 1e-3]], True, r"lattice planes of the cell are 0.001 Angstrom apart"),
        ([[4, 0, 0], [4e3, 4, 0], [0, 0, 4]], True, r"lattice planes of the cell are 0.004 Angstrom apart"),
        ([[4e7, 0, 0], [0, 4, 0], [0, 0, 4]], True, r"positions or cell reach 4e\+07 Angstrom"),
        ([[np.nan, 0, 0], [0, 4, 0], [0, 0, 4]], True, "positions or cell hold NaN or infinity"),
    ],
)
def test_a_cell_that_is_none(cell, pbc, sentence):
    atoms = ase.Atoms("H", cell=cell, pbc=pbc)
    with pytest.raises(InputError, match=f"structures, frame 1: {sentence}"):
        Dataset.from_atoms([ase.Atoms("H"), atoms])
    atoms.pbc = False
    if np.abs(atoms.cell.array).max() < 1e6:
        assert len(Dataset.from_atoms([atoms])) == 1


def test_the_cures_of_a_left_handed_cell():
    crystal = triclinic_crystal()
    expected = sorted(np.linalg.norm(edges(crystal), axis=1))
    crystal.set_cell(crystal.cell.array[[1, 0, 2]])
    with pytest.raises(InputError, match="left-handed"):
        Dataset.from_atoms([crystal])
    crystal.set_cell(-crystal.cell.array)
    np.testing.assert_allclose(sorted(np.linalg.norm(edges(crystal), axis=1)), expected)


def edges(atoms):
    data = Dataset.from_atoms([atoms])
    senders, receivers, shifts = neighbor_list(data.positions, data.cell[0], data.pbc[0], 4.0)
    return data.positions[senders] + shifts @ data.cell[0] - data.positions[receivers]


@pytest.mark.parametrize("number", [-1, 119, 2**32 + 1])
def test_atomic_numbers_that_no_element_has(number):
    with pytest.raises(InputError, match=rf"frame 0: atom 1 has atomic number {number}, which no element has"):
        Dataset.from_atoms([ase.Atoms(numbers=[1, number], positions=[[0, 0, 0], [0, 0, 1]])])


def test_a_bead_of_a_coarse_grained_model_is_an_atom():
    assert Dataset.from_atoms([ase.Atoms("X")]).species == (0,)


@pytest.mark.parametrize("label", ["energy", "forces"])
def test_absurd_labels(label):
    atoms = labelled(ammonia())
    atoms.calc.results[label] = 1e300 * np.ones_like(atoms.calc.results[label])
    with pytest.raises(InputError, match=rf"frame 0: {label} is beyond 1e\+12 in eV and Angstrom; correct it"):
        Dataset.from_atoms([atoms], energy_unit="Hartree")


@pytest.mark.parametrize(
    "value", ["x" * 10**6, [[1.0], [2.0, 3.0]], 10**400, 1j, {"a": 1}], ids=["long", "ragged", "huge", "complex", "map"]
)
def test_a_label_that_is_no_number_is_shown_in_short(value):
    with pytest.raises(InputError, match=r"frame 0: energy is .*, not a number") as caught:
        Dataset.from_atoms([ase.Atoms("H", info={"energy": value})])
    assert len(str(caught.value)) < 200


def test_a_mask_that_is_none():
    atoms = labelled(ammonia())
    atoms.set_array("forces_mask", np.ones((4, 3), bool))
    with pytest.raises(InputError, match="frame 0: forces_mask must be one truth value an atom"):
        Dataset.from_atoms([atoms])


# Energies of one molecule in a harmonic well at 300 K: consistent with their forces by construction.


def spoilt(factor=1.0, shifted=(), shift=0.0, size=40):
    series = labelled_series(ammonia(), size, std=0.1)
    for i, atoms in enumerate(series):
        atoms.calc.results["forces"] *= 4.0
        atoms.calc.results["energy"] = factor * (4.0 * atoms.calc.results["energy"] + shift * (i in shifted)) - 1500
    return series


def test_energies_that_fit_their_forces_pass():
    assert len(Dataset.from_atoms(spoilt())) == 40


def test_energies_in_another_unit_than_forces():
    series = spoilt(factor=23.06)
    with pytest.raises(
        InputError, match=r"structures: energies differ by .* too much for forces of .*name energy_unit"
    ):
        Dataset.from_atoms(series)
    assert len(Dataset.from_atoms(series, energy_unit="eV")) == 40


@pytest.mark.parametrize("shifted", [range(20, 40), range(30, 40), [7]], ids=["half", "quarter", "one"])
def test_mixed_levels_of_theory(shifted):
    series = spoilt(shifted=shifted, shift=40.0)
    first = ", ".join(str(i) for i in list(shifted)[:3]) if len(shifted) < 20 else r"\d+"
    sentence = (
        rf"energies fall into two groups (39|40).* eV apart.*: {len(shifted)} of 40 structures \(first frames: {first}"
    )
    with pytest.raises(InputError, match=sentence):
        Dataset.from_atoms(series)
    assert len(Dataset.from_atoms(series, energy_unit="eV")) == 40


def test_isolated_atoms_and_two_molecules_are_no_mixture():
    alone = isolated_atom("N")
    alone.calc = SinglePointCalculator(alone, energy=-700.0)
    other = [labelled(rattled(water(), seed=seed)) for seed in range(10)]
    assert len(Dataset.from_atoms([*spoilt(), alone, *other])) == 51


def test_public_sets_pass_and_their_spoilt_copies_do_not(shared_data):
    for name in ("rmd17/ethanol/train", "3bpa/train_300K", "ammonia/train"):
        frames = read_file(shared_data / f"{name}.xyz.gz", index=":200").to_atoms()
        for i, atoms in enumerate(frames):
            atoms.calc.results["energy"] += 8.0 * (i % 2)
        with pytest.raises(InputError, match="energies fall into two groups"):
            Dataset.from_atoms(frames)
        for i, atoms in enumerate(frames):
            atoms.calc.results["energy"] = 23.06 * (atoms.calc.results["energy"] - 8.0 * (i % 2))
        with pytest.raises(InputError, match="as if their units were different"):
            Dataset.from_atoms(frames)


def test_atoms_that_no_other_sees_are_warned_of():
    apart = far_fragments(3.0)
    apart += ase.Atoms("H", [[0.0, 0.0, 40.0]])
    structures = [water(), isolated_atom(), dimer(distance=4.0), apart, sodium_chloride()]
    dataset = Dataset.from_atoms(structures)

    def packed(data):
        return pack(data, 3.0, dataset.species, np.zeros(len(dataset.species)))

    sentence = r"3 atoms in 2 of 5 training structures \(first: structure 2\) have no neighbour within 3 Angstrom"
    with pytest.warns(InputWarning, match=sentence):
        warn_of_isolated_atoms(packed(dataset), 3.0)
    # A warning of ours is an error here.
    warn_of_isolated_atoms(packed(dataset[[0, 1, 4]]), 3.0)
    warn_of_isolated_atoms(packed(dataset[[1]]), 3.0)  # not one edge


def test_hashes_tell_structures_apart_and_nothing_else():
    first = labelled_series(ammonia(), 4)
    dataset = Dataset.from_atoms(first)
    hashes = dataset.hashes()
    assert hashes.dtype == np.uint64 and len(set(hashes)) == 4
    again = [atoms.copy() for atoms in first]  # without labels
    again[0].positions += 1e-8
    again[1].positions[2, 1] += 1e-4
    again[2].numbers[0] = 15
    again[3].set_cell(10 * np.eye(3))
    np.testing.assert_array_equal(Dataset.from_atoms(again).hashes() == hashes, [True, False, False, False])
    np.testing.assert_array_equal(dataset[[3, 1]].hashes(), hashes[[3, 1]])
    # as any machine must find them
    assert Dataset.from_atoms([ase.Atoms("H2", [[0, 0, 0], [0, -0.0, 0.74]])]).hashes()[0] == 4980305232350020758
