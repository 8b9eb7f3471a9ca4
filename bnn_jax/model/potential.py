"""The stochastic potential: energy, forces, stress and stds as pure functions of parameters and graph."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bnn_jax.atoms.graph import node_mask, node_structure, pair_mask, pair_vectors
from bnn_jax.config import ModelConfig
from bnn_jax.model.heads import Heads
from bnn_jax.model.initial import draw
from bnn_jax.model.nequip import NequIP
from bnn_jax.model.start import Energies, with_std_of_errors, without_offset
from bnn_jax.types import AtomGraph, Batch, InputError, Params, Potential, Prediction, PRNGKey


class StochasticNequIP(nn.Module):
    """NequIP features and the heads that read them."""

    config: ModelConfig

    def setup(self):
        self.base = NequIP(self.config)
        self.heads = Heads(self.config)

    def __call__(
        self,
        species: Int[Array, " atom"],
        vectors: Float[Array, "pair 3"],
        senders: Int[Array, " edge"],
        receivers: Int[Array, " edge"],
        pair_mask: Bool[Array, " pair"],
    ) -> tuple[Float[Array, "atom channel"], tuple[Float[Array, " atom"], ...]]:
        features = self.base(species, vectors, senders, receivers, pair_mask)
        return features, self.heads(features)


def nequip(config: ModelConfig) -> Potential:
    """A stochastic NequIP (Rensmeyer 2024, section 3.2) as a pair of pure functions.

    Energies are ``scale * sum_i eps_i`` above the atomic shifts, forces minus their gradient, the stress their
    derivative by a symmetric strain over the volume. Standard deviations are ``scale * exp(MLP(features_i))`` for the
    forces of atom i, and the root of the sum of squares of another such network for the energy; beyond ``scale`` their
    growth is bounded, unless ``std_growth`` is ``exponential``.

    Args:
        config: hyper-parameters, with ``species`` and ``avg_num_neighbors`` of the training set filled in.

    Raises:
        InputError: ``config.species`` is empty or a hyper-parameter is out of range.
    """
    _check(config)
    module = StochasticNequIP(config)

    def inputs(graph: AtomGraph) -> tuple[Array, Array, Array, Array]:
        return graph.nodes["species"], graph.senders, graph.receivers, pair_mask(graph)

    # Left to itself JAX multiplies matrices of float32 in TF32 on recent GPUs and in bfloat16 on TPUs: three digits.
    @jax.default_matmul_precision("float32")
    def init(rng_key: PRNGKey, graph: AtomGraph) -> Params:
        species, senders, receivers, mask = inputs(graph)
        return draw(module, rng_key, species, pair_vectors(graph), senders, receivers, mask)

    @jax.default_matmul_precision("float32")
    def apply(params: Params, graph: AtomGraph, *, rng_key: PRNGKey | None = None) -> Prediction:
        del rng_key  # a network without dropout draws nothing
        species, senders, receivers, mask = inputs(graph)
        atoms, structure = node_mask(graph), node_structure(graph)
        num_atoms, num_structures = species.shape[0], graph.n_node.shape[0]

        def per_structure(values: Float[Array, " atom ..."]) -> Float[Array, " structure ..."]:
            return jax.ops.segment_sum(values, structure, num_structures, indices_are_sorted=True)

        def negative_energy(vectors: Float[Array, "pair 3"]):
            outputs: Any = module.apply({"params": params}, species, vectors, senders, receivers, mask)
            features, (energies, *log_stds) = outputs
            atom_energies = jnp.where(atoms, config.scale * energies, 0)
            return -jnp.sum(atom_energies), (features, atom_energies, log_stds)

        vectors = pair_vectors(graph)
        pulls, (features, atom_energies, log_stds) = jax.grad(negative_energy, has_aux=True)(vectors)
        ends = senders[::2], receivers[::2]
        forces = jax.ops.segment_sum(pulls, ends[0], num_atoms) - jax.ops.segment_sum(pulls, ends[1], num_atoms)
        energy_log_std, forces_log_std = log_stds
        return Prediction(
            energy=per_structure(atom_energies),
            forces=forces,
            stress=_stress(graph, vectors, pulls, structure[ends[1]]),
            energy_std=config.scale * jnp.sqrt(per_structure(jnp.exp(2 * energy_log_std))),
            forces_std=config.scale * jnp.exp(forces_log_std),
            atom_energies=atom_energies,
            features=features,
        )

    def energies_of(params: Params, batch: Batch) -> Energies:
        graph, labels = batch.graph, batch.labels
        features = apply(params, graph).features
        assert features is not None
        features = jnp.where(node_mask(graph)[:, None], features, 0)
        sums = jax.ops.segment_sum(features, node_structure(graph), graph.n_node.shape[0], indices_are_sorted=True)
        return Energies(sums, labels.energy / config.scale, graph.n_node, labels.energy_mask)

    @jax.default_matmul_precision("float32")
    def start(params: Params, batch: Batch) -> Params:
        energies = energies_of(params, batch)
        return with_std_of_errors(without_offset(params, energies), energies)

    @jax.default_matmul_precision("float32")
    def centre(params: Params, batch: Batch) -> Params:
        return without_offset(params, energies_of(params, batch))

    return Potential(init, apply, start, centre)


def _stress(graph, vectors, pulls, pair_structure) -> Float[Array, "structure 3 3"] | None:
    """Strain derivative over volume: a vector r becomes r + strain r, so it is the sum of r (dE/dr)^T."""
    if "cell" not in graph.globals:
        return None
    outer = -vectors[:, :, None] * pulls[:, None, :]
    virial = jax.ops.segment_sum(outer, pair_structure, graph.n_node.shape[0], indices_are_sorted=True)
    virial = (virial + virial.swapaxes(1, 2)) / 2
    volume = jnp.abs(jnp.linalg.det(graph.globals["cell"]))
    return jnp.where(volume > 0, 1 / jnp.where(volume > 0, volume, 1), 0)[:, None, None] * virial


def _check(config: ModelConfig) -> None:
    if not config.species:
        raise InputError(
            "model.species is empty; fill it from the training set's statistics before building a potential."
        )
    bounds = {"num_blocks": 1, "num_features": 1, "num_bessel": 1, "l_max": 0, "polynomial_cutoff": 2}
    for name, least in bounds.items():
        if getattr(config, name) < least:
            raise InputError(f"model.{name} is {getattr(config, name)}; it must be at least {least}.")
    for name in ("cutoff", "avg_num_neighbors", "scale"):
        if not getattr(config, name) > 0:
            raise InputError(f"model.{name} is {getattr(config, name)}; it must be positive.")
