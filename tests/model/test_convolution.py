"""The dense convolution against e3nn-jax's own tensor product, path by path."""

import e3nn_jax as e3nn
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.model.convolution import components, convolve, coupling, segments, spherical_harmonics
from bnn_jax.model.irreps import independent_paths, layer_irreps, product_paths

pytestmark = pytest.mark.usefixtures("x64")

NUM_ATOMS, NUM_PAIRS, CHANNELS = 5, 7, 3


def irreps(l_max: int) -> tuple[e3nn.Irrep, ...]:
    return tuple(e3nn.Irrep(degree, sign) for degree in range(l_max + 1) for sign in (1, -1))


def geometry(seed: int = 0):
    """Vectors of pairs, and the ends of both of their edges."""
    rng = np.random.default_rng(seed)
    ends = rng.integers(NUM_ATOMS, size=(NUM_PAIRS, 2))
    return tuple(map(jnp.asarray, (rng.normal(size=(NUM_PAIRS, 3)), ends.reshape(-1), ends[:, ::-1].reshape(-1))))


def of_both_directions(vectors):
    return np.stack([vectors, -vectors], axis=1)


def test_harmonics_have_unit_mean_square_components() -> None:
    vectors, _, _ = geometry()
    harmonics = spherical_harmonics(vectors, 3)
    for degree in range(4):
        values = harmonics[..., degree**2 : (degree + 1) ** 2]
        np.testing.assert_allclose(np.sum(values**2, axis=2), 2 * degree + 1, rtol=1e-12)
    np.testing.assert_allclose(spherical_harmonics(7 * vectors, 3), harmonics, rtol=1e-10, atol=1e-12)
    unit = of_both_directions(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    np.testing.assert_allclose(harmonics[..., 1:4], np.sqrt(3) * unit, rtol=1e-12)


def test_harmonics_of_the_opposite_direction() -> None:
    vectors, _, _ = geometry()
    np.testing.assert_allclose(spherical_harmonics(vectors, 3)[:, ::-1], spherical_harmonics(-vectors, 3), rtol=1e-12)


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
        weights = jnp.asarray(rng.normal(size=(NUM_PAIRS, 1, CHANNELS)))
        matrix = coupling((path.source,), (path,), harmonics)
        ours = convolve(features, weights, matrix, (path,), senders, receivers)[path.target]

        channel_first = features.swapaxes(1, 2).reshape(NUM_ATOMS, -1)
        sent = e3nn.IrrepsArray(f"{CHANNELS}x{path.source}", channel_first)[senders]
        sphere = e3nn.spherical_harmonics(
            e3nn.Irreps([e3nn.Irrep(path.degree, (-1) ** path.degree)]),
            e3nn.IrrepsArray("1o", of_both_directions(vectors).reshape(-1, 3)),
            normalize=True,
        )
        product = e3nn.tensor_product(sent, sphere, filter_ir_out=[path.target], irrep_normalization="component")
        theirs = e3nn.scatter_sum(product * jnp.repeat(weights[:, 0], 2, axis=0), dst=receivers, output_size=NUM_ATOMS)
        expected = theirs.array.reshape(NUM_ATOMS, CHANNELS, path.target.dim).swapaxes(1, 2)
        np.testing.assert_allclose(ours, expected, atol=1e-10, err_msg=str(path))
        assert np.abs(ours).max() > 1e-2


@pytest.mark.parametrize("parity", [True, False])
def test_all_paths_together_equal_each_alone(parity: bool) -> None:
    rng = np.random.default_rng(2)
    vectors, senders, receivers = geometry()
    harmonics = spherical_harmonics(vectors, 2)
    sources = irreps(2) if parity else tuple(e3nn.Irrep(degree, (-1) ** degree) for degree in range(3))
    groups = independent_paths(product_paths(sources, sources, 2))
    assert [len(group) for group in groups] == ([15, 15] if parity else [11])
    for paths in groups:
        own = tuple(irrep for irrep in sources if any(path.source == irrep for path in paths))
        first = dict(zip(own, np.cumsum([0] + [irrep.dim for irrep in own]), strict=False))
        features = jnp.asarray(rng.normal(size=(NUM_ATOMS, components(own), CHANNELS)))
        weights = jnp.asarray(rng.normal(size=(NUM_PAIRS, len(paths), CHANNELS)))
        together = convolve(features, weights, coupling(own, paths, harmonics), paths, senders, receivers)
        place = dict.fromkeys(together, 0)
        for index, path in enumerate(paths):
            sent = features[:, first[path.source] : first[path.source] + path.source.dim]
            matrix = coupling((path.source,), (path,), harmonics)
            alone = convolve(sent, weights[:, index : index + 1], matrix, (path,), senders, receivers)[path.target]
            start = place[path.target]
            np.testing.assert_allclose(together[path.target][..., start : start + CHANNELS], alone, atol=1e-12)
            place[path.target] += CHANNELS
        assert place == {target: values.shape[-1] for target, values in together.items()}
        assert place == {target: CHANNELS * segment.num_paths for target, segment in segments(paths).items()}


def test_every_path_is_in_one_group() -> None:
    layers = layer_irreps(4, 2, parity=True)
    paths = product_paths(layers[1], layers[2], 2)
    assert sorted(path for group in independent_paths(paths) for path in group) == sorted(paths)


def test_atoms_that_receive_nothing_get_zero() -> None:
    vectors, senders, _ = geometry()
    receivers = jnp.full(2 * NUM_PAIRS, 2)
    paths = product_paths(irreps(0)[:1], irreps(0)[:1], 0)
    matrix = coupling(irreps(0)[:1], paths, spherical_harmonics(vectors, 0))
    features, weights = jnp.ones((NUM_ATOMS, 1, CHANNELS)), jnp.ones((NUM_PAIRS, 1, CHANNELS))
    (result,) = convolve(features, weights, matrix, paths, senders, receivers).values()
    expected = np.zeros((NUM_ATOMS, 1, CHANNELS))
    expected[2] = 2 * NUM_PAIRS
    np.testing.assert_allclose(result, expected, rtol=1e-12)
