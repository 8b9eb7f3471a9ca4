"""Atoms, structures and elements from force components, against loops and hand computed values."""

import inspect
import re

import numpy as np
import pytest

from bnn_jax.metrics import atom_norm, atom_rms, element_masks, structure_of_atom, structure_rms

NUM_ATOMS = np.array([2, 1, 3])
SPECIES = np.array([8, 1, 1, 8, 8, 1])


@pytest.fixture
def errors():
    return np.random.default_rng(0).normal(size=(6, 3))


def test_structure_of_atom():
    assert structure_of_atom(NUM_ATOMS).tolist() == [0, 0, 1, 2, 2, 2]
    assert structure_of_atom(np.array([1, 0, 2])).tolist() == [0, 2, 2]


def test_atoms_by_hand():
    errors = np.array([[3.0, 0.0, -4.0], [1.0, -1.0, 1.0]])
    assert atom_norm(errors) == pytest.approx([5.0, np.sqrt(3.0)], rel=1e-14)
    assert atom_rms(errors) == pytest.approx([5.0 / np.sqrt(3.0), 1.0], rel=1e-14)
    assert atom_rms(np.array([[2.0], [0.5]])) == pytest.approx([2.0, 0.5], rel=1e-14)  # isotropic stds


def test_structures_equal_a_loop(errors):
    expected = [np.sqrt(np.mean(part**2)) for part in (errors[:2], errors[2:3], errors[3:])]
    assert structure_rms(errors, NUM_ATOMS) == pytest.approx(expected, rel=1e-13)


def test_one_std_an_atom_equals_three_components(errors):
    stds = np.abs(errors[:, :1])
    repeated = np.repeat(stds, 3, axis=1)
    assert structure_rms(stds, NUM_ATOMS) == pytest.approx(structure_rms(repeated, NUM_ATOMS), rel=1e-13)
    where = np.arange(18).reshape(6, 3) % 4 > 0  # other components of other atoms
    value = structure_rms(stds, NUM_ATOMS, where)
    assert value == pytest.approx(structure_rms(repeated, NUM_ATOMS, where), rel=1e-13)


def test_structure_variance_of_an_ensemble_is_that_of_the_paper():
    # Tan et al. (2023), eq. 5, written as there: squared norms over 3 n, then the sum over samples over M - 1.
    samples = np.random.default_rng(1).normal(size=(5, 6, 3))
    deviations = np.square(samples - samples.mean(axis=0)).sum(axis=2)
    expected = [deviations[:, part].sum(axis=1).sum() / (3 * n) / 4 for part, n in ((slice(0, 2), 2), (slice(3, 6), 3))]
    rms = structure_rms(samples.std(axis=0, ddof=1), NUM_ATOMS)
    assert rms[[0, 2]] ** 2 == pytest.approx(expected, rel=1e-12)


def test_components_out_of_use_may_be_missing(errors):
    where = np.ones((6, 3), dtype=bool)
    where[0, 1] = where[2] = False  # the only atom of structure 1
    holes = np.where(where, errors, np.nan)
    holes[2, 0] = np.inf
    assert atom_rms(holes, where)[0] == pytest.approx(np.sqrt((errors[0, 0] ** 2 + errors[0, 2] ** 2) / 2.0))
    assert np.flatnonzero(np.isnan(atom_rms(holes, where))).tolist() == [2]
    by_structure = structure_rms(holes, NUM_ATOMS, where)
    assert by_structure[0] == pytest.approx(np.sqrt((np.sum(errors[:2] ** 2) - errors[0, 1] ** 2) / 5.0))
    assert np.isnan(by_structure[1])
    assert by_structure[2] == pytest.approx(np.sqrt(np.mean(errors[3:] ** 2)))


def test_structures_without_atoms(errors):
    with_empty = structure_rms(errors, np.array([0, 2, 1, 0, 3, 0]))
    assert np.isnan(with_empty[[0, 3, 5]]).all()
    assert with_empty[[1, 2, 4]] == pytest.approx(structure_rms(errors, NUM_ATOMS), rel=1e-14)


def test_elements(errors):
    masks = element_masks(SPECIES)
    assert list(masks) == [1, 8]
    assert masks[8].tolist() == [True, False, False, True, True, False]
    assert np.sum(list(masks.values()), axis=0).tolist() == [1] * 6  # every atom has one element
    oxygen = structure_rms(errors, NUM_ATOMS, masks[8][:, None])
    assert oxygen[[0, 2]] == pytest.approx([np.sqrt(np.mean(errors[0] ** 2)), np.sqrt(np.mean(errors[3:5] ** 2))])
    assert np.isnan(oxygen[1])


def test_calibrated_components_give_calibrated_groups():
    rng = np.random.default_rng(2)
    stds = rng.uniform(0.5, 2.0, size=(30_000, 1))
    errors = stds * rng.normal(size=(30_000, 3))
    num_atoms = np.full(3_000, 10)
    ratio = np.square(structure_rms(errors, num_atoms)).mean() / np.square(structure_rms(stds, num_atoms)).mean()
    # A mean of squares of n normals has a relative standard error of sqrt(2 / n), more for stds that differ.
    assert ratio == pytest.approx(1.0, abs=4.0 * 1.5 * np.sqrt(2.0 / 90_000))


def test_bad_arguments(errors):
    message = "num_atoms adds up to 5, but components has 6 atoms; give the atoms of all structures, and leave some out"
    with pytest.raises(ValueError, match=re.escape(message)):
        structure_rms(errors, np.array([2, 3]))
    errors[4, 1] = np.nan
    message = "components[4, 1] is nan, not finite; leave it out with where."
    for call in (atom_rms, atom_norm, lambda values: structure_rms(values, NUM_ATOMS)):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(errors)
    unchecked = inspect.unwrap(atom_rms)  # without the suite's shape checker
    for components, where in (((6,), (6,)), ((6, 3), (5, 3)), ((6, 3), (6, 2)), ((6, 3), (6,)), ((1, 3), (6, 3))):
        message = f"Shapes do not fit: components {components}, where {where}; give [atom, 3]."
        with pytest.raises(ValueError, match=re.escape(message)):
            unchecked(np.zeros(components), np.ones(where, dtype=bool))
    for shape in ((6, 1), (3,)):
        with pytest.raises(ValueError, match=re.escape(f"components has shape {shape}; give [atom, 3].")):
            inspect.unwrap(atom_norm)(np.zeros(shape))
