"""Promise 1: energies and stds are invariant, forces and stress covariant, under E(3) and relabelling."""

import ase
import numpy as np
import pytest

from tests import systems
from tests.properties.networks import assert_close, each_variant, evaluate, graph_of, network

pytestmark = pytest.mark.usefixtures("x64")

ROTATION = systems.random_rotation(3)
INVERSION = -np.eye(3)


def structures() -> list[ase.Atoms]:
    """Without symmetry, so that nothing vanishes by chance."""
    return [
        systems.rattled(systems.ethanol()),
        systems.chiral_molecule(),
        systems.rattled(systems.triclinic_crystal()),
        compressed_silicon(),
    ]


def compressed_silicon() -> ase.Atoms:
    crystal = systems.silicon()
    crystal.numbers[1] = 13
    crystal.set_cell(0.8 * crystal.cell.array, scale_atoms=True)
    return systems.rattled(crystal, seed=1)


def transformed(result, matrix: np.ndarray):
    stress = None if result.stress is None else matrix @ result.stress @ matrix.T
    return result._replace(forces=result.forces @ matrix.T, stress=stress)


def assert_not_trivial(result) -> None:
    """Far above the tolerance of 1e-10."""
    for values in (result.energy, result.forces, np.ptp(result.forces_std)):
        assert np.abs(values).max() > 1e-5


@each_variant
@pytest.mark.parametrize("matrix", [ROTATION, INVERSION, INVERSION @ ROTATION], ids=["rotation", "inversion", "both"])
def test_rotation_and_inversion(variant: str, matrix: np.ndarray) -> None:
    net = network(variant)
    before = evaluate(net, structures())
    after = evaluate(net, [systems.rotated(atoms, matrix) for atoms in structures()])
    for first, second in zip(before, after, strict=True):
        assert_not_trivial(first)
        assert_close(second, transformed(first, matrix))
    assert np.abs(before[2].stress).max() > 1e-5
    np.testing.assert_array_equal(before[0].stress, 0)  # without a cell there is none


@each_variant
def test_permutation(variant: str) -> None:
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(atoms)) for atoms in structures()]
    before = evaluate(network(variant), structures())
    after = evaluate(network(variant), [atoms[order] for atoms, order in zip(structures(), orders, strict=True)])
    per_atom = ("forces", "forces_std", "atom_energies", "features")
    for first, second, order in zip(before, after, orders, strict=True):
        assert_close(second, first._replace(**{name: getattr(first, name)[order] for name in per_atom}))


def test_atoms_of_one_element_are_told_apart_from_those_of_another() -> None:
    chlorinated, brominated = systems.chiral_molecule(), systems.chiral_molecule()
    brominated.numbers[3] = 35
    first, second = evaluate(network(), [chlorinated, brominated])
    assert abs(first.energy - second.energy) > 1e-3


@each_variant
def test_translation_and_wrapping(variant: str) -> None:
    moved = [atoms.copy() for atoms in structures()]
    for atoms in moved:
        atoms.translate([1.37, -20.1, 0.44])
    wrapped = [atoms.copy() for atoms in moved]
    for atoms in wrapped:
        if atoms.pbc.any():
            atoms.wrap()
    unwrapped = [atoms.copy() for atoms in structures()]
    for seed, atoms in enumerate(unwrapped):
        images = np.random.default_rng(seed).integers(-3, 4, size=(len(atoms), 3))
        atoms.positions += images @ atoms.cell.array
    before = evaluate(network(variant), structures())
    for changed in (moved, wrapped, unwrapped):
        for first, second in zip(before, evaluate(network(variant), changed), strict=True):
            assert_close(second, first, atol=1e-9, rtol=1e-9)  # positions of 20 Angstrom have lost a digit


@pytest.mark.parametrize("index", [2, 3])
def test_choice_of_lattice_vectors(index: int) -> None:
    crystal = structures()[index]
    other = crystal.copy()
    unimodular = np.array([[1, 2, 0], [0, 1, 0], [-1, 0, 1]])
    assert round(np.linalg.det(unimodular)) == 1
    other.set_cell(unimodular @ crystal.cell.array)
    swapped = crystal.copy()
    swapped.set_cell(-crystal.cell.array[[1, 0, 2]])  # swapped alone it would be left-handed
    before, *after = evaluate(network(), [crystal, other, swapped])
    for result in after:
        assert_close(result, before)


@pytest.mark.parametrize("index", [2, 3])
def test_supercell(index: int) -> None:
    crystal = structures()[index]
    one, two = evaluate(network(), [crystal, crystal.repeat((1, 2, 1))])
    np.testing.assert_allclose(two.energy, 2 * one.energy, rtol=1e-10)
    np.testing.assert_allclose(two.energy_std, np.sqrt(2) * one.energy_std, rtol=1e-10)
    np.testing.assert_allclose(two.stress, one.stress, atol=1e-10)
    for name in ("forces", "forces_std", "atom_energies", "features"):
        value = getattr(one, name)
        np.testing.assert_allclose(getattr(two, name), np.concatenate([value, value]), atol=1e-10, err_msg=name)


def test_cell_smaller_than_the_cutoff() -> None:
    """An atom that sees only its own images equals any atom of a supercell in which it sees others."""
    primitive = ase.Atoms("Al", cell=1.6 * (np.ones((3, 3)) - np.eye(3)), pbc=True)
    assert primitive.cell.lengths().max() < network().config.cutoff
    one, many = evaluate(network(), [primitive, primitive.repeat(3)])
    assert abs(one.energy) > 1e-3
    np.testing.assert_allclose(many.atom_energies, np.full(27, one.energy), rtol=1e-9)
    np.testing.assert_allclose(many.stress, one.stress, atol=1e-10)
    np.testing.assert_allclose(one.forces, 0, atol=1e-10)
    # and the innermost atom of a piece of the crystal in vacuum, which has no images at all
    layers = primitive.repeat(9)
    distances = np.linalg.norm(layers.positions - layers.positions[364], axis=1)
    cluster = layers[distances <= 1e-9 + network().config.num_blocks * network().config.cutoff]
    cluster.pbc = False
    cluster.set_cell(None)
    centre = int(np.argmin(np.linalg.norm(cluster.positions - layers.positions[364], axis=1)))
    in_vacuum = in_one_piece(cluster)
    np.testing.assert_allclose(in_vacuum[centre], one.energy, rtol=1e-9)


def in_one_piece(cluster: ase.Atoms) -> np.ndarray:
    """Atom energies of a cluster larger than the common shape."""
    net = network()
    graph = graph_of([cluster], (1, len(cluster) + 1, 18 * len(cluster)))
    return np.asarray(net.apply(net.params, graph).atom_energies)[: len(cluster)]


def test_periods_in_two_directions() -> None:
    """A layer does not see its own image along the third axis, however short that is."""
    layer = systems.slab()
    layer.numbers[:] = [11, 8]
    thin = layer.copy()
    thin.set_cell([2.6, 2.6, 1.5])
    first, second = evaluate(network(), [layer, thin])
    np.testing.assert_allclose(second.energy, first.energy, rtol=1e-10)
    np.testing.assert_allclose(second.forces, first.forces, atol=1e-10)
