"""Pair correlation and averaged Steinhardt order parameters of beads in a periodic cube."""

import numpy as np
from jaxtyping import Float
from scipy.special import sph_harm_y


def minimum_image(vectors: Float[np.ndarray, "*shape 3"], side: float) -> Float[np.ndarray, "*shape 3"]:
    """The shortest of the periodic images of vectors."""
    return vectors - side * np.rint(vectors / side)


def pair_distances(positions: Float[np.ndarray, "bead 3"], side: float) -> Float[np.ndarray, " pair"]:
    """Of each pair once, to the nearest image."""
    first, second = np.triu_indices(len(positions), 1)
    return np.linalg.norm(minimum_image(positions[second] - positions[first], side), axis=-1)


def nearest_distances(positions: Float[np.ndarray, "bead 3"], side: float) -> Float[np.ndarray, " bead"]:
    """From each bead to the nearest image of another."""
    distances = np.linalg.norm(minimum_image(positions[None] - positions[:, None], side), axis=-1)
    return np.where(np.eye(len(positions), dtype=bool), np.inf, distances).min(axis=1)


def pair_correlation(
    frames: Float[np.ndarray, "frame bead 3"], side: float, edges: Float[np.ndarray, " edge"]
) -> Float[np.ndarray, " bin"]:
    """g(r), which is one on average for an ideal gas of as many beads.

    Args:
        frames: positions.
        side: of the cube; half of it is the largest edge that makes sense.
        edges: of the bins of r.
    """
    num_frames, num_beads, _ = frames.shape
    counts = sum(np.histogram(pair_distances(frame, side), edges)[0] for frame in frames)
    shells = 4 / 3 * np.pi * np.diff(edges**3) / side**3
    return counts / (shells * num_frames * num_beads * (num_beads - 1) / 2)


def averaged_order(
    positions: Float[np.ndarray, "bead 3"], side: float, cutoff: float, degree: int = 4
) -> Float[np.ndarray, " bead"]:
    r"""Averaged local order parameters; zero for a bead that has no neighbours and whose neighbours have none.

    .. math:: \bar q_l(i) = \sqrt{\frac{4 \pi}{2 l + 1} \sum_m |\bar q_{lm}(i)|^2}, \qquad
              \bar q_{lm}(i) = \frac{1}{1 + N_i} \sum_{k \in \{i\} \cup N(i)} q_{lm}(k), \qquad
              q_{lm}(k) = \frac{1}{N_k} \sum_{j \in N(k)} Y_{lm}(r_{kj})

    Args:
        positions: of all beads.
        side: of the cube.
        cutoff: within which beads are neighbours.
        degree: l.

    Reference: Lechner and Dellago, J. Chem. Phys. 129, 114707 (2008), eq. 1, 5 and 6.
    """
    vectors = minimum_image(positions[None] - positions[:, None], side)
    distances = np.linalg.norm(vectors, axis=-1)
    is_near = (distances < cutoff) & ~np.eye(len(positions), dtype=bool)
    centre, neighbour = np.nonzero(is_near)
    bonds = vectors[centre, neighbour]
    polar = np.arccos(np.clip(bonds[:, 2] / distances[centre, neighbour], -1, 1))
    azimuth = np.arctan2(bonds[:, 1], bonds[:, 0])
    harmonics = sph_harm_y(degree, np.arange(-degree, degree + 1), polar[:, None], azimuth[:, None])
    num_near = is_near.sum(axis=1, keepdims=True)
    sums = np.zeros((len(positions), 2 * degree + 1), complex)
    np.add.at(sums, centre, harmonics)
    local = sums / np.maximum(num_near, 1)
    averaged = (local + is_near @ local) / (1 + num_near)
    return np.sqrt(4 * np.pi / (2 * degree + 1) * (np.abs(averaged) ** 2).sum(axis=1))


def order_distribution(
    frames: Float[np.ndarray, "frame bead 3"], side: float, cutoff: float, edges: Float[np.ndarray, " edge"]
) -> Float[np.ndarray, " bin"]:
    """Probability density of the averaged order parameter of degree four over all beads and frames."""
    values = np.concatenate([averaged_order(frame, side, cutoff) for frame in frames])
    return np.histogram(values, edges)[0] / (len(values) * np.diff(edges))


def total_variation(p: Float[np.ndarray, " bin"], q: Float[np.ndarray, " bin"], widths: np.ndarray) -> float:
    """Half the integral of the absolute difference of two densities: 0 if equal, 1 if they do not overlap."""
    return float(0.5 * np.sum(np.abs(p - q) * widths))
