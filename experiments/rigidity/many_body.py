"""Linear ACE features up to four neighbours at a time, with and without self-interactions.

A feature of an atom is a sum over tuples of its neighbours, of one-neighbour functions coupled to an invariant:

.. math::
    B_i = \\sum_{j_1 \\dots j_\\nu} \\sum_{m_1 \\dots m_\\nu} C_{m_1 \\dots m_\\nu}
          \\prod_k R_{n_k}(r_{i j_k}) Y_{l_k m_k}(\\hat r_{i j_k})

Over all tuples this is the conventional expansion, a product of densities, in which one neighbour may be counted
several times; over tuples of distinct neighbours it is the purified one of Ho et al. (2024), the canonical many-body
expansion. Nothing else differs between the two. Clusters of a few atoms have few tuples, so that both are summed
directly.

Reference: Drautz (2019), doi:10.1103/PhysRevB.99.014104; Chong et al. (2024), section 5.1.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import e3nn_jax as e3nn
import jax
import numpy as np
from jaxtyping import Bool, Float
from numpy.polynomial import legendre

Array = np.ndarray
Label = tuple[int, int]
"""Radial index, from 1, and angular momentum of a one-neighbour function."""

ANGULAR_WEIGHT = 1.5
"""What an angular momentum adds to the degree of a function, in units of what a radial index adds."""
RADIAL_NODES = 400
R_INNER = 2.0
"""Å; the radial functions are orthonormal between here and the cutoff. No clusters have shorter distances."""


class Basis(NamedTuple):
    """What is summed, for every correlation order."""

    cutoff: float
    """Å."""
    degrees: tuple[int, ...]
    """Highest total degree, the sum of n + 1.5 l, of each correlation order from one."""


class Coupling(NamedTuple):
    """The features that share a coupling."""

    tensor: Float[Array, "path ..."]
    """Orthonormal, over the 2 l + 1 components of each place; each gives a feature of every set of labels."""
    momenta: tuple[int, ...]
    """Angular momentum of each place."""
    radial: tuple[tuple[int, ...], ...]
    """Radial indices of each place, from one, of every set of labels."""


def radial_functions(distances: Float[Array, "..."], count: int, cutoff: float) -> Float[Array, "... radial"]:
    """Polynomials of the inverse distance under a smooth cutoff, of mean square one and orthogonal on [2 Å, cutoff].

    Args:
        distances: in Å; zero where there is no neighbour.
        count: of the functions.
        cutoff: in Å, beyond which all are zero with their slope.
    """
    # Gauss-Legendre nodes make the mean over the interval a sum, and QR of it the Gram-Schmidt process.
    nodes, weights = legendre.leggauss(RADIAL_NODES)
    grid = R_INNER + (cutoff - R_INNER) * (nodes + 1) / 2
    _, to_orthonormal = np.linalg.qr(np.sqrt(weights / 2)[:, None] * _raw_radial(grid, count, cutoff))
    to_orthonormal = to_orthonormal * np.sign(np.diag(to_orthonormal))[:, None]
    inside = (distances > 0) & (distances < cutoff)
    raw = _raw_radial(np.where(inside, distances, cutoff), count, cutoff)
    return np.linalg.solve(to_orthonormal.T, raw.reshape(-1, count).T).T.reshape(raw.shape)


def _raw_radial(distances: Float[Array, "..."], count: int, cutoff: float) -> Float[Array, "... radial"]:
    inverse = [1 / cutoff, 1 / R_INNER]
    scaled = 2 * (1 / distances - inverse[0]) / (inverse[1] - inverse[0]) - 1
    return (1 - distances / cutoff)[..., None] ** 2 * legendre.legvander(scaled, count - 1)


def angular_functions(vectors: Float[Array, "... 3"], l_max: int) -> list[Float[Array, "... component"]]:
    """Real spherical harmonics of the directions, orthonormal over the sphere, by angular momentum."""
    irreps = e3nn.Irreps.spherical_harmonics(l_max)
    with jax.enable_x64(True):
        harmonics = e3nn.spherical_harmonics(irreps, jax.numpy.asarray(vectors), True, normalization="integral")
    return [np.asarray(harmonics.array)[..., columns] for columns in irreps.slices()]


def coupling_tensors(momenta: Sequence[int], groups: Sequence[int]) -> Float[Array, "path ..."]:
    """Orthonormal invariant tensors over the components of some angular momenta.

    Args:
        momenta: even in sum, so that the features do not tell a cluster from its mirror image.
        groups: equal for places of equal one-neighbour functions; the tensors are symmetric under their exchange.
    """
    # Clebsch-Gordan chains span the invariants; those that the exchange makes equal are merged by the SVD.
    chains = {momenta[0]: [np.eye(2 * momenta[0] + 1)]}
    for momentum in momenta[1:]:
        longer: dict[int, list[Array]] = {}
        for total, tensors in chains.items():
            for coupled in range(abs(total - momentum), total + momentum + 1):
                clebsch_gordan = np.asarray(e3nn.clebsch_gordan(total, momentum, coupled), np.float64)
                longer.setdefault(coupled, []).extend(np.tensordot(each, clebsch_gordan, 1) for each in tensors)
        chains = longer
    shape = [2 * momentum + 1 for momentum in momenta]
    tensors = np.array([each[..., 0] for each in chains.get(0, [])]).reshape(-1, *shape)
    exchanges = [
        order
        for order in itertools.permutations(range(len(momenta)))
        if all(groups[place] == groups[k] for k, place in enumerate(order))
    ]
    symmetric = sum(tensors.transpose(0, *(k + 1 for k in order)) for order in exchanges) / len(exchanges)
    _, sizes, vectors = np.linalg.svd(symmetric.reshape(len(tensors), math.prod(shape)), full_matrices=False)
    return vectors[sizes > 1e-8].reshape(-1, *shape)


def label_sets(order: int, degree: float) -> Iterator[tuple[Label, ...]]:
    """Sets of labels whose degrees, n + 1.5 l each, add up to no more than ``degree``, in ascending order."""
    l_max = int((degree - order) / ANGULAR_WEIGHT)
    labels = [
        (n, momentum)
        for n in range(1, int(degree) + 1)
        for momentum in range(l_max + 1)
        if n + ANGULAR_WEIGHT * momentum <= degree
    ]

    def extend(first: int, left: float, missing: int) -> Iterator[tuple[Label, ...]]:
        if missing == 0:
            yield ()
            return
        for k in range(first, len(labels)):
            cost = labels[k][0] + ANGULAR_WEIGHT * labels[k][1]
            if cost <= left:
                yield from ((labels[k], *rest) for rest in extend(k, left - cost, missing - 1))

    for labels_of_one in extend(0, degree, order):
        if sum(momentum for _, momentum in labels_of_one) % 2 == 0:
            yield labels_of_one


@cache
def couplings(order: int, degree: float) -> tuple[Coupling, ...]:
    """All features of one correlation order."""
    radial: dict[tuple[tuple[int, ...], tuple[int, ...]], list[tuple[int, ...]]] = {}
    for labels in label_sets(order, degree):
        pattern = (tuple(momentum for _, momentum in labels), tuple(labels.index(label) for label in labels))
        radial.setdefault(pattern, []).append(tuple(n for n, _ in labels))
    found = (
        Coupling(coupling_tensors(momenta, groups), momenta, tuple(indices))
        for (momenta, groups), indices in radial.items()
    )
    return tuple(each for each in found if len(each.tensor))


def component_slices(basis: Basis) -> dict[str, slice]:
    """Columns of each correlation order."""
    sizes = [
        sum(len(each.tensor) * len(each.radial) for each in couplings(order, degree))
        for order, degree in enumerate(basis.degrees, start=1)
    ]
    ends = [0, *itertools.accumulate(sizes)]
    return {f"{order}": slice(ends[order - 1], ends[order]) for order in range(1, len(ends))}


def distinct_tuples(num_neighbours: int, order: int) -> Bool[Array, "..."]:
    """True where all neighbours of a tuple differ."""
    places = np.indices((num_neighbours,) * order)
    differ = [places[first] != places[second] for first, second in itertools.combinations(range(order), 2)]
    return np.all(differ, axis=0) if differ else np.ones(num_neighbours, bool)


def atom_features(
    vectors: Float[Array, "atom neighbour 3"], basis: Basis, purified: bool
) -> Float[Array, "atom feature"]:
    """Features of atoms, by correlation order as :func:`component_slices` says.

    Args:
        vectors: to all other atoms of the cluster in Å, in any order; zeros where there are fewer.
        basis: which features.
        purified: sum over tuples of distinct neighbours only.
    """
    orders = {order: couplings(order, degree) for order, degree in enumerate(basis.degrees, start=1)}
    l_max = max(max(each.momenta) for group in orders.values() for each in group)
    radial = radial_functions(np.linalg.norm(vectors, axis=-1), int(max(basis.degrees)), basis.cutoff)
    angular = angular_functions(vectors, l_max)
    blocks = []
    for order, group in orders.items():
        tuples = distinct_tuples(vectors.shape[1], order) if purified else 1.0
        for each in group:
            of_tuples = tuples * _angular_part(each, angular)
            for indices in each.radial:
                factors = [radial[..., n - 1] for n in indices]
                blocks.append(np.einsum(_RADIAL_SUMS[order], of_tuples, *factors, optimize=True))
    return np.concatenate(blocks, axis=1)


# Atoms are x, paths p, components of the places abcd, and neighbours at the places ijkl.
_ANGULAR_SUMS = {1: "pa,xia->pxi", 2: "pab,xia,xjb->pxij", 3: "pabc,xia,xjb,xkc->pxijk"}
_ANGULAR_SUMS |= {4: "pabcd,xia,xjb,xkc,xld->pxijkl"}
_RADIAL_SUMS = {1: "pxi,xi->xp", 2: "pxij,xi,xj->xp", 3: "pxijk,xi,xj,xk->xp", 4: "pxijkl,xi,xj,xk,xl->xp"}


def _angular_part(coupling: Coupling, angular: Sequence[Array]) -> Float[Array, "path atom ..."]:
    """Coupled harmonics of every tuple of neighbours."""
    factors = [angular[momentum] for momentum in coupling.momenta]
    return np.einsum(_ANGULAR_SUMS[len(factors)], coupling.tensor, *factors, optimize=True)


def cluster_features(
    clusters: Sequence[Float[Array, "_atom 3"]], basis: Basis, purified: bool
) -> Float[Array, "cluster feature"]:
    """Means over the atoms of each cluster, whose energy per atom is linear in them.

    Args:
        clusters: positions in Å.
        basis: which features.
        purified: sum over tuples of distinct neighbours only.
    """
    slots = max(len(positions) for positions in clusters) - 1
    vectors = [
        np.pad(_neighbours(positions), [(0, 0), (0, slots - len(positions) + 1), (0, 0)]) for positions in clusters
    ]
    features = atom_features(np.concatenate(vectors), basis, purified)
    starts = np.cumsum([0, *(len(positions) for positions in clusters[:-1])])
    sizes = np.array([len(positions) for positions in clusters])
    return np.add.reduceat(features, starts) / sizes[:, None]


def _neighbours(positions: Float[Array, "atom 3"]) -> Float[Array, "atom neighbour 3"]:
    """Vectors from each atom to the others."""
    others = ~np.eye(len(positions), dtype=bool)
    return (positions - positions[:, None])[others].reshape(len(positions), -1, 3)
