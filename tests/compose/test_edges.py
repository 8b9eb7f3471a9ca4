"""Pairs found on the device are those that the host finds, in cells of any size, and stay right within their skin."""

import ase.build
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems

from bnn_jax import InputError
from bnn_jax.atoms.neighbors import neighbor_list
from bnn_jax.compose import edges as module
from bnn_jax.compose.edges import build_search, graph_of

SYSTEMS = {
    **{f"molecule {i}": atoms for i, atoms in enumerate(systems.molecules())},
    **{f"crystal {i}": atoms for i, atoms in enumerate(systems.crystals())},
    "slab": systems.slab(),
    "wide cell": ase.build.bulk("Cu", cubic=True) * (3, 3, 3),
}
REACH = 4.3


def pairs_of(senders, receivers, shifts) -> set[tuple[int, ...]]:
    """Each pair once, in either order."""
    rows = np.concatenate([np.stack([senders, receivers], 1), shifts], 1)
    swapped = np.concatenate([np.stack([receivers, senders], 1), -np.asarray(shifts)], 1)
    return {min(tuple(map(int, a)), tuple(map(int, b))) for a, b in zip(rows, swapped, strict=True)}


def arguments(atoms):
    return atoms.positions, np.where(atoms.pbc.any(), atoms.cell.array, 0), atoms.pbc


@pytest.fixture(params=SYSTEMS)
def atoms(request):
    found = SYSTEMS[request.param].copy()
    found.rattle(0.1, seed=1)
    found.translate([3.7, -9.1, 5.3])  # out of the cell
    return found


@pytest.mark.usefixtures("x64")
def test_pairs_are_those_of_the_host(atoms):
    positions, cell, pbc = arguments(atoms)
    found = jax.jit(build_search(positions, cell, pbc, REACH - 0.5, skin=0.5).find)(positions, cell)
    number = int(found.num_pairs)
    senders, receivers, shifts = (np.asarray(each) for each in (found.senders, found.receivers, found.shifts))
    own = pairs_of(senders[:number], receivers[:number], shifts[:number])
    assert own == pairs_of(*neighbor_list(positions, cell, pbc, REACH)) and len(own) == number
    assert (senders[number:] == len(atoms)).all() and (shifts[number:] == 0).all() and not found.overflow


@pytest.mark.usefixtures("x64")
def test_no_pair_within_the_cutoff_is_missing_until_edges_are_stale(atoms):
    positions, cell, pbc = arguments(atoms)
    search = build_search(positions, cell, pbc, REACH - 0.5, skin=0.5, headroom=2.0)
    found = search.find(positions, cell)
    rng = np.random.default_rng(0)
    num_stale = 0
    for size in np.geomspace(0.01, 0.5, 12):
        moved = positions + size * rng.uniform(-1, 1, positions.shape)
        strained = cell @ (np.eye(3) + 0.05 * size * rng.uniform(-1, 1, (3, 3)))
        needed = pairs_of(*neighbor_list(moved, strained, pbc, REACH - 0.5))
        held = pairs_of(found.senders, found.receivers, found.shifts)
        is_stale = bool(search.is_stale(moved, strained, found))
        num_stale += is_stale
        assert is_stale or needed <= held
        updated = search.update(moved, strained, found)
        assert needed <= pairs_of(updated.senders, updated.receivers, updated.shifts)
        assert is_stale == bool((updated.positions == moved).all())
    holds_all = not pbc.any() and found.num_pairs == len(atoms) * (len(atoms) - 1) // 2
    assert num_stale == 0 if holds_all else 0 < num_stale < 12


@pytest.mark.usefixtures("x64")
def test_pairs_within_the_cutoff_are_all_that_is_kept_of_those_in_the_skin(atoms):
    positions, cell, pbc = arguments(atoms)
    search = build_search(positions, cell, pbc, REACH - 0.8, skin=0.8)
    found = search.find(positions, cell)
    rng = np.random.default_rng(0)
    for size in (0.0, 0.02, 0.05):
        moved = positions + size * rng.uniform(-1, 1, positions.shape)
        near = jax.jit(search.within_cutoff)(moved, cell, found)
        number = int(near.num_pairs)
        assert len(near.senders) <= len(found.senders) and not near.overflow
        held = pairs_of(near.senders[:number], near.receivers[:number], near.shifts[:number])
        needed = pairs_of(*neighbor_list(moved, cell, pbc, REACH - 0.8))
        assert held == needed if len(near.senders) < len(found.senders) else held >= needed
        assert (near.senders[number:] == len(atoms)).all() and (near.shifts[number:] == 0).all()


