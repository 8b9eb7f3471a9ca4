import ase
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from bnn_jax.atoms import Dataset, atomic_shift_sum
from bnn_jax.atoms.statistics import compute
from bnn_jax.types import InputError

ATOMIC = {1: -13.6, 6: -1028.0, 8: -2041.0}


def labelled(symbols, energy=None, forces=None, spacing=1.5, **kwargs):
    num_atoms = len(ase.Atoms(symbols))
    atoms = ase.Atoms(symbols, spacing * np.arange(num_atoms)[:, None] * [1.0, 0, 0], **kwargs)
    labels = {"energy": energy, "forces": forces}
    atoms.calc = SinglePointCalculator(atoms, **{key: value for key, value in labels.items() if value is not None})
    return atoms


def total(symbols):
    return sum(ATOMIC[number] for number in ase.Atoms(symbols).numbers)


def test_shifts_are_those_that_made_the_energies():
    dataset = Dataset.from_atoms([labelled(s, total(s)) for s in ("H2O", "CH4", "CO2", "CH3OH", "H2")])
    statistics = dataset.statistics(2.0)
    assert statistics.species == (1, 6, 8)
    np.testing.assert_allclose(statistics.shifts, list(ATOMIC.values()), rtol=1e-10)
    assert statistics.shifts.dtype == np.float64
    assert statistics.forces_rms == 1.0  # nothing is left that could set a scale
    assert atomic_shift_sum(statistics, np.array([1, 8, 1])) == pytest.approx(total("H2O"))


def test_a_single_molecule_shares_its_energy_equally():
    dataset = Dataset.from_atoms([labelled("C2H6O", -4210.0 + delta) for delta in (-0.5, 0.5)])
    statistics = dataset.statistics(2.0)
    np.testing.assert_allclose(statistics.shifts, -4210.0 / 9, rtol=1e-10)
    assert statistics.forces_rms == pytest.approx(0.5 / 9)  # the spread of the energy per atom


def test_isolated_atoms_in_the_data_set_give_the_shifts():
    frames = [labelled(s, total(s) + 5.0) for s in ("H2O", "CH4")]
    atoms = [labelled(s, total(s)) for s in ("H", "C", "O")]
    np.testing.assert_allclose(Dataset.from_atoms([*frames, *atoms]).statistics(2.0).shifts, list(ATOMIC.values()))
    assert not np.allclose(Dataset.from_atoms([*frames, *atoms[:2]]).statistics(2.0).shifts, list(ATOMIC.values()))


def test_isolated_atoms_given_apart():
    dataset = Dataset.from_atoms([labelled("H2O", -2075.0)])
    isolated = Dataset.from_atoms([labelled(s, total(s)) for s in ("H", "C", "O")])
    np.testing.assert_allclose(compute(dataset, 2.0, isolated).shifts, [-13.6, -2041.0])
    with pytest.raises(InputError, match="The isolated atoms lack an energy of O; add it or leave isolated_atoms out"):
        compute(dataset, 2.0, isolated[:2])


def test_an_atom_in_a_small_cell_is_not_isolated():
    crystals = [labelled("C", -155.0 + i, cell=np.eye(3) * a, pbc=True) for i, a in enumerate((2.0, 2.1))]
    atom = labelled("C", -148.0, cell=np.eye(3) * 20, pbc=True)
    assert Dataset.from_atoms([*crystals, atom]).statistics(3.0).shifts[0] == -148.0
    assert Dataset.from_atoms(crystals).statistics(3.0).shifts[0] == pytest.approx(-154.5)


def test_forces_rms_is_over_labelled_components():
    forces = np.array([[3.0, 0, 0], [0, 4.0, 0], [0, 0, 0]])
    dataset = Dataset.from_atoms([labelled("H2O", 0.0, forces), labelled("H2O", 1.0)])
    assert dataset.statistics(2.0).forces_rms == pytest.approx(np.sqrt(25 / 9))


def test_scale_is_one_where_nothing_tells():
    still = Dataset.from_atoms([labelled("H2O", -1.0, np.zeros((3, 3)))])
    bare = Dataset.from_atoms([labelled("H2O")])
    assert still.statistics(2.0).forces_rms == bare.statistics(2.0).forces_rms == 1.0
    np.testing.assert_array_equal(bare.statistics(2.0).shifts, [0.0, 0.0])


def test_avg_num_neighbors_counts_images():
    chain = labelled("H4", 0.0)  # ends have one neighbour within 2 Angstrom, the middle two
    crystal = labelled("C", 0.0, cell=np.eye(3) * 2.0, pbc=True)
    assert Dataset.from_atoms([chain]).statistics(2.0).avg_num_neighbors == pytest.approx(6 / 4)
    assert Dataset.from_atoms([crystal]).statistics(2.5).avg_num_neighbors == 6
    assert Dataset.from_atoms([chain, crystal]).statistics(2.5).avg_num_neighbors == pytest.approx(12 / 5)
    assert Dataset.from_atoms([labelled("H", 0.0)]).statistics(2.0).avg_num_neighbors == 1.0


def test_an_unknown_element_has_no_shift():
    statistics = Dataset.from_atoms([labelled("H2O", -1.0)]).statistics(2.0)
    with pytest.raises(InputError, match="There is no shift for Si; the potential knows H, O"):
        atomic_shift_sum(statistics, np.array([1, 14]))
