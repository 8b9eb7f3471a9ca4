"""The dense convolution against e3nn-jax's own tensor product, path by path."""

import e3nn_jax as e3nn
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.model.convolution import convolve, coupling, spherical_harmonics
from bnn_jax.model.irreps import product_paths
from bnn_jax.model.nequip import component_offsets

pytestmark = pytest.mark.usefixtures("x64")

NUM_ATOMS, NUM_EDGES, CHANNELS = 5, 12, 3


def irreps(l_max: int) -> tuple[e3nn.Irrep, ...]:
    return tuple(e3nn.Irrep(degree, sign) for degree in range(l_max + 1) for sign in (1, -1))


def geometry(seed: int = 0):
    rng = np.random.default_rng(seed)
    senders = rng.integers(NUM_ATOMS, size=NUM_EDGES)
    receivers = np.sort(rng.integers(NUM_ATOMS, size=NUM_EDGES))
    return jnp.asarray(rng.normal(size=(NUM_EDGES, 3))), jnp.asarray(senders), jnp.asarray(receivers)


def test_harmonics_have_unit_mean_square_components() -> None:
    vectors, _, _ = geometry()
    for degree, values in enumerate(spherical_harmonics(vectors, 3)):
        assert values.shape == (NUM_EDGES, 2 * degree + 1)
        np.testing.assert_allclose(np.sum(values**2, axis=1), 2 * degree + 1, rtol=1e-12)
    np.testing.assert_allclose(
        spherical_harmonics(7 * vectors, 2)[2], spherical_harmonics(vectors, 2)[2], rtol=1e-10, atol=1e-12
    )
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(spherical_harmonics(vectors, 1)[1], np.sqrt(3) * unit, rtol=1e-12)


@pytest.mark.parametrize("l_max", [0, 1, 2])
def test_each_path_equals_e3nn(l_max: int) -> None:
    """Random features and weights, for every path of every parity; component normalisation; in double precision."""
    rng = np.random.default_rng(1)
    vectors, senders, receivers = geometry()
    harmonics = spherical_harmonics(vectors, l_max)
    paths = product_paths(irreps(l_max), irreps(l_max), l_max)
    assert len(paths) == {0: 2, 1: 10, 2: 30}[l_max]
    for path in paths:
        features = jnp.asarray(rng.normal(size=(NUM_ATOMS, path.source.dim, CHANNELS)))
        weights = jnp.asarray(rng.normal(size=(NUM_EDGES, 1, CHANNELS)))
        couplings = {path: coupling(path, harmonics)}
        ours = convolve(features, weights, couplings, {path.source: 0}, (path,), senders, receivers)

        channel_first = features.swapaxes(1, 2).reshape(NUM_ATOMS, -1)
        sent = e3nn.IrrepsArray(f"{CHANNELS}x{path.source}", channel_first)[senders]
        sphere = e3nn.spherical_harmonics(
            e3nn.Irreps([e3nn.Irrep(path.degree, (-1) ** path.degree)]), e3nn.IrrepsArray("1o", vectors), normalize=True
        )
        product = e3nn.tensor_product(sent, sphere, filter_ir_out=[path.target], irrep_normalization="component")
        theirs = e3nn.scatter_sum(product * weights[:, 0], dst=receivers, output_size=NUM_ATOMS)
        expected = theirs.array.reshape(NUM_ATOMS, CHANNELS, path.target.dim).swapaxes(1, 2)
        np.testing.assert_allclose(ours, expected, atol=1e-10, err_msg=str(path))
        assert np.abs(ours).max() > 1e-2


def test_all_paths_together_equal_each_alone() -> None:
    rng = np.random.default_rng(2)
    vectors, senders, receivers = geometry()
    sources = irreps(2)
    offsets, harmonics = component_offsets(sources), spherical_harmonics(vectors, 2)
    paths = product_paths(sources, irreps(2), 2)
    features = jnp.asarray(rng.normal(size=(NUM_ATOMS, sum(irrep.dim for irrep in sources), CHANNELS)))
    weights = jnp.asarray(rng.normal(size=(NUM_EDGES, len(paths), CHANNELS)))
    couplings = {path: coupling(path, harmonics) for path in paths}
    together = convolve(features, weights, couplings, offsets, paths, senders, receivers)
    start = 0
    for index, path in enumerate(paths):
        own = features[:, offsets[path.source] : offsets[path.source] + path.source.dim]
        alone = convolve(own, weights[:, index : index + 1], couplings, {path.source: 0}, (path,), senders, receivers)
        np.testing.assert_allclose(together[:, start : start + path.target.dim], alone, atol=1e-12)
        start += path.target.dim
    assert start == together.shape[1]


def test_atoms_that_receive_nothing_get_zero() -> None:
    vectors, senders, _ = geometry()
    receivers = jnp.full(NUM_EDGES, 2)
    (path,) = product_paths(irreps(0)[:1], irreps(0)[:1], 0)
    couplings = {path: coupling(path, spherical_harmonics(vectors, 0))}
    features, weights = jnp.ones((NUM_ATOMS, 1, CHANNELS)), jnp.ones((NUM_EDGES, 1, CHANNELS))
    result = convolve(features, weights, couplings, {path.source: 0}, (path,), senders, receivers)
    expected = np.zeros((NUM_ATOMS, 1, CHANNELS))
    expected[2] = NUM_EDGES
    np.testing.assert_allclose(result, expected, rtol=1e-12)
