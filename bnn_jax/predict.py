"""From stacked parameters to the posterior predictive, by a chunked ``vmap`` over samples."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.graph import PackedData, batch_size_needed, gather_batch, pack
from bnn_jax.atoms.statistics import Statistics
from bnn_jax.types import Params, Prediction, Predictive

# Edges that one call works on: enough to keep two cores busy, few enough to stay in their caches.
EDGES_PER_BATCH = 4096


def build_predictor(apply: Callable[..., Prediction], samples_at_once: int = 8) -> Callable:
    """Predictions of every posterior sample for a batch gathered on the device, in one compiled call.

    Args:
        apply: ``Potential.apply``.
        samples_at_once: how many samples ``vmap`` evaluates together; more need more memory.

    Returns:
        ``predictor(samples, packed, indices, num_nodes, num_edges) -> Prediction`` with a leading sample axis;
        features are left out.
    """

    @partial(jax.jit, static_argnums=(3, 4))
    def predictor(samples: Params, packed: PackedData, indices: Int[Array, " batch"], num_nodes: int, num_edges: int):
        graph = gather_batch(packed, indices, num_nodes, num_edges).graph

        def one(params: Params) -> Prediction:
            return apply(params, graph)._replace(features=None)

        return jax.lax.map(one, samples, batch_size=samples_at_once)

    return predictor


def predict(
    predictor: Callable, samples: Params, dataset: Dataset, statistics: Statistics, cutoff: float
) -> Predictive:
    """The posterior predictive of every structure of a data set.

    Args:
        predictor: from :func:`build_predictor`.
        samples: parameters with a leading sample axis.
        dataset: the structures; labels are ignored.
        statistics: of the training set; its atomic shifts are added to the energies in float64.
        cutoff: of the potential, in Angstrom.

    Raises:
        InputError: a structure holds an element the potential does not know.
    """
    packed = pack(dataset, cutoff, statistics.species, statistics.shifts)
    num_edges = np.diff(packed.edge_offset)
    batch_size = int(np.clip(EDGES_PER_BATCH // max(num_edges.mean(), 1), 1, len(dataset)))
    plan = np.full((-(-len(dataset) // batch_size), batch_size), -1, np.int32)
    plan.reshape(-1)[: len(dataset)] = np.arange(len(dataset))
    sizes = batch_size_needed(packed, plan)
    on_device = jax.device_put(packed)
    parts = []
    for indices in tqdm(plan, desc="predict", unit="batch", delay=5, disable=None):
        prediction = predictor(samples, on_device, indices, *sizes)
        atoms = int(dataset.num_atoms[indices[indices >= 0]].sum())
        structures = int((indices >= 0).sum())
        parts.append(_without_padding(jax.device_get(prediction), structures, atoms))
    whole = jax.tree.map(lambda *arrays: np.concatenate(arrays, axis=1), *parts)
    periodic = dataset.pbc.any(axis=1).all()
    shifts = dataset.composition @ statistics.shifts[np.searchsorted(statistics.species, dataset.species)]
    return combine(whole if periodic else whole._replace(stress=None), shifts, dataset.num_atoms)


def _without_padding(prediction: Prediction, num_structures: int, num_atoms: int) -> Prediction:
    def cut(field: str, array: np.ndarray) -> np.ndarray:
        per_structure = field in ("energy", "energy_std", "stress")
        return np.asarray(array[:, : num_structures if per_structure else num_atoms])

    return Prediction(**{k: v if v is None else cut(k, v) for k, v in prediction._asdict().items()})


def combine(
    prediction: Prediction, shifts: Float[np.ndarray, " structure"], num_atoms: Int[np.ndarray, " structure"]
) -> Predictive:
    r"""The equal mixture of the samples' predictions, in float64.

    .. math:: \mu = \frac1K \sum_k \mu_k, \qquad
              \sigma^2 = \frac1K \sum_k \sigma_k^2 + \frac{1}{K-1} \sum_k (\mu_k - \mu)^2

    Args:
        prediction: arrays with a leading sample axis, without padding.
        shifts: sum of the atomic shifts of each structure, in eV.
        num_atoms: atoms of each structure.

    Reference: Rensmeyer et al. (2024), section 4.2, for the mean; the variance is that of their mixture with the
    unbiased estimate of the spread.
    """
    prediction = jax.tree.map(lambda array: np.asarray(array, np.float64), prediction)
    energy_aleatoric = np.sqrt(np.mean(prediction.energy_std**2, axis=0))
    forces_aleatoric = np.sqrt(np.mean(prediction.forces_std**2, axis=0))
    energy_epistemic, forces_epistemic = _spread(prediction.energy), _spread(prediction.forces)
    energy_samples = prediction.energy + shifts
    return Predictive(
        energy=energy_samples.mean(axis=0),
        energy_std=np.hypot(energy_aleatoric, energy_epistemic),
        energy_std_aleatoric=energy_aleatoric,
        energy_std_epistemic=energy_epistemic,
        forces=prediction.forces.mean(axis=0),
        forces_std=np.hypot(forces_aleatoric[:, None], forces_epistemic),
        forces_std_aleatoric=forces_aleatoric,
        forces_std_epistemic=forces_epistemic,
        stress=None if prediction.stress is None else prediction.stress.mean(axis=0),
        stress_std_epistemic=None if prediction.stress is None else _spread(prediction.stress),
        energy_samples=energy_samples,
        energy_std_samples=prediction.energy_std,
        forces_samples=prediction.forces,
        forces_std_samples=prediction.forces_std,
        num_atoms=np.asarray(num_atoms),
    )


def _spread(samples: Float[np.ndarray, "sample *shape"]) -> Float[np.ndarray, "*shape"]:
    """Standard deviation over samples; zero for a single one, which has no spread to tell."""
    return samples.std(axis=0, ddof=1) if len(samples) > 1 else np.zeros(samples.shape[1:])
