"""Promise 1 on random molecules and crystals: symmetries, choice of cell, derivatives, locality, padding."""

from collections.abc import Callable

import ase
import ase.geometry
import numpy as np
import pytest
from hypothesis import strategies as st

from tests import systems
from tests.properties.networks import (
    NUM_EDGES,
    Network,
    Result,
    assert_close,
    each_variant,
    evaluate,
    graph_of,
    network,
    split,
)
from tests.properties.strategies import (
    crystals,
    equivalent_cells,
    for_all,
    molecules,
    orthogonal_matrices,
    right_handed,
    seeds,
    structures,
    thoroughness,
)

pytestmark = pytest.mark.usefixtures("x64")

PER_ATOM = ("forces", "forces_std", "atom_energies", "features")


@each_variant
@thoroughness
def test_rotation_inversion_and_translation(variant: str, num_examples: int) -> None:
    net = network(variant)

    @for_all(num_examples, structures(), orthogonal_matrices(), seeds)
    def check(atoms: ase.Atoms, matrix: np.ndarray, seed: int) -> None:
        moved = right_handed(systems.rotated(atoms, matrix))
        moved.translate(np.random.default_rng(seed).normal(scale=5.0, size=3))
        before, after = evaluate(net, [atoms, moved])
        stress = matrix @ before.stress @ matrix.T
        assert_close(after, before._replace(forces=before.forces @ matrix.T, stress=stress), atol=1e-9, rtol=1e-9)


@each_variant
@thoroughness
def test_order_and_images_of_atoms(variant: str, num_examples: int) -> None:
    net = network(variant)

    @for_all(num_examples, structures(), seeds)
    def check(atoms: ase.Atoms, seed: int) -> None:
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(atoms))
        changed = atoms[order]
        changed.positions += (rng.integers(-3, 4, size=(len(atoms), 3)) * atoms.pbc) @ atoms.cell.array
        wrapped = changed.copy()
        wrapped.wrap()
        before, *after = evaluate(net, [atoms, changed, wrapped])
        expected = before._replace(**{name: getattr(before, name)[order] for name in PER_ATOM})
        for result in after:
            assert_close(result, expected, atol=1e-9, rtol=1e-9)


@each_variant
@thoroughness
def test_choice_of_cell(variant: str, num_examples: int) -> None:
    """Other vectors of the same lattice change nothing; two cells side by side hold twice the energy."""
    net = network(variant)

    @for_all(num_examples, crystals(), st.data())
    def check(atoms: ase.Atoms, data: st.DataObject) -> None:
        skewed = data.draw(equivalent_cells(atoms))
        axis = data.draw(st.sampled_from(list(np.flatnonzero(atoms.pbc))))
        doubled = atoms.repeat([2 if i == axis else 1 for i in range(3)])
        one, same, two = evaluate(net, [atoms, skewed, doubled])
        assert_close(same, one)
        both = {name: np.concatenate([getattr(one, name)] * 2) for name in PER_ATOM}
        assert_close(two, one._replace(energy=2 * one.energy, energy_std=np.sqrt(2) * one.energy_std, **both))


def slope(net: Network, path: Callable[[float], ase.Atoms], step: float = 2e-4) -> tuple[float, Result]:
    """Derivative at zero of the energy of ``path(step)``, and the result there.

    The fourth-order formula errs most, by some 1e-8, where a layer norm magnifies features that fade at the cutoff.
    """
    here, *results = evaluate(net, [path(factor * step) for factor in (0, -2, -1, 1, 2)])
    energies = [result.energy for result in results]
    return float(np.dot([1, -8, 8, -1], energies) / (12 * step)), here


@each_variant
@thoroughness
def test_forces_are_minus_the_slope_of_the_energy(variant: str, num_examples: int) -> None:
    net = network(variant)

    @for_all(num_examples, structures(), seeds)
    def check(atoms: ase.Atoms, seed: int) -> None:
        direction = np.random.default_rng(seed).normal(size=(len(atoms), 3))
        direction /= np.linalg.norm(direction)

        def path(step: float) -> ase.Atoms:
            return ase.Atoms(atoms, positions=atoms.positions + step * direction)

        derivative, here = slope(net, path)
        tolerance = 1e-6 * (1 + np.linalg.norm(here.forces))
        np.testing.assert_allclose(-np.sum(here.forces * direction), derivative, rtol=0, atol=tolerance)