def test_more_pairs_within_the_cutoff_than_there_is_room_for_overflow():
    """Two shells of silicon, one of them in the skin, all of which come within the cutoff."""
    positions, cell, pbc = arguments(ase.build.bulk("Si", cubic=True))
    search = build_search(positions, cell, pbc, 3.0, skin=1.0)
    found = search.find(positions, cell)
    assert not search.within_cutoff(0.9 * positions, 0.9 * cell, found).overflow
    assert search.within_cutoff(0.75 * positions, 0.75 * cell, found).overflow


@pytest.mark.usefixtures("x64")
def test_a_cell_that_is_squeezed_misses_no_pair():
    """With its atoms, as a barostat does: pairs across several cells come nearer by more than any that is listed."""
    positions, cell, pbc = arguments(systems.silicon())
    search = build_search(positions, cell, pbc, 4.3, skin=0.5, headroom=2.0)
    found = search.find(positions, cell)
    num_fresh = 0
    for factor in np.linspace(1.0, 0.8, 41):
        needed = pairs_of(*neighbor_list(factor * positions, factor * cell, pbc, 4.3))
        is_stale = bool(search.is_stale(factor * positions, factor * cell, found))
        num_fresh += not is_stale
        assert is_stale or needed <= pairs_of(found.senders, found.receivers, found.shifts)
    assert 2 < num_fresh < 41


@pytest.mark.parametrize("skin", [0.0, 0.4])
def test_a_cell_as_wide_as_the_reach_is_no_matter_of_rounding(skin):
    """Turned cells whose widths are just the reach, half of it, or twice: too many pairs at most, never too narrow."""
    for factor in 0.5, 1.0, 2.0:
        crystal = ase.build.bulk("Ar", "fcc", a=factor * (3.0 + skin), cubic=True)
        for angle in range(0, 90, 7):
            crystal.rotate(angle, (1, 2, 3), rotate_cell=True)
            positions, cell, pbc = arguments(crystal)
            search = build_search(positions, cell, pbc, 3.0, skin, headroom=0.3)
            place = jnp.asarray(positions, jnp.float32), jnp.asarray(cell, jnp.float32)
            for squeeze in 1.0, 0.93:
                found = search.find(*(squeeze * each for each in place))
                assert not found.overflow or found.num_pairs > len(found.senders)
        assert search.find(*(0.7 * each for each in place)).overflow


def test_a_list_of_all_pairs_is_never_stale_and_has_no_room_to_spare():
    positions, cell, pbc = arguments(systems.ethanol())
    search = build_search(positions, cell, pbc, 8.0, skin=0.2, headroom=9.0)
    found = search.find(positions, cell)
    assert len(found.senders) == found.num_pairs == 36
    assert not search.is_stale(2 * positions, cell, found)
    torn = search.find(positions + 20 * (np.arange(9) < 3)[:, None], cell)
    assert torn.num_pairs == 18 and search.is_stale(positions, cell, torn)


def test_replicas_are_searched_again_together():
    positions, cell, pbc = arguments(systems.ethanol())
    search = build_search(positions, cell, pbc, 3.0, skin=0.4)
    many = jnp.stack([jnp.asarray(positions)] * 3)
    cells = jnp.zeros((3, 3, 3))
    found = jax.vmap(search.find)(many, cells)
    nearly = many.at[1, 0, 0].add(0.1)
    assert (search.update(nearly, cells, found).positions == many).all()
    moved = many.at[1, 0, 0].add(0.3)
    assert (jax.jit(search.update)(moved, cells, found).positions == moved).all()


def test_what_the_arrays_cannot_hold_overflows_and_predicts_nan():
    atoms = systems.sodium_chloride()
    positions, cell, pbc = arguments(atoms)
    search = build_search(positions, cell, pbc, 4.0)
    for squeezed in (0.8, 0.5):  # more pairs; images that were not looked at
        found = search.find(squeezed * positions, squeezed * cell)
        assert found.overflow
        graph = graph_of(np.zeros(8, int), jnp.asarray(positions), jnp.asarray(cell), found)
        assert np.isnan(graph.nodes["positions"]).any()
    wide = ase.Atoms("Cu2", [[0, 0, 0], [2.5, 0, 0]], cell=[10.8] * 3, pbc=True)
    positions, cell, pbc = arguments(wide)
    search = build_search(positions, cell, pbc, 5.0, headroom=0.2)
    assert not search.find(positions, cell).overflow
    assert search.find(0.9 * positions, 0.9 * cell).overflow  # narrower than twice the cutoff


def test_too_large_a_system_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_CANDIDATES", 30)
    with pytest.raises(InputError, match="9 atoms with 1 images have too many pairs"):
        build_search(*arguments(systems.ethanol()), 4.0)
