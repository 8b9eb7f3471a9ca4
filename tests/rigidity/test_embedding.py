"""Small structures keep the environment they are made for, by ASE's neighbour lists."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from systems import dimer, ethanol, far_fragments, rattled, slab, sodium_chloride, triclinic_crystal

from bnn_jax.rigidity import (
    CLOSE_CONTACT,
    Embedding,
    carve_cluster,
    displace_buffer,
    embed_in_crystal,
    embed_periodic,
)
from bnn_jax.types import InputError


def liquid(cell: np.ndarray, symbols: list[str], distance: float, seed: int = 0) -> Atoms:
    """Atoms at random, none closer than a distance to another, images included."""
    rng = np.random.default_rng(seed)
    atoms = Atoms(cell=cell, pbc=True)
    while len(atoms) < len(symbols):
        grown = atoms + Atoms(symbols[len(atoms)], positions=rng.uniform(size=(1, 3)) @ atoms.cell.array)
        if not len(neighbor_list("i", grown, distance)):
            atoms = grown
    return atoms


SKEWED = np.array([[9.0, 0.5, 0.0], [6.0, 7.5, 0.3], [-3.0, 4.0, 8.0]])
STRUCTURES = {
    "liquid carbon": liquid(10.0 * np.eye(3), ["C"] * 110, 1.2),
    "silica": liquid(np.diag([9.0, 10.0, 12.0]), ["Si", "O", "O"] * 28, 1.4, seed=1),
    "skewed": liquid(SKEWED, ["C", "Si"] * 25, 1.3, seed=2),
    "smaller than the sphere": rattled(triclinic_crystal()),
    "slab": slab(),
    "molecule": rattled(ethanol(), 0.02),
    "fragments": far_fragments(5.0),
}
DIAMOND = bulk("C", "diamond", a=3.57)
CRYSTALS = {
    "diamond": DIAMOND,
    "cubic diamond": bulk("C", "diamond", a=3.57, cubic=True),
    "magnesium": bulk("Mg"),
    "rock salt": sodium_chloride(),
    "triclinic": triclinic_crystal(),
}
CONTACT = {"molecule": 0.85, "fragments": 0.85}  # bonds of hydrogen
RADIUS = 3.3


def close_contact(name: str) -> float:
    return CONTACT.get(name, CLOSE_CONTACT)


def assert_same_environment(new: Atoms, index: int, old: Atoms, old_index: int, radius: float) -> None:
    assert new.numbers[index] == old.numbers[old_index]
    found = []
    for atoms, center in ((new, index), (old, old_index)):
        first, second, vectors = neighbor_list("ijD", atoms, radius)
        found.append((atoms.numbers[second[first == center]], vectors[first == center]))
    (numbers, vectors), (old_numbers, old_vectors) = found
    assert len(vectors) == len(old_vectors)
    if len(vectors):
        differences = np.abs(vectors[:, None] - old_vectors[None]).max(axis=-1)
        match = differences.argmin(axis=1)
        assert len(set(match.tolist())) == len(match)
        assert differences.min(axis=1).max() < 1e-10
        np.testing.assert_array_equal(numbers, old_numbers[match])


def assert_no_close_contact(atoms: Atoms, distance: float = CLOSE_CONTACT) -> None:
    assert not len(neighbor_list("i", atoms, distance - 1e-9))


def assert_sound(embedding: Embedding, old: Atoms, index: int, radius: float, contact: float) -> None:
    assert_same_environment(embedding.atoms, embedding.center, old, index, radius)
    assert_no_close_contact(embedding.atoms, contact)
    assert embedding.is_buffer.shape == (len(embedding.atoms),)
    assert not embedding.is_buffer[embedding.center]
    distances = neighbor_list("ijd", embedding.atoms, radius)
    held = distances[1][distances[0] == embedding.center]
    assert not embedding.is_buffer[held].any()


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("radius", [0.5, RADIUS, 7.0])
def test_a_cluster_is_the_environment(name: str, radius: float) -> None:
    old = STRUCTURES[name]
    for index in (0, len(old) - 1):
        found = carve_cluster(old, index, radius)
        assert_same_environment(found.atoms, 0, old, index, radius)
        assert len(found.atoms) == 1 + np.sum(neighbor_list("i", old, radius) == index)
        assert not found.atoms.pbc.any() and not found.atoms.cell.array.any() and not found.is_buffer.any()
        lengths = np.linalg.norm(found.atoms.positions, axis=1)
        assert lengths[0] == 0 and (np.diff(lengths) >= 0).all()


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("radius", [1.0, RADIUS, 6.0])
def test_a_periodic_cube_holds_the_environment(name: str, radius: float) -> None:
    old, contact = STRUCTURES[name], close_contact(name)
    for index in (0, len(old) - 1):
        found = embed_periodic(old, index, radius, contact)
        assert_sound(found, old, index, radius, contact)
        cell = found.atoms.cell.array
        edge = cell[0, 0]
        assert found.atoms.pbc.all()
        np.testing.assert_array_equal(cell, edge * np.eye(3))
        assert 2 * radius <= edge <= 2 * radius + contact + 0.05 + 1e-9
        # Every atom lies where the old structure has one, and none in the cube is missing.
        whole = carve_cluster(old, index, np.sqrt(3) * radius).atoms
        inside = (np.abs(whole.positions) < radius - 1e-6).all(axis=1)
        kept = found.atoms.positions - edge / 2
        gaps = np.abs(whole.positions[:, None] - kept[None]).max(axis=-1)
        assert gaps.min(axis=0).max() < 1e-10 and gaps[inside].min(axis=1).max() < 1e-10
        np.testing.assert_array_equal(whole.numbers[gaps.argmin(axis=0)], found.atoms.numbers)
        np.testing.assert_array_equal(found.is_buffer, np.linalg.norm(kept, axis=1) > radius)


def test_the_edge_grows_no_more_than_it_must() -> None:
    """One step less leaves a close contact; where the period fits the cube the crystal comes back as it was."""
    found = embed_periodic(STRUCTURES["liquid carbon"], 0, RADIUS)
    assert found.atoms.cell.array[0, 0] > 2 * RADIUS
    tighter = found.atoms.copy()
    tighter.set_cell((found.atoms.cell.array[0, 0] - 0.05) * np.eye(3))
    assert len(neighbor_list("i", tighter, CLOSE_CONTACT))
    crystal = CRYSTALS["cubic diamond"]
    again = embed_periodic(crystal, 2, 3.57 / 2)
    assert len(again.atoms) == 8 and again.atoms.cell.array[0, 0] == 3.57
    assert_same_environment(again.atoms, 0, crystal, 2, 8.0)


def test_neighbours_on_the_surface_of_the_sphere_are_held() -> None:
    old = sodium_chloride()
    for found in (embed_periodic(old, 0, 5.64), embed_in_crystal(old, 0, 5.64, old), carve_cluster(old, 0, 5.64)):
        assert_same_environment(found.atoms, found.center, old, 0, 5.64 + 1e-6)


def test_images_of_neighbours_on_the_surface_do_not_enter() -> None:
    """A neighbour at the radius, along an axis whose period would be twice that."""
    old = dimer("C2", 2.0)
    simple_cubic = Atoms("Po", cell=2.0 * np.eye(3), pbc=True)
    for found in (embed_periodic(old, 0, 2.0), embed_in_crystal(old, 0, 2.0, simple_cubic)):
        assert_same_environment(found.atoms, found.center, old, 0, 2.0 + 1e-6)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("crystal", CRYSTALS)
def test_a_crystal_holds_the_environment_and_one_of_its_own(name: str, crystal: str) -> None:
    old, contact, host = STRUCTURES[name], close_contact(name), CRYSTALS[crystal]
    index = len(old) - 1
    found = embed_in_crystal(old, index, RADIUS, host, contact)
    assert_sound(found, old, index, RADIUS, contact)
    center = found.crystal_center
    assert center is not None and center != found.center and not found.is_buffer[center]
    site = np.flatnonzero(host.numbers == found.atoms.numbers[center])
    if crystal != "triclinic":  # all atoms of a species see the same but for the symmetry of the crystal
        fixed = neighbor_list("i", found.atoms, RADIUS)
        assert np.sum(fixed == center) in [np.sum(neighbor_list("i", host, RADIUS) == i) for i in site]
    # The supercell is made of whole cells, and its sites are those of the crystal.
    repeats = found.atoms.cell.array @ np.linalg.inv(host.cell.array)
    np.testing.assert_allclose(repeats, np.diag(np.rint(np.diag(repeats))), atol=1e-10)
    matching = [i for i in site if _matches(found.atoms, center, host, int(i))]
    assert matching
    # What is in neither environment is the buffer.
    first, second = neighbor_list("ij", found.atoms, RADIUS)
    held = {found.center, center, *second[first == found.center], *second[first == center]}
    assert set(np.flatnonzero(~found.is_buffer)) == held
    assert found.atoms.get_distance(found.center, center, mic=True) >= 2 * RADIUS


def _matches(new: Atoms, index: int, old: Atoms, old_index: int) -> bool:
    try:
        assert_same_environment(new, index, old, old_index, RADIUS)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(("name", "contact"), [("liquid carbon", 1.0), ("liquid carbon", 1.15), ("skewed", 1.29)])
def test_crystal_atoms_that_make_room_belong_to_no_environment(name: str, contact: float) -> None:
    """Systems where the farthest crystal atom, or all of a smaller supercell, would have lost a neighbour to that."""
    found = embed_in_crystal(STRUCTURES[name], 0, 4.0, DIAMOND, contact)
    assert_sound(found, STRUCTURES[name], 0, 4.0, contact)
    assert found.crystal_center is not None
    around = neighbor_list("i", found.atoms, 4.0)
    assert np.sum(around == found.crystal_center) == np.sum(neighbor_list("i", DIAMOND, 4.0) == 0)


def test_no_smaller_supercell_holds_both_environments() -> None:
    """Of a cubic crystal, by trying all with fewer cells."""
    from bnn_jax.rigidity.embedding import _in_supercell

    old, host = STRUCTURES["liquid carbon"], CRYSTALS["cubic diamond"]
    found = embed_in_crystal(old, 0, RADIUS, host)
    num_cells = round(found.atoms.get_volume() / host.get_volume())
    sphere = carve_cluster(old, 0, RADIUS).atoms
    for repeats in np.ndindex(6, 6, 6):
        if 0 < np.prod(np.add(repeats, 1)) < num_cells:
            assert _in_supercell(sphere, host.repeat(np.add(repeats, 1)), RADIUS, CLOSE_CONTACT) is None


def embed_in_diamond(atoms: Atoms, index: int, radius: float, contact: float) -> Embedding:
    return embed_in_crystal(atoms, index, radius, DIAMOND, contact)


@pytest.mark.parametrize("make", [embed_periodic, embed_in_diamond])
@pytest.mark.parametrize("name", ["liquid carbon", "silica", "skewed", "smaller than the sphere", "molecule"])
def test_displaced_buffers_leave_the_environments_as_they_are(make, name: str) -> None:
    old, contact = STRUCTURES[name], close_contact(name)
    before = make(old, 1, RADIUS, contact)
    positions = before.atoms.positions.copy()
    drawn = []
    for seed in range(5):
        after = displace_buffer(before, seed, close_contact=contact)
        assert_sound(after, old, 1, RADIUS, contact)
        if before.crystal_center is not None:
            assert_same_environment(after.atoms, before.crystal_center, before.atoms, before.crystal_center, RADIUS)
        moves = np.linalg.norm(after.atoms.positions - positions, axis=1)
        np.testing.assert_array_equal(moves > 0, before.is_buffer)
        drawn.append(after.atoms.positions)
    np.testing.assert_array_equal(displace_buffer(before, 4, close_contact=contact).atoms.positions, drawn[4])
    np.testing.assert_array_equal(before.atoms.positions, positions)
    assert not before.is_buffer.any() or not np.array_equal(drawn[0], drawn[1])


def test_displacements_have_the_std_asked_for() -> None:
    """Where hardly any breaks a rule: a sparse crystal."""
    found = embed_in_crystal(STRUCTURES["liquid carbon"], 0, RADIUS, bulk("Ar", "fcc", a=5.3).repeat(2))
    moves = []
    for seed in range(40):
        moves.append((displace_buffer(found, seed).atoms.positions - found.atoms.positions)[found.is_buffer])
    drawn = np.concatenate(moves)
    assert drawn.std() == pytest.approx(0.2, abs=4 * 0.2 / np.sqrt(2 * drawn.size) + 0.005)
    assert abs(drawn.mean()) < 0.01
    still = displace_buffer(found, 0, std=0.0)
    np.testing.assert_array_equal(still.atoms.positions, found.atoms.positions)


@given(st.integers(0, 2**31), st.floats(1.0, 5.0), st.sampled_from(["periodic", "crystal"]))
@settings(max_examples=15, deadline=None)
def test_random_structures_and_radii(seed: int, radius: float, kind: str) -> None:
    rng = np.random.default_rng(seed)
    cell = 7.0 * np.eye(3) + rng.uniform(-1.5, 1.5, size=(3, 3))
    old = liquid(cell, list(rng.choice(["C", "Si", "O"], size=25)), 1.2, seed)
    old.pbc = rng.integers(2, size=3).astype(bool)
    found = embed_periodic(old, 3, radius) if kind == "periodic" else embed_in_crystal(old, 3, radius, DIAMOND)
    assert_sound(found, old, 3, radius, CLOSE_CONTACT)
    assert_sound(displace_buffer(found, seed), old, 3, radius, CLOSE_CONTACT)


def test_displacements_that_break_the_rules_to_the_end_say_so(monkeypatch) -> None:
    monkeypatch.setattr("bnn_jax.rigidity.embedding.MAX_REDRAWS", 3)
    found = embed_periodic(STRUCTURES["liquid carbon"], 0, RADIUS)
    with pytest.raises(InputError, match=r"of \d+ buffer atoms are still within 1.4 Angstrom .*after 3 redraws"):
        displace_buffer(found._replace(is_buffer=np.arange(len(found.atoms)) > 0), 0, close_contact=1.4)


TOUCHING = Atoms("C3", positions=[[0, 0, 0], [1.5, 0, 0], [1.5, 0.9, 0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: carve_cluster(ethanol(), 9, 3.0), "no atom 9 in a structure of 9; give an index from 0 on"),
        (lambda: embed_periodic(ethanol(), -1, 3.0), "no atom -1"),
        (lambda: carve_cluster(ethanol(), 0, 0.0), r"radius of the environment is 0.0 Angstrom; it must be"),
        (lambda: embed_in_crystal(ethanol(), 0, float("nan"), DIAMOND), "radius of the environment is nan"),
        (lambda: embed_periodic(ethanol(), 0, 3.0, 0.0), "close_contact is 0.0 Angstrom"),
        (lambda: embed_periodic(ethanol(), 2, 3.0), "1 pairs of atoms are within 1 Angstrom in the cube about atom 2"),
        (lambda: embed_in_crystal(TOUCHING, 0, 2.0, DIAMOND), "1 pairs .* in the environment of atom 0; lower close_"),
        (lambda: embed_in_crystal(ethanol(), 2, 1.0, DIAMOND, 2.0), "pairs of atoms are within 2 Angstrom in the cry"),
        (lambda: embed_in_crystal(ethanol(), 0, 3.0, slab()), "crystal is not periodic in three directions"),
        (lambda: carve_cluster(Atoms("C2", pbc=True), 0, 1.0), "The structure: pbc is set but the cell has no volume"),
        (lambda: displace_buffer(embed_periodic(slab(), 0, 2.0), 0, std=-1.0), "std of displacements is -1.0 Angstrom"),
        (
            lambda: displace_buffer(embed_periodic(slab(), 0, 3.0), 0, close_contact=1.8),
            "within 1.8 Angstrom in the environments, whose atoms do not move",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_close_contacts_outside_the_environment_do_no_harm_in_a_crystal() -> None:
    found = embed_in_crystal(TOUCHING, 0, 1.6, DIAMOND)
    assert_sound(found, TOUCHING, 0, 1.6, CLOSE_CONTACT)
