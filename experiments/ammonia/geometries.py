"""One idea: geometries of ammonia from its modes and its umbrella angle, placed where an oracle's energy says."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from ase import units
from jaxtyping import Float
from scipy.optimize import root_scalar

LabelFn = Callable[[Float[np.ndarray, "atom 3"]], tuple[float, Float[np.ndarray, "atom 3"]] | None]
Frame = tuple[Float[np.ndarray, "atom 3"], float, Float[np.ndarray, "atom 3"]]
"""Positions in Angstrom, energy in eV, forces in eV/Angstrom."""

MAX_LABELS_PER_DIRECTION = 6
NH_RANGE = (0.75, 2.25)
"""Allowed N-H distances in Angstrom: beyond them Tan et al. (2023), Methods, call a trajectory unstable."""
HH_MIN = 0.75


def hessian(
    label: LabelFn, positions: Float[np.ndarray, "atom 3"], step: float = 0.005
) -> Float[np.ndarray, "dof dof"]:
    """Symmetrised central differences of the forces, in eV/Angstrom^2, so that dispersion is in it.

    Args:
        label: energy in eV and forces in eV/Angstrom of a geometry.
        positions: in Angstrom.
        step: displacement in Angstrom.

    Raises:
        RuntimeError: the oracle failed on a displaced geometry.
    """
    size = positions.size
    rows = np.empty((size, size))
    for i in range(size):
        shift = np.zeros(size)
        shift[i] = step
        (_, plus), (_, minus) = (must(label, positions + sign * shift.reshape(-1, 3)) for sign in (1, -1))
        rows[i] = -(plus - minus).ravel() / (2 * step)
    return (rows + rows.T) / 2


def modes(
    hessian: Float[np.ndarray, "dof dof"], masses: Float[np.ndarray, " atom"]
) -> tuple[Float[np.ndarray, " mode"], Float[np.ndarray, "mode atom 3"]]:
    """Vibrations of a non-linear molecule.

    Args:
        hessian: in eV/Angstrom^2.
        masses: in atomic mass units.

    Returns:
        Wavenumbers in 1/cm, ascending, and displacements in Angstrom scaled so that one unit of a mode costs
        half an eV in the harmonic approximation: ``E = sum(c**2) / 2`` for ``sum(c * modes)``.
    """
    weights = np.repeat(masses, 3) ** -0.5
    squares, vectors = np.linalg.eigh(hessian * np.outer(weights, weights))
    squares, vectors = squares[6:], vectors[:, 6:]
    wavenumbers = np.sqrt(squares) * units._hbar * 1e10 / np.sqrt(units._e * units._amu) / units.invcm
    return wavenumbers, (vectors * weights[:, None] / np.sqrt(squares)).T.reshape(len(squares), -1, 3)


def fill_bins(
    label: LabelFn,
    minimum: Float[np.ndarray, "atom 3"],
    modes: Float[np.ndarray, "mode atom 3"],
    *,
    width: float,
    num_bins: int,
    per_bin: int,
    rng: np.random.Generator,
) -> Iterator[tuple[int, Frame]]:
    """Draw geometries until every energy bin above the minimum holds its share; yield each with its bin.

    A direction is a random unit vector in the scaled modes. It is followed outwards, from the amplitude that
    the harmonic energy suggests, until a label falls in some bin that still has room; then a new one is drawn.

    Args:
        label: energy in eV and forces in eV/Angstrom, or None where it fails.
        minimum: geometry of the minimum, in Angstrom; atom 0 is nitrogen.
        modes: as :func:`modes` gives them.
        width: of a bin, in eV.
        num_bins: number of bins, the first starting at the minimum.
        per_bin: geometries wanted in each.
        rng: source of the directions.
    """
    energy_min = must(label, minimum)[0]
    room = np.full(num_bins, per_bin)
    while room.any():
        direction = rng.normal(size=len(modes))
        direction = np.tensordot(direction / np.linalg.norm(direction), modes, axes=1)
        target = width * (rng.choice(np.repeat(np.arange(num_bins), room)) + 0.5)
        known = [(0.0, 0.0)]
        for _ in range(MAX_LABELS_PER_DIRECTION):
            scale = next_scale(known, target)
            positions = minimum + scale * direction
            if not is_intact(positions):
                break
            result = label(positions)
            if result is None:
                break
            above = result[0] - energy_min
            index = int(np.floor(above / width))
            if 0 <= index < num_bins and room[index]:
                room[index] -= 1
                yield index, (np.round(positions, 8), *result)
                break
            known.append((scale, above))


def next_scale(known: list[tuple[float, float]], target: float) -> float:
    """Amplitude at which to look next for the target energy, ``E = scale**2 / 2`` being the harmonic guess.

    Linear in the root of the energy between the two known points that bracket the target, else extrapolated
    from the outermost one by at most a factor of 1.5.

    Args:
        known: pairs of amplitude and energy in eV.
        target: energy in eV.
    """
    points = sorted(known)
    if len(points) == 1:
        return float(np.sqrt(2 * target))
    goal = np.sqrt(target)
    roots = [(scale, np.sqrt(max(energy, 0.0))) for scale, energy in points]
    for (inner, low), (outer, high) in itertools.pairwise(roots):
        if low <= goal <= high:
            return float(inner + (outer - inner) * (goal - low) / (high - low))
    scale, root = roots[-1]
    return float(scale * np.clip(goal / max(root, 1e-6), 1.05, 1.5))


def is_intact(positions: Float[np.ndarray, "atom 3"]) -> bool:
    """Whether nitrogen, atom 0, holds its hydrogens within ``NH_RANGE`` and none are closer than ``HH_MIN``."""
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
    hydrogens = distances[1:, 1:][np.triu_indices(len(positions) - 1, 1)]
    return bool(
        np.all((distances[0, 1:] > NH_RANGE[0]) & (distances[0, 1:] < NH_RANGE[1])) and hydrogens.min() > HH_MIN
    )


def pyramid(length: float, angle: float, masses: Float[np.ndarray, " atom"]) -> Float[np.ndarray, "4 3"]:
    """Ammonia of C3v symmetry about z with its centre of mass at the origin, in Angstrom.

    Args:
        length: N-H distance in Angstrom.
        angle: between each N-H bond and the z axis, in radians; pi/2 is planar.
        masses: of N, H, H, H.
    """
    turns = 2 * np.pi * np.arange(3) / 3
    bonds = np.stack([np.sin(angle) * np.cos(turns), np.sin(angle) * np.sin(turns), np.full(3, np.cos(angle))], axis=1)
    positions = np.vstack([np.zeros(3), length * bonds])
    return positions - masses @ positions / masses.sum()


def umbrella_path(
    label: LabelFn, angle_min: float, length: float, masses: Float[np.ndarray, " atom"], num_images: int
) -> list[tuple[float, Frame]]:
    """The inversion from one minimum through the planar geometry to the other, at equal steps of the umbrella angle.

    At each angle the N-H distance is relaxed: in C3v that is the whole relaxation at a fixed angle. Images past
    the middle are the mirror images in z of those before it, labels included.

    Args:
        label: energy in eV and forces in eV/Angstrom of a geometry.
        angle_min: angle between bonds and axis at the minimum, in radians, above pi/2.
        length: N-H distance at the minimum, in Angstrom.
        masses: of N, H, H, H.
        num_images: an odd number.

    Returns:
        Angle in degrees and frame of each image.

    Raises:
        RuntimeError: the oracle failed on an image.
    """
    half = []
    for angle in np.linspace(angle_min, np.pi / 2, num_images // 2 + 1):

        def pull(trial: float, angle: float = angle) -> float:
            positions = pyramid(trial, angle, masses)
            _, forces = must(label, positions)
            return float(np.sum(forces[1:] * (positions[1:] - positions[0])) / trial)

        length = root_scalar(pull, x0=length, x1=length - 0.003, method="secant", xtol=1e-5).root
        positions = np.round(pyramid(length, angle, masses), 8)
        half.append((float(np.degrees(angle)), (positions, *must(label, positions))))
    flip = np.array([1.0, 1.0, -1.0])
    mirrored = [(180.0 - angle, (p * flip, energy, f * flip)) for angle, (p, energy, f) in reversed(half[:-1])]
    return half + mirrored


def must(label: LabelFn, positions: Float[np.ndarray, "atom 3"]) -> tuple[float, Float[np.ndarray, "atom 3"]]:
    """The label of a geometry that cannot be done without; RuntimeError where the oracle fails on it."""
    result = label(positions)
    if result is None:
        raise RuntimeError(f"The self-consistent field did not converge at {np.round(positions, 4).tolist()}.")
    return result
