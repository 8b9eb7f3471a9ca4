"""Choosing from a pool the structures whose labels would hold given predictions most firmly, and baselines of that."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.linalg import solve_triangular
from tqdm import tqdm

from bnn_jax.rigidity.rigidity import Hessian
from bnn_jax.types import InputError, nearest_name

Rigidities = Float[np.ndarray, "... target"]

# As logarithms, so that differences are relative ones.
OBJECTIVES: dict[str, Callable[[Rigidities], Float[np.ndarray, "..."]]] = {
    "mean": lambda rigidities: np.log(rigidities.mean(axis=-1)),
    "minimum": lambda rigidities: np.log(rigidities.min(axis=-1)),
    "logarithm": lambda rigidities: np.log(rigidities).mean(axis=-1),
}
"""What of the targets' rigidities a choice is to raise."""
TIE = 1e-10
"""Relative difference of objectives below which rounding decides, and therefore the lower index."""
ELEMENTS_AT_ONCE = 2**23
"""Of the products of rows and targets that are scored at a time: 64 MB."""


class Selection(NamedTuple):
    """Structures chosen from a pool."""

    indices: Int[np.ndarray, " choice"]
    """Candidates in the order of their choice, each once."""
    mean_rigidity: Float[np.ndarray, " choice_and_one"]
    """Mean rigidity of the targets before the first choice and after each."""
    hessian: Hessian
    """With the rows of all that were chosen."""


class _Pool(NamedTuple):
    """Candidates and targets in the metric of the current inverse Hessian; the arrays change in place."""

    rows: Float[np.ndarray, "row parameter"]
    """Of all candidates, one after another."""
    solved: Float[np.ndarray, "row parameter"]
    """H^-1 times each row."""
    across: Float[np.ndarray, "row target"]
    """Row times H^-1 times target."""
    variance: Float[np.ndarray, " target"]
    """Inverse rigidities."""
    first_rows: Int[np.ndarray, " candidate_and_one"]
    """Candidate i owns rows ``first_rows[i]:first_rows[i + 1]``."""
    members: list[Int[np.ndarray, "_candidate _row"]]
    """Groups of candidates with equally many rows: where these are."""
    grams: list[Float[np.ndarray, "_candidate _row _row"]]
    """Rows times H^-1 times rows of each candidate of a group."""


def select_by_rigidity(
    hessian: Hessian,
    candidates: Sequence[Float[np.ndarray, "_row _parameter"]],
    targets: Float[np.ndarray, "target parameter"],
    number: int,
    objective: str = "mean",
    num_batch: int = 1,
) -> Selection:
    r"""Choose one after another the structures that raise the rigidity of target predictions most.

    Labels are not needed. A candidate with rows A, r of them, would change the inverse rigidities to

    .. math:: g^T (H + A^T A)^{-1} g = g^T H^{-1} g - x^T (I + A H^{-1} A^T)^{-1} x, \qquad x = A H^{-1} g

    which takes algebra of r x r matrices for each candidate, once the rows of all are solved for. What is solved
    changes with each choice by the same formula. Inverse rigidities that fall by more than the rounding of
    double precision, a factor of 1e16, are taken to fall by that.

    Args:
        hessian: of the training set, with its regulariser.
        candidates: weighted derivatives of the energy of each structure, or of energy and forces, with the weights
            that its labels would have in the loss (see :func:`bnn_jax.rigidity.loss.weighted_rows`).
        targets: derivatives of the predictions to hold: of total energies, atoms' energies or force components.
        number: of structures to choose.
        objective: ``mean`` of the targets' rigidities, their ``minimum`` or the mean of their ``logarithm``.
        num_batch: structures that are chosen at once, before the Hessian is updated.

    Returns:
        Of candidates that differ by less than :data:`TIE` the one with the lowest index is chosen.

    Raises:
        InputError: the pool is smaller than ``number``, a number is below 1, there is no target, rows differ in
            width, are missing or not finite, a target's rigidity is infinite, or the objective is unknown.

    Reference: Chong et al. (2024), section 4.1; its notebook marks the last candidate as chosen, not the best.
    """
    _check_number(number, len(candidates))
    if num_batch < 1:
        raise InputError(f"{num_batch} structures were to be chosen at once; let num_batch be 1 or more.")
    score_fn = _objective(objective)
    pool = _solved_pool(hessian, *_checked(candidates, targets))
    is_open = np.ones(len(candidates), bool)
    indices: list[int] = []
    means = [float(np.mean(1 / pool.variance))]
    with tqdm(total=number, desc="selection", unit="structure", delay=5, disable=None) as bar:
        while len(indices) < number:
            scores = np.where(is_open, _scores(pool, score_fn), -np.inf)
            for _ in range(min(num_batch, number - len(indices))):
                best = int(np.argmax(scores >= scores.max() - TIE))
                scores[best], is_open[best] = -np.inf, False
                _add(pool, best)
                indices.append(best)
                means.append(float(np.mean(1 / pool.variance)))
                bar.update()
    added = np.concatenate([np.asarray(candidates[index], np.float64) for index in indices])
    return Selection(np.array(indices), np.array(means), hessian.update(added))


