r"""Structures that a potential knows least of among those that are likely: gradient ascent from training structures.

.. math:: \max_\delta p(x_\delta) U(x_\delta), \qquad
    p(x_\delta) = \frac{\exp(-E(x_\delta) / n kT)}{\sum_{x \in train} \exp(-E(x) / n kT)}

with E the energy and n the number of atoms: the paper's temperature is one for each atom.

Reference: Tan et al. (2023), eq. 15 and 16 and supporting section III, after Schwalbe-Koda et al. (2021).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ase.build import minimize_rotation_and_translation
from jaxtyping import Array, Bool, Float

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.compose import samples_fn
from bnn_jax.config.fields import check_ranges, positive, within
from bnn_jax.methods import Posterior
from bnn_jax.predict import Predictor
from bnn_jax.types import InputError, Prediction
from bnn_jax.units import EV_PER_KCAL_PER_MOL

HEADROOM = 1.0
"""Share of pairs of neighbours to keep free: structures that are driven away from where they are may get denser."""


@dataclass(frozen=True)
class Attack:
    """How far the ascent goes, and what it may not do."""

    num_seeds: int = within(20, 1, 100_000)
    """Structures to start from, drawn from the training set."""
    num_steps: int = within(80, 1, 10**6)
    learning_rate: float = positive(1e-2, 10)
    """Of Adam, in Angstrom: about the way of each coordinate in a step. The published 5e-5 belongs to ``code``."""
    thermal_energy: float = positive(0.7 * EV_PER_KCAL_PER_MOL, 1e3)
    """kT of each atom, in eV."""
    update: Literal["paper", "code"] = "paper"
    """What the displacement is: ``paper`` ascends in it; ``code``, as that of the paper does, adds it to the positions
    again at every step, so that displacements sum up."""
    max_energy: float = positive(100 * EV_PER_KCAL_PER_MOL, 1e6)
    """Above the lowest of the training set, in eV: no further does a structure go."""
    closest: float = within(0.6, 0, 10)
    """Distance that two atoms keep, in Angstrom."""
    rmsd: float = within(0.02, 0, 10)
    """Root mean square distance of atoms, in Angstrom, of structures that count as one; molecules are superposed."""

    def __post_init__(self) -> None:
        check_ranges(self, "attack")


class Attacked(NamedTuple):
    """Structures that an attack found, the most promising first."""

    structures: tuple[ase.Atoms, ...]
    objective: Float[np.ndarray, " structure"]
    """p U, over that of the structure's own start."""
    uncertainty: Float[np.ndarray, " structure"]
    """U: a variance of forces in (eV/Angstrom)^2, or a score."""
    energy: Float[np.ndarray, " structure"]
    """Predicted, above the lowest of the training set, in eV."""
    seeds: tuple[int, ...]
    """Numbers of the training structures that they come from."""


def uncertainty(prediction: Prediction) -> Float[Array, ""]:
    """U of one structure from every sample's prediction, whatever the method: the mean over its atoms.

    The score, where the method has one (a Gaussian mixture's, eq. 11); else the epistemic variance of the forces, over
    samples (eq. 5) and of each sample by itself (evidential regression, eq. 9); else the variance that one network
    predicts (mean-variance estimation).

    Args:
        prediction: with a leading sample axis.
    """
    if prediction.score is not None:
        return jnp.mean(prediction.score)
    own, num_samples = prediction.forces_std_epistemic, len(prediction.energy)
    if own is None:
        spread = jnp.var(prediction.forces, axis=0, ddof=1) if num_samples > 1 else prediction.forces_std**2
        return jnp.mean(spread)
    return jnp.mean(own**2) + (jnp.mean(jnp.var(prediction.forces, axis=0, ddof=1)) if num_samples > 1 else 0)


