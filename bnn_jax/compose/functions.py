"""Energies, forces and the whole predictive of one system as pure functions of its positions and cell.

Each takes ``(positions, cell=None, edges=None)``: positions [atom, 3] and cell [3, 3] in Angstrom, lattice vectors as
rows, by default the cell of the structure that the function was made for; and edges of :func:`neighbor_fn`. Without
edges every call searches for neighbours. What is predicted from edges that overflowed is NaN.

Energies are above the sum of the atomic shifts (``Statistics.shifts``): in single precision a total energy of
thousands of eV would have no digits left for what changes.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bnn_jax.atoms.environments import surroundings
from bnn_jax.atoms.graph import AnyArray, species_index
from bnn_jax.atoms.sources import Structures, load
from bnn_jax.atoms.statistics import LABELS
from bnn_jax.compose.edges import Edges, Search, build_search, graph_of
from bnn_jax.export import Program
from bnn_jax.predict import Predictor, without_padding
from bnn_jax.types import AtomGraph, InputError, Params, Prediction

Which = str | int
"""``mean`` over samples, ``all`` of them along a leading axis, or the number of one."""
SystemFn = Callable[..., Any]
"""``fn(positions, cell=None, edges=None)``."""


class Estimate(NamedTuple):
    """The posterior predictive of one system, as :class:`bnn_jax.types.Predictive` has it before any recalibration."""

    energy: Float[Array, ""]
    """Mean, above the atomic shifts, in eV."""
    energy_std: Float[Array, ""]
    """Aleatoric and epistemic, as all stds here."""
    forces: Float[Array, "atom 3"]
    """Mean, in eV/Angstrom."""
    forces_std: Float[Array, "atom 3"]
    stress: Float[Array, "3 3"] | None
    """Mean, in eV/Angstrom^3; None without a cell."""
    stress_std: Float[Array, "3 3"] | None
    """Spread over samples; the model has no aleatoric stress."""
    beyond_validated: Bool[Array, " atom"] | None
    """Which lie beyond the range in which labels could check the error bars; None without such a range."""


def neighbor_fn(predictor: Predictor, structure: Structures, skin: float = 0.5, headroom: float = 0.25) -> Search:
    """How the neighbours of a system are found and kept up to date on the device.

    Args:
        predictor: whose cutoff counts.
        structure: one, as :func:`bnn_jax.load` takes it.
        skin: so much further than the cutoff pairs are kept, in Angstrom.
        headroom: share of pairs to keep free, of those that the structure has.

    Raises:
        InputError: there is not just one structure, or it is too large for a search among all pairs of atoms.
    """
    positions, cell, pbc, _ = parts_of(predictor, structure)
    return build_search(positions, cell, pbc, predictor.cutoff, skin, headroom)


def samples_fn(predictor: Predictor, structure: Structures, headroom: float = 0.25) -> SystemFn:
    """``fn(positions, cell=None, edges=None, samples=None) -> Prediction``: every sample's, with a leading sample axis.

    Samples are those of the predictor where none are given.

    Args:
        predictor: samples of the posterior.
        structure: one, as :func:`bnn_jax.load` takes it: says which atoms there are, which directions are periodic, and
            how many pairs of neighbours there may be.
        headroom: share of pairs to keep free where the function itself searches for them.

    Raises:
        InputError: there is not just one structure, it holds an element that was not in training, or it is too large.
    """
    graph_at = _graph_fn(predictor, structure, headroom)

    def predict(
        positions: AnyArray, cell: AnyArray | None = None, edges: Edges | None = None, samples: Params | None = None
    ) -> Prediction:
        samples = predictor.samples if samples is None else samples
        return _prediction(predictor, samples, graph_at(positions, cell, edges))

    return predict


def _graph_fn(predictor: Predictor, structure: Structures, headroom: float) -> Callable[..., AtomGraph]:
    """``fn(positions, cell=None, edges=None)``: the graph, in the precision to predict in."""
    start, own_cell, pbc, species = parts_of(predictor, structure)
    is_periodic = bool(pbc.any())
    search = build_search(start, own_cell, pbc, predictor.cutoff, headroom=headroom)
    has_one_dtype = isinstance(predictor.apply_samples, Program)

    def graph_at(positions: AnyArray, cell: AnyArray | None = None, edges: Edges | None = None) -> AtomGraph:
        own_dtype = jax.tree.leaves(predictor.samples)[0].dtype
        dtype = own_dtype if has_one_dtype else jnp.result_type(positions, float)
        positions, cell = jnp.asarray(positions, dtype), jnp.asarray(own_cell if cell is None else cell, dtype)
        if edges is None:
            edges = search.find(*jax.lax.stop_gradient((positions, cell)))
        return graph_of(species, positions, cell if is_periodic else None, edges)

    return graph_at


def _prediction(predictor: Predictor, samples: Params, graph: AtomGraph) -> Prediction:
    dtype, num_atoms = graph.nodes["positions"].dtype, len(graph.nodes["positions"]) - 1
    samples = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), samples)
    return without_padding(predictor.apply_samples(samples, graph), 1, num_atoms)


def energy_fn(predictor: Predictor, structure: Structures, samples: Which = "mean", headroom: float = 0.25) -> SystemFn:
    """``fn(positions, cell=None, edges=None)``: the energy above the atomic shifts in eV, scalar or [sample].

    Its gradient by the positions is minus the forces, that by the cell belongs to the stress.

    Args:
        predictor: as for :func:`samples_fn`, as are structure, headroom and the errors.
        structure: one.
        samples: whose energy.
        headroom: of pairs.
    """
    return _chosen(predictor, structure, samples, headroom, lambda prediction: prediction.energy[:, 0])


def forces_fn(predictor: Predictor, structure: Structures, samples: Which = "mean", headroom: float = 0.25) -> SystemFn:
    """``fn(positions, cell=None, edges=None)``: the forces in eV/Angstrom, [atom, 3] or [sample, atom, 3].

    Args:
        predictor: as for :func:`samples_fn`, as are structure, headroom and the errors.
        structure: one.
        samples: whose forces.
        headroom: of pairs.
    """
    return _chosen(predictor, structure, samples, headroom, lambda prediction: prediction.forces)


def predict_fn(predictor: Predictor, structure: Structures, headroom: float = 0.25) -> SystemFn:
    """``fn(positions, cell=None, edges=None) -> Estimate``: mean and std of energy, forces and stress.

    They are the posterior's own: a calibration corrects them on the host (``Predictor.predict``).

    Args:
        predictor: as for :func:`samples_fn`, as are structure, headroom and the errors.
        structure: one.
        headroom: of pairs.
    """
    graph_at = _graph_fn(predictor, structure, headroom)
    _, _, _, species = parts_of(predictor, structure)
    known, validated = np.array(predictor.statistics.species), predictor.validated
    numbers, num_species = known[species], len(known)

    def estimate(positions: AnyArray, cell: AnyArray | None = None, edges: Edges | None = None) -> Estimate:
        graph = graph_at(positions, cell, edges)
        prediction = _prediction(predictor, predictor.samples, graph)
        found = _moments(prediction, predictor.statistics.labels)
        if validated is None:
            return found
        around = surroundings(graph, species, predictor.cutoff, num_species)
        return found._replace(beyond_validated=validated.beyond(_forces_score(prediction, found), numbers, around))

    return estimate


def _moments(prediction: Prediction, labels: Sequence[str]) -> Estimate:
    """Mean and total std over the samples of one system, as :func:`bnn_jax.predictive.combine` has them.

    What no label of the training set has taught is NaN.
    """
    has_energy, has_forces = (label in labels for label in LABELS)
    energy_variance = _variance(prediction.energy, prediction.energy_std, prediction.energy_std_epistemic)[0]
    forces_variance = _variance(prediction.forces, prediction.forces_std[..., None], prediction.forces_std_epistemic)
    stress = prediction.stress
    return Estimate(
        energy=prediction.energy.mean(axis=0)[0],
        energy_std=jnp.sqrt(energy_variance) if has_energy else jnp.full_like(energy_variance, jnp.nan),
        forces=prediction.forces.mean(axis=0),
        forces_std=jnp.sqrt(forces_variance) if has_forces else jnp.full_like(forces_variance, jnp.nan),
        stress=None if stress is None else stress.mean(axis=0)[0],
        stress_std=None if stress is None else _spread(stress)[0],
        beyond_validated=None,
    )


def _variance(values: Array, aleatoric: Array | float, own: Array | None) -> Array:
    variance = jnp.mean(jnp.square(aleatoric), axis=0) + _spread(values) ** 2
    return variance if own is None else variance + jnp.mean(own**2, axis=0)


def _forces_score(prediction: Prediction, found: Estimate) -> Float[Array, "atom 3"]:
    """As :attr:`bnn_jax.types.Predictive.forces_score` has it."""
    if prediction.score is not None:
        return jnp.broadcast_to(prediction.score.mean(axis=0)[:, None], found.forces.shape)
    epistemic = jnp.sqrt(_variance(prediction.forces, jnp.zeros((1, 1)), prediction.forces_std_epistemic))
    return jnp.where(jnp.isnan(found.forces_std), epistemic, found.forces_std)


def _spread(values: Float[Array, " sample *shape"]) -> Float[Array, " *shape"]:
    return jnp.std(values, axis=0, ddof=1) if len(values) > 1 else jnp.zeros_like(values[0])


def _chosen(
    predictor: Predictor, structure: Structures, samples: Which, headroom: float, field: Callable[[Prediction], Array]
) -> SystemFn:
    if isinstance(samples, int):
        predictor = predictor.of_sample(samples)
    elif samples not in ("mean", "all"):
        raise InputError(f"samples is {samples!r:.40}; give 'mean', 'all' or the number of one.")
    predict = samples_fn(predictor, structure, headroom)

    def fn(positions: AnyArray, cell: AnyArray | None = None, edges: Edges | None = None) -> Array:
        values = field(predict(positions, cell, edges))
        return values if samples == "all" else values.mean(axis=0)

    return fn


def parts_of(predictor: Predictor, structure: Structures) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions, cell, periods and species indices of the one structure.

    Args:
        predictor: that must know its elements.
        structure: as :func:`bnn_jax.load` takes it.

    Raises:
        InputError: there is not just one, or an element was not in training.
    """
    dataset = load(structure, use_labels=False)
    if len(dataset) != 1:
        raise InputError(f"{len(dataset)} structures were given; a function is made for one, so give one.")
    species = species_index(dataset, predictor.statistics.species)
    return dataset.positions, dataset.cell[0], dataset.pbc[0], species
