"""What follows a moving system predicts, to the last bit, what is predicted from nothing."""

import ase
import numpy as np
import pytest
import systems
from posteriors import random_posterior

from bnn_jax import InputError
from bnn_jax import following as module
from bnn_jax.following import SKIN, Following
from bnn_jax.predict import GrowingSizes

SYSTEMS = {
    "molecule": systems.ethanol(),
    "crystal": systems.triclinic_crystal(),
    "slab": systems.slab(),
    "wide": systems.silicon() * (2, 2, 2),
}


@pytest.fixture(scope="module", params=SYSTEMS)
def case(request):
    labelled = systems.labelled_series({"wide": systems.silicon()}.get(request.param, SYSTEMS[request.param]), 3)
    return random_posterior(labelled).predictor, SYSTEMS[request.param].copy()


def equal(found, expected) -> None:
    for name, values in expected._asdict().items():
        np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)


def test_a_trajectory(case, monkeypatch):
    """Through lists that are made again, atoms that leave the cell, and strains."""
    predictor, atoms = case
    atoms, rng = atoms.copy(), np.random.default_rng(0)
    lists = []
    find = module.neighbor_list
    monkeypatch.setattr(module, "neighbor_list", lambda *arguments: lists.append(1) or find(*arguments))
    following, sizes = Following(predictor, GrowingSizes(headroom=1.0)), GrowingSizes(headroom=1.0)
    velocities = rng.normal(size=atoms.positions.shape) + 3.0  # and the whole drifts away
    for step in range(30):
        atoms.positions += 0.02 * velocities
        if step % 10 == 9 and atoms.pbc.any():
            atoms.set_cell(1.01 * atoms.cell.array, scale_atoms=True)
        equal(following(atoms), predictor.predict(atoms, sizes))
    assert 1 < len(lists) < 20


def test_another_system_starts_anew(case):
    predictor, atoms = case
    following, sizes = Following(predictor), GrowingSizes()
    equal(following(atoms), predictor.predict(atoms, sizes))
    fewer = atoms[: len(atoms) - 1]
    equal(following(fewer), predictor.predict(fewer, sizes))
    equal(following(atoms), predictor.predict(atoms, sizes))


def test_what_no_potential_could_describe_is_refused_at_any_time(case):
    predictor, atoms = case
    following = Following(predictor)
    expected = following(atoms)
    spoilt = atoms.copy()
    spoilt.positions[1] = spoilt.positions[0] + 0.01
    with pytest.raises(InputError, match="atoms 0 and 1 are"):
        following(spoilt)
    spoilt.positions[1] = np.nan
    with pytest.raises(InputError, match="positions or cell hold NaN"):
        following(spoilt)
    unknown = atoms.copy()
    unknown.numbers[0] = 92
    with pytest.raises(InputError, match="holds U, which the"):
        following(unknown)
    equal(following(atoms), expected)


def test_no_pair_is_missing_just_before_a_list_is_made_again():
    """Two atoms that come from beyond the cutoff as fast as the skin lets them."""
    atoms = ase.Atoms("Si2", [[0, 0, 0], [0, 0, 0]])
    predictor = random_posterior(systems.labelled_series(systems.silicon(), 3)).predictor
    atoms.positions[1, 0] = predictor.cutoff + 0.5 * SKIN
    following, sizes = Following(predictor), GrowingSizes()
    following(atoms)
    for nearer in np.linspace(0, 1.2 * SKIN, 25):
        moved = atoms.copy()
        moved.positions[:, 0] += [nearer / 2, -nearer / 2]
        equal(following(moved), predictor.predict(moved, sizes))