def adversarial(
    posterior: Posterior | Predictor, train: Dataset, attack: Attack | None = None, *, seed: int = 0
) -> Attacked:
    """Attack the posterior from structures that it was trained on.

    All seeds of one composition move together in one compiled loop. Each keeps the best structure on its way that
    broke no limit; what has not moved, is not finite or is like another one is left out.

    Args:
        posterior: of any method.
        train: structures to start from, with energies, which the thermodynamic probability is measured against.
        attack: how; the defaults if None.
        seed: of the choice of structures.

    Raises:
        InputError: the training set has no energies, or an element is unknown.
    """
    attack = attack or Attack()
    predictor = posterior.predictor
    known = np.isfinite(train.energy)
    if not known.any():
        raise InputError("The training set has no energies, from which an attack takes what is likely; give some.")
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(train), attack.num_seeds, replace=attack.num_seeds > len(train))
    systems, all_atoms = {}, train.to_atoms()
    for i in chosen.tolist():
        systems.setdefault((tuple(all_atoms[i].numbers.tolist()), tuple(all_atoms[i].pbc.tolist())), []).append(i)
    found: list[_Found] = []
    for indices in systems.values():
        found += _of_one_system(predictor, all_atoms, train.energy, indices, attack)
    kept: list[_Found] = []
    for each in sorted(found, key=lambda each: -each.objective):
        if all(distance(each.structure, other.structure) > attack.rmsd for other in kept):
            kept.append(each)
    return Attacked(
        structures=tuple(each.structure for each in kept),
        objective=np.array([each.objective for each in kept]),
        uncertainty=np.array([each.uncertainty for each in kept]),
        energy=np.array([each.energy for each in kept]),
        seeds=tuple(each.seed for each in kept),
    )


def distance(one: ase.Atoms, other: ase.Atoms) -> float:
    """Root mean square distance between the atoms of two structures, in Angstrom; infinite where they differ in kind.

    Molecules are superposed first; in a cell the nearest images count, and nothing is turned.

    Args:
        one: a structure.
        other: the other one, its atoms in the same order.
    """
    if one.numbers.tolist() != other.numbers.tolist() or (one.pbc != other.pbc).any():
        return float("inf")
    if one.pbc.any():
        fractional = one.cell.scaled_positions(other.positions - one.positions)
        apart = (fractional - np.where(one.pbc, np.round(fractional), 0)) @ one.cell.array
        return float(np.sqrt(np.mean(np.sum(apart**2, axis=1))))
    moved = other.copy()
    minimize_rotation_and_translation(one, moved)
    return float(np.sqrt(np.mean(np.sum((moved.positions - one.positions) ** 2, axis=1))))


class _Found(NamedTuple):
    """One structure of :class:`Attacked`."""

    objective: float
    structure: ase.Atoms
    uncertainty: float
    energy: float
    seed: int


class _Place(NamedTuple):
    """Of one seed on its way."""

    positions: Array
    displacement: Any
    optimizer: Any
    best: Array
    """Positions."""
    best_objective: Array
    is_within: Bool[Array, ""]
    """Whether no limit has been broken yet."""


class _Value(NamedTuple):
    uncertainty: Array
    energy: Array
    """Above the lowest training energy of the composition, in eV."""


def _of_one_system(
    predictor: Predictor,
    train: Sequence[ase.Atoms],
    energies: Float[np.ndarray, " structure"],
    indices: Sequence[int],
    attack: Attack,
) -> list[_Found]:
    """All that moved, of seeds with the same atoms in the same order."""
    first = train[indices[0]]
    alike = [i for i, atoms in enumerate(train) if atoms.numbers.tolist() == first.numbers.tolist()]
    lowest = np.nanmin(energies[alike]) - _shift(predictor, first)
    lowest_score = _lowest_score(predictor, [train[i] for i in alike])
    predict = samples_fn(predictor, first, HEADROOM)

    def value(positions: Array, cell: Array) -> _Value:
        prediction = predict(positions, cell)
        return _Value(uncertainty(prediction) - lowest_score, jnp.mean(prediction.energy) - lowest)

    dtype = jax.tree.leaves(predictor.samples)[0].dtype
    centres = np.stack([train[i].positions.mean(axis=0) for i in indices])
    starts = np.stack([train[i].positions for i in indices]) - centres[:, None]
    cells = jnp.asarray(np.stack([train[i].cell.array for i in indices]), dtype)
    best, objective, values = jax.device_get(
        jax.jit(jax.vmap(_ascent(value, first, attack)))(jnp.asarray(starts, dtype), cells)
    )
    found = []
    for k, i in enumerate(indices):
        if np.isfinite(objective[k]) and objective[k] > 1:
            structure = ase.Atoms(first.numbers, best[k] + centres[k], cell=train[i].cell, pbc=first.pbc)
            uncertain, energy = float(values.uncertainty[k]) + lowest_score, float(values.energy[k])
            found.append(_Found(float(objective[k]), structure, uncertain, energy, i))
    return found