def random_selection(
    num_candidates: int, number: int, seed: int, among: Bool[np.ndarray, " candidate"] | None = None
) -> Int[np.ndarray, " choice"]:
    """Choose at random, each candidate at most once.

    Args:
        num_candidates: size of the pool.
        number: of structures to choose.
        seed: of the choice.
        among: candidates that may be chosen, such as those of low density; all if None.

    Raises:
        InputError: fewer may be chosen than are wanted, ``number`` is below 1, or the mask has another length.

    Reference: Chong et al. (2024), section 4.1.
    """
    if among is not None and len(among) != num_candidates:
        raise InputError(f"The mask says of {len(among)} candidates, not of {num_candidates}, which may be chosen.")
    allowed = np.arange(num_candidates) if among is None else np.flatnonzero(among)
    _check_number(number, len(allowed))
    return np.random.default_rng(seed).permutation(allowed)[:number]


def stratified_selection(
    strata: Shaped[np.ndarray, " candidate"] | Sequence[str] | Sequence[int], number: int, seed: int
) -> Int[np.ndarray, " choice"]:
    """Choose at random from one stratum after the other, so that each gives equally many, or one more, while it lasts.

    Args:
        strata: label of each candidate, such as its kind or its bin of densities.
        number: of structures to choose.
        seed: of the choice, and of the order of the strata.

    Raises:
        InputError: the pool is smaller than ``number``, or that is below 1.
    """
    _check_number(number, len(strata))
    rng = np.random.default_rng(seed)
    names, stratum = np.unique(np.asarray(strata), return_inverse=True)
    turn = np.empty(len(stratum), int)
    for i in range(len(names)):
        members = np.flatnonzero(stratum == i)
        turn[members] = rng.permutation(len(members))
    place = rng.permutation(len(names))[stratum]
    return np.lexsort((place, turn))[:number]


def _check_number(number: int, num_candidates: int) -> None:
    if number < 1:
        raise InputError(f"{number} structures were to be chosen; ask for 1 or more.")
    if number > num_candidates:
        raise InputError(
            f"{number} structures were to be chosen, but only {num_candidates} may be; ask for fewer or give more"
            " candidates."
        )


def _objective(name: str) -> Callable[[Rigidities], Float[np.ndarray, "..."]]:
    if name not in OBJECTIVES:
        shown, near = nearest_name(name, OBJECTIVES)
        raise InputError(
            f"Unknown objective {shown!r}; the nearest known is {near!r} (there are {', '.join(OBJECTIVES)})."
        )
    return OBJECTIVES[name]


