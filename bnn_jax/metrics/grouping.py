"""From force components to atoms, structures and elements. Units follow the arguments.

A root mean square turns errors and standard deviations alike: if the stds are right, that of the errors is on average
that of the stds. It has no sign and is not normal, so it is for ranking and for binned comparisons, not likelihoods.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from bnn_jax.metrics._arrays import refuse


def structure_of_atom(num_atoms: Int[np.ndarray, " structure"]) -> Int[np.ndarray, " atom"]:
    """Index of the structure that each atom belongs to, where the atoms stand structure by structure.

    Args:
        num_atoms: number of atoms of each structure.

    Example:
        >>> structure_of_atom(np.array([2, 3])).tolist()
        [0, 0, 1, 1, 1]
    """
    return np.repeat(np.arange(len(num_atoms)), num_atoms)


def atom_rms(
    components: Float[np.ndarray, "atom component"],
    where: Bool[np.ndarray, "atom _"] | None = None,
) -> Float[np.ndarray, " atom"]:
    """Root mean square over the components of each atom.

    Args:
        components: errors or standard deviations of the force components; one isotropic std an atom as ``[atom, 1]``.
        where: components to use, all of them by default; the others may be NaN.

    Returns:
        One value an atom; NaN for an atom of which no component is used.

    Raises:
        ValueError: the shapes do not fit, or a component in use is not finite.
    """
    return _root_mean(*_squares(components, where))


def atom_norm(components: Float[np.ndarray, "atom 3"]) -> Float[np.ndarray, " atom"]:
    """Length of each atom's vector: ``sqrt(3)`` times :func:`atom_rms`.

    Args:
        components: errors of the forces, or standard deviations of all three components.

    Raises:
        ValueError: there are not three components, or one is not finite.
    """
    if np.ndim(components) != 2 or np.shape(components)[1] != 3:
        raise ValueError(f"components has shape {np.shape(components)}; give [atom, 3].")
    squares, _ = _squares(components, None)
    return np.sqrt(squares)


def structure_rms(
    components: Float[np.ndarray, "atom component"],
    num_atoms: Int[np.ndarray, " structure"],
    where: Bool[np.ndarray, "atom _"] | None = None,
) -> Float[np.ndarray, " structure"]:
    r"""Root mean square over all force components of each structure.

    .. math:: \sqrt{\frac{1}{3 n} \sum_i^n \sum_j^3 x_{ij}^2}

    Args:
        components: errors or standard deviations of the force components; one isotropic std an atom as ``[atom, 1]``.
        num_atoms: number of atoms of each structure, structure by structure.
        where: components to use, all of them by default; the others may be NaN. ``species[:, None] == 8`` gives the
            oxygen atoms, where the species are atomic numbers.

    Returns:
        One value a structure; NaN for a structure of which no component is used.

    Raises:
        ValueError: the shapes do not fit, the structures have more or fewer atoms in all than there are, or a
            component in use is not finite.

    Reference:
        Tan et al. (2023), eq. 5: the root of their force variance of a structure, from stds.
    """
    squares, counts = _squares(components, where)
    structure = structure_of_atom(num_atoms)
    if len(structure) != len(squares):
        raise ValueError(
            f"num_atoms adds up to {len(structure)}, but components has {len(squares)} atoms; give the atoms of all"
            " structures, and leave some out with where."
        )
    total, count = (np.bincount(structure, values, minlength=len(num_atoms)) for values in (squares, counts))
    return _root_mean(total, count)


def element_masks(species: Int[np.ndarray, " atom"]) -> dict[int, Bool[np.ndarray, " atom"]]:
    """The atoms of each element that occurs, to select errors and scores with.

    Args:
        species: element of each atom, by any number.

    Example:
        >>> {element: mask.tolist() for element, mask in element_masks(np.array([8, 1, 1])).items()}
        {1: [False, True, True], 8: [True, False, False]}
    """
    return {int(element): species == element for element in np.unique(species)}


def _squares(components: np.ndarray, where: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the squares in use of each atom, and their number."""
    components = np.asarray(components, dtype=np.float64)
    mask = np.ones(components.shape, dtype=bool) if where is None else np.asarray(where, dtype=bool)
    widths = {*components.shape[1:], *mask.shape[1:]} - {1}
    if not components.ndim == mask.ndim == 2 or len(components) != len(mask) or len(widths) > 1:
        raise ValueError(f"Shapes do not fit: components {components.shape}, where {mask.shape}; give [atom, 3].")
    components, mask = np.broadcast_arrays(components, mask)
    refuse("components", components, mask & ~np.isfinite(components), "finite", "leave it out with where")
    return np.square(np.where(mask, components, 0.0)).sum(axis=1), mask.sum(axis=1)


def _root_mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.sqrt(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0))