def _ascent(value: Callable[[Array, Array], _Value], first: ase.Atoms, attack: Attack) -> Callable:
    """``(start, cell) -> (positions, objective over that of the start, value)`` of one seed."""
    optimizer, thermal = optax.adam(attack.learning_rate), attack.thermal_energy * len(first)
    one, other = np.triu_indices(len(first), 1)

    def log_objective(positions: Array, cell: Array) -> tuple[Array, _Value]:
        found = value(positions, cell)
        return jnp.log(jnp.maximum(found.uncertainty, 1e-30)) - found.energy / thermal, found

    def is_allowed(positions: Array, cell: Array, found: _Value) -> Array:
        vectors = positions[one] - positions[other]
        if first.pbc.any():  # the nearest image of a cell that is not too skew
            inverse = jnp.linalg.inv(cell)
            vectors = vectors - jnp.where(first.pbc, jnp.round(vectors @ inverse), 0) @ cell
        far = jnp.all(jnp.sum(vectors**2, axis=1) > attack.closest**2)
        return far & (found.energy <= attack.max_energy) & jnp.isfinite(found.uncertainty)

    def ascend(start: Array, cell: Array) -> tuple[Array, Array, _Value]:
        at_start, _ = log_objective(start, cell)

        def step(place: _Place, _: None) -> tuple[_Place, None]:
            def objective(displacement: Array) -> tuple[Array, tuple[Array, _Value]]:
                log_value, found = log_objective(place.positions + displacement, cell)
                return jnp.exp(log_value - at_start), (log_value, found)

            gradient, (log_value, found) = jax.grad(objective, has_aux=True)(place.displacement)
            here = place.positions + place.displacement
            is_within = place.is_within & is_allowed(here, cell, found)
            is_better = is_within & (log_value > place.best_objective)
            updates, state = optimizer.update(-gradient, place.optimizer)
            displacement: Any = optax.apply_updates(place.displacement, updates)
            positions = place.positions + displacement if attack.update == "code" else place.positions
            new = _Place(
                positions,
                displacement,
                state,
                jnp.where(is_better, here, place.best),
                jnp.where(is_better, log_value, place.best_objective),
                is_within,
            )
            return new, None

        zero = jnp.zeros_like(start)
        begin = _Place(start, zero, optimizer.init(zero), start, at_start, jnp.asarray(True))
        end, _ = jax.lax.scan(step, begin, length=attack.num_steps + 1)
        return end.best, jnp.exp(end.best_objective - at_start), value(end.best, cell)

    return ascend


def _shift(predictor: Predictor, atoms: ase.Atoms) -> float:
    """Sum of the atomic shifts, in eV."""
    shifts = dict(zip(predictor.statistics.species, predictor.statistics.shifts, strict=True))
    return float(sum(shifts[number] for number in atoms.numbers.tolist()))


def _lowest_score(predictor: Predictor, alike: list[ase.Atoms]) -> float:
    """The smallest U of structures, where that is a score, which may be negative as no variance is."""
    found = predictor.predict(alike)
    if found.score is None:
        return 0.0
    return float(np.add.reduceat(found.score, np.cumsum(found.num_atoms) - found.num_atoms).min() / len(alike[0]))