def _checked(candidates: Sequence[np.ndarray], targets: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Both in float64."""
    if not len(targets):
        raise InputError("There are no targets whose rigidity a choice could raise; give the derivatives of some.")
    width = targets.shape[1]
    for i, rows in enumerate(candidates):
        if not len(rows):
            raise InputError(f"Candidate {i} has no rows; give those that it would have once it is labelled.")
        if rows.shape[1] != width:
            raise InputError(
                f"The rows of candidate {i} have {rows.shape[1]} weights, the targets {width}; differentiate both by"
                " the same weights."
            )
        if not np.isfinite(rows).all():
            raise InputError(f"The rows of candidate {i} are not finite; leave it out, or look at the network.")
    if not np.isfinite(targets).all():
        worst = int(np.argmin(np.isfinite(targets).all(axis=1)))
        raise InputError(f"The derivatives of target {worst} are not finite; leave it out, or look at the network.")
    return [np.asarray(rows, np.float64) for rows in candidates], np.asarray(targets, np.float64)


def _solved_pool(hessian: Hessian, candidates: list[np.ndarray], targets: np.ndarray) -> _Pool:
    variance = np.array(hessian.quadratic(targets), np.float64)
    if not (variance > 0).all():
        raise InputError(f"The rigidity of target {int(np.argmin(variance))} is infinite as it is; leave it out.")
    rows = np.concatenate(candidates)
    solved = np.array(hessian.solve(rows), np.float64)
    first_rows = np.cumsum([0, *(len(each) for each in candidates)])
    members = _groups(first_rows, len(targets))
    grams = [rows[where] @ solved[where].swapaxes(1, 2) for where in members]
    return _Pool(rows, solved, solved @ targets.T, variance, first_rows, members, grams)


def _groups(
    first_rows: Int[np.ndarray, " candidate_and_one"], num_targets: int
) -> list[Int[np.ndarray, "_candidate _row"]]:
    """Rows of candidates that have equally many, in pieces small enough to be scored at once."""
    num_rows, groups = np.diff(first_rows), []
    for size in np.unique(num_rows):
        where = first_rows[:-1][num_rows == size][:, None] + np.arange(size)
        at_once = max(1, ELEMENTS_AT_ONCE // (int(size) * num_targets))
        groups.extend(where[first : first + at_once] for first in range(0, len(where), at_once))
    return groups


def _scores(pool: _Pool, score_fn: Callable[[Rigidities], np.ndarray]) -> Float[np.ndarray, " candidate"]:
    """Objective after the choice of each candidate."""
    by_row = np.empty(len(pool.rows))
    for where, gram in zip(pool.members, pool.grams, strict=True):
        factor = np.linalg.cholesky(np.eye(gram.shape[-1]) + gram)
        whitened = np.linalg.solve(factor, pool.across[where])
        by_row[where[:, 0]] = score_fn(1 / _lowered(pool.variance, np.sum(whitened**2, axis=1)))
    return by_row[pool.first_rows[:-1]]


def _lowered(variance: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Differences, which rounding must not make zero or negative."""
    return np.maximum(variance - by, np.finfo(np.float64).eps * variance)


def _add(pool: _Pool, candidate: int) -> None:
    """Add its rows to the Hessian that all is solved with."""
    chosen = slice(*pool.first_rows[candidate : candidate + 2])
    across = pool.rows @ pool.solved[chosen].T
    factor = np.linalg.cholesky(np.eye(across.shape[1]) + across[chosen])
    whitened, along, solved = (
        solve_triangular(factor, each, lower=True) for each in (across.T, pool.across[chosen], pool.solved[chosen])
    )
    pool.variance[:] = _lowered(pool.variance, np.sum(along**2, axis=0))
    for where, gram in zip(pool.members, pool.grams, strict=True):
        each = whitened.T[where]
        gram -= each @ each.swapaxes(1, 2)
    pool.across[:] -= whitened.T @ along
    pool.solved[:] -= whitened.T @ solved
