"""What the benchmarks time: SGHMC steps and predictions of a preset on displaced molecules or crystals."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.peers.systems import displaced_structures
from bnn_jax.atoms import Dataset, PackedData, Statistics, batch_bound, batch_size_needed, gather_batch, pack
from bnn_jax.config import Config, PresetName
from bnn_jax.devices import placed, sample_mesh
from bnn_jax.methods import sghmc
from bnn_jax.methods.base import example_graph, fill_model_config
from bnn_jax.model import nequip
from bnn_jax.posterior import log_density_estimator, normal_log_prior
from bnn_jax.predict import build_predictor, every_sample, spread
from bnn_jax.sampling import chain
from bnn_jax.types import Batch, Params, Potential

PRESETS: tuple[PresetName, ...] = ("tiny", "small", "paper")
DATA_SIZE = 100


class Case(NamedTuple):
    """A preset with its potential and its data on the device."""

    preset: PresetName
    config: Config
    potential: Potential
    statistics: Statistics
    packed: PackedData

    def batch(self, num_structures: int) -> Batch:
        """The first so many structures, padded as ``fit`` pads a minibatch."""
        return gather_batch(self.packed, jnp.arange(num_structures), *batch_bound(self.packed, num_structures))

    def params(self, num_samples: int) -> Params:
        """Initial weights, which cost what samples of the posterior cost."""
        graph = example_graph(self.config.model)
        keys = jax.random.split(jax.random.key(0), num_samples)
        return jax.jit(jax.vmap(lambda key: self.potential.init(key, graph)))(keys)


def build_case(
    preset: PresetName, num_chains: int = 1, system: str = "ethanol", num_structures: int = DATA_SIZE
) -> Case:
    """A preset fitted to the statistics of a data set.

    Args:
        preset: its name.
        num_chains: instead of the preset's.
        system: a name of :data:`benchmarks.peers.systems.SYSTEMS`.
        num_structures: of the data set.
    """
    config = Config.preset(preset)
    config = replace(config, sampler=replace(config.sampler, num_chains=num_chains))
    dataset = Dataset.from_atoms(displaced_structures(num_structures, system))
    statistics = dataset.statistics(config.model.cutoff)
    config = replace(config, model=fill_model_config(config.model, statistics))
    packed = pack(dataset, config.model.cutoff, statistics.species, statistics.shifts)
    return Case(preset, config, nequip(config.model), statistics, jax.device_put(packed))


def build_estimate(case: Case) -> Callable:
    """``(params, batch) -> (log density, parts)``, as ``fit`` has it."""
    prior = lambda params: normal_log_prior(params, 0.0, case.config.posterior.prior_std)  # noqa: E731
    return log_density_estimator(case.potential.apply, prior, DATA_SIZE, case.config.posterior.stress_std)


def build_steps(case: Case, num_steps: int) -> tuple[chain.Chunk, tuple[Any, ...]]:
    """So many steps of all chains in one compiled call, built by ``fit`` itself, and the call's arguments."""
    chunk, plan, (states,) = sghmc.build_chains(jax.random.key(0), case.packed, case.config)
    states = placed(states, chunk.sharding)
    return chunk, (states, chunk.place(case.packed), plan(0, 0, num_steps), np.int32(num_steps))


def build_predictions(case: Case, num_samples: int, num_structures: int) -> tuple[Callable, tuple[Any, ...]]:
    """Energies, forces and standard deviations of every sample in one compiled call, and the call's arguments."""
    predictor = build_predictor(every_sample(case.potential.apply))
    indices = np.arange(num_structures, dtype=np.int32)
    sizes = batch_size_needed(case.packed, indices)
    samples = spread(case.params(num_samples))
    everywhere = NamedSharding(sample_mesh(num_samples), PartitionSpec())
    return predictor, (samples, jax.device_put(case.packed, everywhere), indices, *sizes)