@each_variant
@thoroughness
def test_stress_is_the_slope_along_a_strain(variant: str, num_examples: int) -> None:
    net = network(variant)

    @for_all(num_examples, crystals(), seeds)
    def check(atoms: ase.Atoms, seed: int) -> None:
        strain = np.random.default_rng(seed).normal(size=(3, 3))
        strain = (strain + strain.T) / (2 * np.linalg.norm(strain))

        def path(step: float) -> ase.Atoms:
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ (np.eye(3) + step * strain), scale_atoms=True)
            return strained

        derivative, here = slope(net, path)
        volume = atoms.get_volume()
        tolerance = 1e-6 * (1 + volume * np.linalg.norm(here.stress))
        np.testing.assert_allclose(volume * np.sum(here.stress * strain), derivative, rtol=0, atol=tolerance)


@each_variant
@thoroughness
def test_far_fragments_add_up_and_lone_atoms_keep_their_shift(variant: str, num_examples: int) -> None:
    net = network(variant)

    @for_all(
        num_examples, molecules(max_atoms=6), molecules(max_atoms=5), molecules(max_atoms=1), orthogonal_matrices()
    )
    def check(first: ase.Atoms, second: ase.Atoms, atom: ase.Atoms, matrix: np.ndarray) -> None:
        second = systems.rotated(second, matrix)
        second.translate([80.0, 0.0, 0.0])
        atom.translate([0.0, 80.0, 0.0])
        one, other, lone, together = evaluate(net, [first, second, atom, first + second + atom])
        assert lone.energy == 0 and not lone.forces.any()  # above its shift, and not merely close
        parts = (one, other, lone)
        np.testing.assert_allclose(together.energy, sum(part.energy for part in parts), rtol=1e-10, atol=1e-12)
        variance = sum(part.energy_std**2 for part in parts)
        np.testing.assert_allclose(together.energy_std**2, variance, rtol=1e-10)
        for name in PER_ATOM:
            expected = np.concatenate([getattr(part, name) for part in parts])
            # The place of a far atom is rounded at 1e-14 Angstrom, and some networks' forces are steep.
            np.testing.assert_allclose(getattr(together, name), expected, rtol=1e-9, atol=1e-9, err_msg=name)


@each_variant
@thoroughness
def test_padding_and_company_change_nothing(variant: str, num_examples: int) -> None:
    """A batch equals its structures one by one, in a smaller padded shape."""
    net = network(variant)

    @for_all(num_examples, st.lists(structures(), min_size=2, max_size=5))
    def check(batch: list[ase.Atoms]) -> None:
        for together, atoms in zip(evaluate(net, batch), batch, strict=True):
            graph = graph_of([atoms], (1, 16, NUM_EDGES // 4))
            (alone,) = split(net.apply(net.params, graph), [len(atoms)])
            assert_close(together, alone, atol=1e-11, rtol=1e-11)


def test_random_structures_are_what_they_claim() -> None:
    """Else the properties above would hold of nothing."""
    seen = set()

    @for_all(200, structures())
    def check(atoms: ase.Atoms) -> None:
        distances = ase.geometry.get_distances(atoms.positions, cell=atoms.cell, pbc=atoms.pbc)[1]
        assert np.all(distances[~np.eye(len(atoms), dtype=bool)] > 0.6)
        assert 1 <= len(atoms) <= 12 and len(set(atoms.numbers)) <= 4
        graph_of([atoms], (1, 16, NUM_EDGES // 4))
        if atoms.pbc.any():
            assert np.linalg.det(atoms.cell.array) > 0
            seen.update([("periodic", int(atoms.pbc.sum())), ("small", bool(atoms.cell.lengths().min() < 3.5))])
        else:
            seen.add(("atoms", len(atoms)))

    assert {("periodic", n) for n in (1, 2, 3)} | {("small", True), ("small", False)} <= seen
    assert {("atoms", n) for n in (1, 2, 12)} <= seen
