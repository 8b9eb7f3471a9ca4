"""The equivariant convolution: neighbour features times spherical harmonics, summed over neighbours.

Features are dense arrays ``[atom, component, channel]``: the components of all irreps one after another, the same
number of channels for each, channels last so that they vectorise. What depends on geometry alone (harmonics already
contracted with Clebsch-Gordan coefficients) is computed once and shared by all blocks and all posterior samples.
"""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bnn_jax.model.irreps import Path


def spherical_harmonics(vectors: Float[Array, "edge 3"], l_max: int) -> list[Float[Array, "edge _"]]:
    """Spherical harmonics of degrees 0 to ``l_max`` of the directions, each of mean square one per component."""
    irreps = e3nn.Irreps.spherical_harmonics(l_max)
    harmonics = e3nn.spherical_harmonics(irreps, vectors, normalize=True, normalization="component").array
    return [harmonics[:, degree**2 : (degree + 1) ** 2] for degree in range(l_max + 1)]


def coupling(path: Path, harmonics: list[Float[Array, "edge _"]]) -> Float[Array, "edge source target"]:
    """Matrix of each edge that maps the source components of a path to its target components.

    Clebsch-Gordan coefficients contracted with the harmonics, scaled so that unit-variance sources give unit-variance
    targets.
    """
    coefficients = np.asarray(e3nn.clebsch_gordan(path.source.l, path.degree, path.target.l))
    coefficients = coefficients * np.sqrt(path.target.dim)
    return jnp.einsum("em,smt->est", harmonics[path.degree], coefficients.astype(harmonics[0].dtype))


def convolve(
    features: Float[Array, "atom component channel"],
    weights: Float[Array, "edge path channel"],
    couplings: dict[Path, Float[Array, "edge _ _"]],
    offsets: dict[e3nn.Irrep, int],
    paths: tuple[Path, ...],
    senders: Int[Array, " edge"],
    receivers: Int[Array, " edge"],
) -> Float[Array, "atom message channel"]:
    """Sum over neighbours of the weighted tensor product (Batzner 2022, eq. 3).

    Args:
        features: components of all irreps of the sending atoms.
        weights: radial weight of each path and channel, zero on padded edges.
        couplings: :func:`coupling` of each path.
        offsets: first component of each irrep in ``features``.
        paths: the paths, ordered by target.
        senders: index of the atom a message comes from.
        receivers: index of the atom it goes to, ascending.

    Returns:
        Target components of each path one after another.
    """
    sent = features[senders]
    messages: list[Array] = [sent] * len(paths)
    for source, start in offsets.items():
        chosen = [index for index, path in enumerate(paths) if path.source == source]
        if not chosen:
            continue
        # One batched matmul for all paths of a source: faster to run and twice as fast to compile as one for each.
        matrix = jnp.concatenate([couplings[paths[index]] for index in chosen], axis=2)
        product = jnp.einsum("est,esc->etc", matrix, sent[:, start : start + source.dim])
        first = 0
        for index in chosen:
            target = product[:, first : first + paths[index].target.dim]
            messages[index] = target * weights[:, index, None, :]
            first += paths[index].target.dim
    return jax.ops.segment_sum(
        jnp.concatenate(messages, axis=1), receivers, num_segments=features.shape[0], indices_are_sorted=True
    )
