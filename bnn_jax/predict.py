"""From stacked parameters to predictions of every sample: spread over devices, some at a time on each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any, Self

import jax
import numpy as np
from ase.data import chemical_symbols
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int
from tqdm import tqdm

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.environments import environments
from bnn_jax.atoms.graph import PackedData, batch_size_needed, gather_batch, pack, size_ladder
from bnn_jax.atoms.sources import Structures, load
from bnn_jax.atoms.statistics import Statistics
from bnn_jax.calibration import Calibration
from bnn_jax.devices import sample_mesh
from bnn_jax.memory import available_memory, peak_bytes, require_memory
from bnn_jax.predictive import combine
from bnn_jax.types import AtomGraph, InputError, Params, PickledByFields, Prediction, Predictive, Verdict
from bnn_jax.validated import ValidatedRange

# Edges that one call works on: enough to keep two cores busy, few enough to stay in their caches.
EDGES_PER_BATCH = 4096


@dataclass
class GrowingSizes:
    """Padded sizes that only grow, so that repeated predictions whose neighbour counts change compile once or twice.

    Give the same instance to every call of :func:`predict` for structures of one system.
    """

    headroom: float = 0.25
    """Fraction of edges to keep free when the size has to grow; of many less, four times the root of their number."""
    num_nodes: int = 0
    num_edges: int = 0

    def hold(self, num_nodes: int, num_edges: int) -> tuple[int, int]:
        """Sizes that hold so many nodes and edges, no smaller than those before.

        Args:
            num_nodes: nodes needed, padding included.
            num_edges: edges needed.
        """
        self.num_nodes = max(self.num_nodes, num_nodes)
        if num_edges > self.num_edges:
            free = min(self.headroom * num_edges, 4 * num_edges**0.5)
            self.num_edges = 2 * size_ladder(-(-int(num_edges + free) // 2))
        return self.num_nodes, self.num_edges


ApplySamples = Callable[..., Prediction]
"""``apply_samples(samples, graph, at_once=None)``: predictions with a leading sample axis, so many samples at a time;
None leaves their number to the function."""


@lru_cache(maxsize=32)  # so that those who predict with one network share what is compiled
def every_sample(apply: Callable[..., Prediction]) -> ApplySamples:
    """Evaluate a potential at several samples, whose number at a time decides about memory and nothing else.

    Args:
        apply: ``Potential.apply``.

    Returns:
        A pure function. Unless told otherwise it takes one sample after another on a CPU, where several under ``vmap``
        take up to twice as long, and all together elsewhere. Features are left out.
    """

    def apply_samples(samples: Params, graph: AtomGraph, at_once: int | None = None) -> Prediction:
        at_once = at_once or (1 if jax.default_backend() == "cpu" else _num_samples(samples))

        def one(params: Params) -> Prediction:
            return apply(params, graph)._replace(features=None)

        return jax.lax.map(one, samples, batch_size=at_once if at_once > 1 else None)

    return apply_samples


@lru_cache(maxsize=32)
def build_predictor(apply_samples: ApplySamples) -> Callable:
    """Predictions of every posterior sample for a batch gathered on the device, in one compiled call.

    Each device predicts with its own share of the samples (:func:`spread`).

    Args:
        apply_samples: from :func:`every_sample`.

    Returns:
        ``predictor(samples, packed, indices, num_nodes, num_edges, at_once=None) -> Prediction`` with a leading sample
        axis.
    """

    @partial(jax.jit, static_argnames=("num_nodes", "num_edges", "at_once"))
    def predictor(
        samples: Params,
        packed: PackedData,
        indices: Int[Array, " batch"],
        num_nodes: int,
        num_edges: int,
        at_once: int | None = None,
    ) -> Prediction:
        graph = gather_batch(packed, indices, num_nodes, num_edges).graph
        on_one_device = partial(apply_samples, at_once=at_once)
        each = PartitionSpec("sample")
        in_specs = each, PartitionSpec()
        spread_out = jax.shard_map(
            on_one_device, mesh=_mesh(samples), in_specs=in_specs, out_specs=each, check_vma=False
        )
        return spread_out(samples, graph)

    return predictor


def spread(samples: Params) -> Params:
    """The samples on the devices that will predict with them, once for all calls.

    Args:
        samples: parameters with a leading sample axis.
    """
    return jax.device_put(samples, NamedSharding(_mesh(samples), PartitionSpec("sample")))


def _mesh(samples: Params) -> Mesh:
    return sample_mesh(_num_samples(samples))


def _num_samples(samples: Params) -> int:
    return jax.tree.leaves(samples)[0].shape[0]


def predict(
    predictor: Any,
    samples: Params,
    dataset: Dataset,
    statistics: Statistics,
    cutoff: float,
    sizes: GrowingSizes | None = None,
    validated: ValidatedRange | None = None,
) -> Predictive:
    """The posterior predictive of every structure of a data set.

    Args:
        predictor: from :func:`build_predictor`, a jitted function.
        samples: parameters with a leading sample axis, best from :func:`spread`; positions are cast to their dtype.
        dataset: the structures; labels are ignored.
        statistics: of the training set; its atomic shifts are added to the energies in float64.
        cutoff: of the potential, in Angstrom.
        sizes: padded sizes of earlier calls, which this one may enlarge; without them the smallest that do.
        validated: the range that atoms may be beyond.

    Raises:
        InputError: a structure holds an element the potential does not know, or is too large for the memory.
    """
    dtype = jax.tree.leaves(samples)[0].dtype
    packed = pack(dataset, cutoff, statistics.species, statistics.shifts, dtype)
    num_edges = np.diff(packed.edge_offset)
    batch_size = int(np.clip(EDGES_PER_BATCH // max(num_edges.mean(), 1), 1, len(dataset)))
    # Short lists come in all lengths and cost little: coarse padding saves compilations. Long ones cost what they hold.
    is_short = sizes is None and num_edges.sum() <= EDGES_PER_BATCH
    round_up = _power_of_two if is_short else size_ladder
    plan = np.full((-(-len(dataset) // batch_size), round_up(batch_size)), -1, np.int32)
    structures = np.arange(len(dataset))
    plan[structures // batch_size, structures % batch_size] = structures
    num_nodes, most_edges = batch_size_needed(packed, plan)
    padded = (round_up(num_nodes), round_up(most_edges)) if sizes is None else sizes.hold(num_nodes, most_edges)
    everywhere = NamedSharding(_mesh(samples), PartitionSpec())
    on_device = jax.device_put(padded_rows(packed, round_up, least_edges=padded[1]), everywhere)
    chunk = {}
    if padded[1] > 32 * EDGES_PER_BATCH:  # one structure of uncommon size; to ask takes time
        chunk["at_once"] = samples_that_fit(predictor, samples, on_device, plan[0], padded)
    parts = []
    for indices in tqdm(plan, desc="predict", unit="batch", delay=5, disable=None):
        prediction = predictor(samples, on_device, indices, *padded, **chunk)
        atoms = int(dataset.num_atoms[indices[indices >= 0]].sum())
        structures = int((indices >= 0).sum())
        parts.append(without_padding(jax.device_get(prediction), structures, atoms))
    whole = jax.tree.map(lambda *arrays: np.concatenate(arrays, axis=1), *parts)
    return summed_up(whole, dataset, packed, statistics, cutoff, validated)


def summed_up(
    prediction: Prediction,
    dataset: Dataset,
    packed: PackedData,
    statistics: Statistics,
    cutoff: float,
    validated: ValidatedRange | None,
) -> Predictive:
    """From the samples' predictions of all structures to their predictive.

    Args:
        prediction: host arrays with a leading sample axis, without padding.
        dataset: the structures.
        packed: the same, on the host, without padding.
        statistics: of the training set.
        cutoff: of the potential, in Angstrom.
        validated: the range that atoms may be beyond.
    """
    periodic = dataset.pbc.any(axis=1).all()
    shifts = statistics.shifts[np.searchsorted(statistics.species, dataset.numbers)]
    prediction = prediction if periodic else prediction._replace(stress=None)
    predictive = combine(prediction, shifts, dataset.num_atoms, statistics.labels)
    if validated is None:
        return predictive
    found = environments(packed, cutoff, len(statistics.species))
    return predictive._replace(beyond_validated=validated.beyond(predictive.forces_score, dataset.numbers, found))


@dataclass(frozen=True, repr=False)
class Predictor(PickledByFields):
    """Posterior samples with all that their predictions need: from a posterior, or from a file that was exported."""

    apply_samples: ApplySamples
    samples: Params
    """Parameters with a leading sample axis."""
    statistics: Statistics
    """Of the training set."""
    cutoff: float
    """In Angstrom."""
    verdict: Verdict | None = None
    """Whether the samples can be trusted, as judged when their run ended; None where nobody has judged."""
    calibration: Calibration | None = None
    """Corrects the error bars; None leaves them as the samples have them."""
    validated: ValidatedRange | None = None
    """Beyond which no label could check the error bars; None where there was no validation set."""

    @cached_property
    def compiled(self) -> Any:
        """The jitted function of :func:`build_predictor`, which compiles once for each padded shape."""
        return build_predictor(self.apply_samples)

    @cached_property
    def spread_samples(self) -> Params:
        """The samples on the devices that predict with them."""
        return spread(self.samples)

    @property
    def num_samples(self) -> int:
        """Samples of all chains together."""
        return _num_samples(self.samples)

    @property
    def predictor(self) -> Self:
        """Itself, so that a function may ask a posterior and what was exported of one alike."""
        return self

    def __repr__(self) -> str:
        return f"<Predictor: {described(self.samples, self.statistics, self.verdict)}>"

    def of_sample(self, number: int) -> Self:
        """The predictor of one sample, which nobody has judged or calibrated.

        Args:
            number: of the sample, from 0.

        Raises:
            InputError: there is no such sample.
        """
        if not 0 <= number < self.num_samples:
            raise InputError(f"There is no sample {number}; there are {self.num_samples}, counted from 0.")
        samples = jax.tree.map(lambda leaf: leaf[number : number + 1], self.samples)
        return replace(self, samples=samples, verdict=None, calibration=None, validated=None)

    def predict(self, structures: Structures, sizes: GrowingSizes | None = None) -> Predictive:
        """The posterior predictive of structures; see :class:`bnn_jax.types.Predictive` for units and shapes.

        Args:
            structures: one or many, as :func:`bnn_jax.load` takes them; their labels are left alone.
            sizes: padded sizes of earlier calls, as :func:`predict` takes them.

        Raises:
            InputError: there is no structure, or one holds an element that was not in training, or not in the
                validation set of a calibration by element.
        """
        dataset = load(structures, use_labels=False)
        predictive = predict(
            self.compiled, self.spread_samples, dataset, self.statistics, self.cutoff, sizes, self.validated
        )
        return predictive if self.calibration is None else self.calibration(predictive, dataset.numbers)


def described(samples: Params, statistics: Statistics, verdict: Verdict | None) -> str:
    """What predicts, in half a line.

    Args:
        samples: parameters with a leading sample axis.
        statistics: of the training set.
        verdict: on the samples, if there is one.
    """
    num_weights = sum(leaf.size // len(leaf) for leaf in jax.tree.leaves(samples))
    elements = " ".join(chemical_symbols[number] for number in statistics.species)
    judged = "" if verdict is None else ", trusted" if verdict.is_trusted else ", not to be trusted yet"
    return f"{_num_samples(samples)} samples of {num_weights:,} weights, {elements}{judged}"


def samples_that_fit(
    predictor: Any, samples: Params, packed: PackedData, indices: np.ndarray, padded: tuple[int, int]
) -> int:
    """As many samples at a time as the memory holds, halved from all that a device has.

    Args:
        predictor: from :func:`build_predictor`.
        samples: parameters with a leading sample axis.
        packed: structures on the device.
        indices: of a batch.
        padded: its numbers of nodes and edges.

    Raises:
        InputError: it does not hold one.
    """
    at_once = 1 if jax.default_backend() == "cpu" else _num_samples(samples) // _mesh(samples).size

    def needed() -> int:
        return peak_bytes(predictor.lower(samples, packed, indices, *padded, at_once=at_once))

    while at_once > 1 and needed() > available_memory():
        at_once = -(-at_once // 2)
    if at_once == 1:
        what = f"a prediction with {padded[1]} pairs of neighbours"
        require_memory(needed(), what, "take a smaller structure or a larger machine")
    return at_once


def _power_of_two(size: int) -> int:
    return max(8, 1 << (size - 1).bit_length())


def padded_rows(packed: PackedData, round_up: Callable[[int], int], least_edges: int) -> PackedData:
    """Rows that nothing owns at the end of every array, so that data sets of about one size share a compilation.

    Args:
        packed: on the host.
        round_up: sizes.
        least_edges: rows of edges, at least.
    """
    num_structures, num_atoms, num_edges = len(packed.energy), len(packed.species), len(packed.senders)
    more_structures = round_up(num_structures) - num_structures
    more: dict[str, int] = dict.fromkeys(
        ("species", "positions", "forces", "forces_mask"), round_up(num_atoms) - num_atoms
    )
    more |= dict.fromkeys(("senders", "receivers", "shifts"), max(round_up(num_edges), least_edges) - num_edges)

    def padded(field: str, array: np.ndarray) -> np.ndarray:
        fill = array[-1] if field.endswith("_offset") else np.zeros_like(array[0])
        rows = np.broadcast_to(fill, (more.get(field, more_structures), *array.shape[1:]))
        return np.concatenate([array, rows.astype(array.dtype)])

    rows: dict[str, Any] = {
        field: None if array is None else padded(field, array) for field, array in packed._asdict().items()
    }
    return PackedData(**rows)._replace(shifts=rows["shifts"].astype(np.int32))  # int8 or int32 would be two shapes


def without_padding(prediction: Prediction, num_structures: int, num_atoms: int) -> Prediction:
    """The structures and atoms that there are.

    Args:
        prediction: with a leading sample axis.
        num_structures: to keep of each array.
        num_atoms: likewise.
    """

    def cut(field: str, array: Any) -> Any:
        per_structure = field in ("energy", "energy_std", "energy_std_epistemic", "stress")
        return array[:, : num_structures if per_structure else num_atoms]

    fields: dict[str, Any] = {k: v if v is None else cut(k, v) for k, v in prediction._asdict().items()}
    return Prediction(**fields)
