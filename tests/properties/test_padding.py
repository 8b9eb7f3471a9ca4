"""Promise 1: padding changes nothing, and a batch equals its structures one by one; single precision is enough."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.atoms import Dataset, gather_batch, pack
from bnn_jax.posterior import log_likelihood
from tests import systems
from tests.properties.networks import SPECIES, assert_close, cast, each_variant, evaluate, graph_of, network, split


def structures():
    return [
        systems.rattled(systems.ethanol()),
        systems.isolated_atom("O"),
        systems.rattled(systems.sodium_chloride()),
        systems.water(),
        systems.rattled(systems.triclinic_crystal()),
    ]


@pytest.mark.usefixtures("x64")
@each_variant
def test_a_batch_equals_its_structures_one_by_one(variant: str) -> None:
    together = evaluate(network(variant), structures())
    backwards = evaluate(network(variant), structures()[::-1])[::-1]
    for index, atoms in enumerate(structures()):
        alone = evaluate(network(variant), [atoms])[0]
        assert_close(together[index], alone, atol=1e-12, rtol=1e-12)
        assert_close(backwards[index], alone, atol=1e-12, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sizes", [(5, 26, 256), (6, 88, 512)])
def test_padded_sizes_do_not_matter(sizes: tuple[int, int, int]) -> None:
    net = network()
    padded = split(net.apply(net.params, graph_of(structures(), sizes)), [len(atoms) for atoms in structures()])
    for first, second in zip(padded, evaluate(net, structures()), strict=True):
        assert_close(first, second, atol=1e-12, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_padding_has_no_energy_no_forces_and_no_nan() -> None:
    net = network()
    prediction = net.apply(net.params, graph_of(structures()))
    num_atoms = sum(map(len, structures()))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(prediction))
    for values in (prediction.forces, prediction.atom_energies):
        np.testing.assert_array_equal(values[num_atoms:], 0)
    for values in (prediction.energy, prediction.stress):
        np.testing.assert_array_equal(values[len(structures()) :], 0)


@pytest.mark.usefixtures("x64")
def test_empty_places_of_a_batch_have_no_gradient() -> None:
    """The std of a structure without atoms is zero, where a square root has no derivative."""
    net = network("l_max 0")
    train = Dataset.from_atoms(systems.labelled_series(systems.water(), 2))
    packed = pack(train, net.config.cutoff, SPECIES, np.zeros(len(SPECIES)), np.float64)

    def log_density(params, indices):
        batch = gather_batch(packed, indices, 16, 32)
        return jnp.sum(log_likelihood(net.apply(params, batch.graph), batch, 1.0))

    gradient = jax.jit(jax.grad(log_density))
    full, with_empty = gradient(net.params, np.array([0, 1])), gradient(net.params, np.array([0, 1, -1, -1]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), with_empty, full)


@pytest.mark.usefixtures("x64")
def test_molecules_need_no_cell() -> None:
    """A batch without any periodic structure has no cell and no stress, and else the same results."""
    net = network()
    molecules = [systems.rattled(systems.ethanol()), systems.water()]
    packed = pack(Dataset.from_atoms(molecules), net.config.cutoff, SPECIES, np.zeros(len(SPECIES)), np.float64)
    prediction = net.apply(net.params, gather_batch(packed, np.arange(2), 16, 128).graph)
    assert prediction.stress is None
    for first, second in zip(split(prediction, [9, 3]), evaluate(net, molecules), strict=True):
        assert_close(first, second._replace(stress=None), atol=1e-12, rtol=1e-12)


def test_single_precision_is_enough() -> None:
    with jax.enable_x64(True):
        net = network()
        exact = evaluate(net, structures())
    graph = graph_of(structures(), dtype=np.float32)
    prediction = net.apply(cast(net.params, np.float32), graph)
    assert {leaf.dtype for leaf in prediction if leaf is not None} == {np.dtype(np.float32)}
    for first, second in zip(split(prediction, [len(atoms) for atoms in structures()]), exact, strict=True):
        scale = np.abs(second.forces).max(initial=1)
        np.testing.assert_allclose(first.energy, second.energy, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(first.forces, second.forces, atol=1e-4 * scale)
        np.testing.assert_allclose(first.forces_std, second.forces_std, rtol=1e-3)
