"""The equivariant convolution: neighbour features times spherical harmonics, summed over neighbours.

Features are dense arrays ``[atom, component, channel]``: the components of all irreps one after another, the same
number of channels for each, channels last so that they vectorise. What depends on geometry alone (harmonics contracted
with Clebsch-Gordan coefficients) is apart from what depends on weights, so that ``vmap`` over samples computes it once.
"""

import functools
import itertools

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bnn_jax.model.irreps import Path
from bnn_jax.model.tensor_product import Segment, weighted_product


def spherical_harmonics(vectors: Float[Array, "pair 3"], l_max: int) -> Float[Array, "pair 2 harmonic"]:
    """Spherical harmonics up to ``l_max`` of the directions of each pair and of their opposites.

    Each component has mean square one; those of degree l start at ``l**2``.
    """
    irreps = e3nn.Irreps.spherical_harmonics(l_max)
    harmonics = e3nn.spherical_harmonics(irreps, vectors, normalize=True, normalization="component").array
    parity = np.concatenate([np.full(irrep.dim, irrep.p) for _, irrep in irreps])
    return jnp.stack([harmonics, harmonics * parity.astype(harmonics.dtype)], axis=1)


def components(irreps: tuple[e3nn.Irrep, ...]) -> int:
    """Number of components of the irreps together."""
    return sum(irrep.dim for irrep in irreps)


def segments(paths: tuple[Path, ...]) -> dict[e3nn.Irrep, Segment]:
    """Rows of the paths into each target, in the order of the paths."""
    groups = itertools.groupby(paths, key=lambda path: path.target)
    return {target: Segment(target.dim, len(list(group))) for target, group in groups}


@functools.cache
def _coefficients(sources: tuple[e3nn.Irrep, ...], paths: tuple[Path, ...], l_max: int) -> np.ndarray:
    """Clebsch-Gordan coefficients of all paths in one array [harmonic, source, component]."""
    first = dict(zip(sources, np.cumsum([0] + [irrep.dim for irrep in sources]), strict=False))
    columns = []
    for target, group in itertools.groupby(paths, key=lambda path: path.target):
        table = []
        for path in group:
            whole = np.zeros(((l_max + 1) ** 2, components(sources), target.dim))
            start, degree = first[path.source], path.degree
            rows = slice(degree**2, (degree + 1) ** 2), slice(start, start + path.source.dim)
            # Scaled so that sources of unit variance give targets of unit variance.
            whole[rows] = np.swapaxes(e3nn.clebsch_gordan(path.source.l, degree, target.l), 0, 1) * np.sqrt(target.dim)
            table.append(whole)
        columns.append(np.stack(table, axis=3).reshape(*table[0].shape[:2], -1))
    return np.concatenate(columns, axis=2)


def coupling(
    sources: tuple[e3nn.Irrep, ...], paths: tuple[Path, ...], harmonics: Float[Array, "pair 2 harmonic"]
) -> Float[Array, "pair 2 source component"]:
    """Matrix of each edge from the components of the sources to those of the paths, in the order of their segments."""
    l_max = int(np.sqrt(harmonics.shape[-1])) - 1
    coefficients = _coefficients(sources, paths, l_max)
    flat = coefficients.reshape(coefficients.shape[0], -1).astype(harmonics.dtype)
    return (harmonics @ flat).reshape(*harmonics.shape[:2], *coefficients.shape[1:])


def convolve(
    features: Float[Array, "atom source channel"],
    weights: Float[Array, "pair path channel"],
    matrix: Float[Array, "pair 2 source component"],
    paths: tuple[Path, ...],
    senders: Int[Array, " edge"],
    receivers: Int[Array, " edge"],
) -> dict[e3nn.Irrep, Float[Array, "atom _ _"]]:
    """Sum over neighbours of the weighted tensor product (Batzner 2022, eq. 3).

    Args:
        features: components of all source irreps of the sending atoms.
        weights: radial weight of each path and channel, zero on padded pairs.
        matrix: :func:`coupling` of the sources and the paths.
        paths: the paths, ordered by target.
        senders: index of the atom a message comes from; edges 2k and 2k + 1 are the two of pair k.
        receivers: index of the atom it goes to.

    Returns:
        For each target the channels of all its paths, one path after another.
    """
    parts = segments(paths)
    sent = features[senders].reshape(*matrix.shape[:3], -1)
    messages = weighted_product(weights, matrix, sent, tuple(parts.values()))
    received = jax.ops.segment_sum(
        messages.reshape(*senders.shape, *messages.shape[2:]), receivers, num_segments=features.shape[0]
    )
    outputs, start = {}, 0
    for target, segment in parts.items():
        size = segment.dim * segment.num_paths
        outputs[target] = received[:, start : start + size].reshape(features.shape[0], segment.dim, -1)
        start += size
    return outputs
