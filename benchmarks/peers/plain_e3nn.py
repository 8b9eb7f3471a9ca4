"""NequIP as plainly as e3nn-jax lets one write it: the JAX peer of the comparison and a reference for tests.

The architecture is that of mir-group/nequip 0.19 (Batzner et al. 2022, doi:10.1038/s41467-022-29939-5), written in the
style of mariogeiger/nequip-jax and nequix: one tensor product per path, a scatter, linear layers and a gate, each
an e3nn-jax call and none fused. It shares no code with ``bnn_jax.model``.
"""

from collections.abc import Callable
from typing import Any

import e3nn_jax as e3nn
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from benchmarks.peers.systems import StructureBatch
from bnn_jax.config import ModelConfig

Params = Any
Apply = Callable[..., tuple[Float[Array, " structure"], Float[Array, "atom 3"]]]


def hidden_irreps(config: ModelConfig, layer: int, irreps_in: e3nn.Irreps) -> e3nn.Irreps:
    """Irreps of a layer's output: those wanted that some path from ``irreps_in`` reaches; scalars after the last.

    Args:
        config: hyper-parameters.
        layer: index of the layer, from 0.
        irreps_in: irreps of the layer's input.

    Returns:
        ``num_features`` channels of each irrep, scalars first.
    """
    degrees = range(config.l_max + 1) if layer < config.num_blocks - 1 else range(1)
    parities = (1, -1) if config.parity and layer < config.num_blocks - 1 else (None,)
    wanted = [e3nn.Irrep(degree, (-1) ** degree if p is None else p) for degree in degrees for p in parities]
    reached = e3nn.tensor_product(irreps_in, e3nn.Irreps.spherical_harmonics(config.l_max))
    return e3nn.Irreps([(config.num_features, irrep) for irrep in wanted if irrep in reached])


def polynomial_envelope(x: Float[Array, " edge"], p: int) -> Float[Array, " edge"]:
    """One at zero, zero from one on, smooth there to the second derivative (Gasteiger et al. 2020, eq. 8)."""
    # e3nn.poly_envelope is the same, but its coefficients come from a linear solve in the precision of its first use
    inside = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    return jnp.where(x < 1, inside, 0.0)


class Layer(nn.Module):
    """Convolution, self-connection (none in the first layer, so that an isolated atom has energy zero) and gate."""

    config: ModelConfig
    irreps_out: str
    self_connection: bool

    @nn.compact
    def __call__(
        self,
        features: e3nn.IrrepsArray,
        harmonics: e3nn.IrrepsArray,
        radial: Float[Array, "edge basis"],
        species: Int[Array, " atom"],
        senders: Int[Array, " edge"],
        receivers: Int[Array, " edge"],
    ) -> e3nn.IrrepsArray:
        """Features of the next layer, [atom, irreps_out]."""
        config, irreps_out = self.config, e3nn.Irreps(self.irreps_out)
        scalars, gated = irreps_out.filter("0e + 0o"), irreps_out.filter(drop="0e + 0o")
        irreps_gate = scalars + e3nn.Irreps(f"{gated.num_irreps}x0e") + gated

        messages = e3nn.flax.Linear(features.irreps, name="linear_up")(features)[senders]
        messages = e3nn.tensor_product(messages, harmonics, filter_ir_out=[ir for _, ir in irreps_gate])
        weights = e3nn.flax.MultiLayerPerceptron(
            (*config.radial_hidden, messages.irreps.num_irreps), nn.silu, output_activation=False, name="radial"
        )(radial)
        convolved = e3nn.scatter_sum(messages * weights, dst=receivers, output_size=len(species))
        convolved = convolved / jnp.sqrt(config.avg_num_neighbors)
        update = e3nn.flax.Linear(irreps_gate, force_irreps_out=True, name="linear_down")(convolved)
        if self.self_connection:
            num_matrices = len(config.species) if config.species_self_connection else 1
            update = update + e3nn.flax.Linear(
                irreps_gate, num_indexed_weights=num_matrices, force_irreps_out=True, name="self_connection"
            )(species if config.species_self_connection else jnp.zeros_like(species), features)
        return e3nn.gate(update, even_act=nn.silu, odd_act=jnp.tanh, even_gate_act=nn.silu)


class PlainNequIP(nn.Module):
    """Energies of the atoms of a graph, without shifts."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        vectors: Float[Array, "edge 3"],
        species: Int[Array, " atom"],
        senders: Int[Array, " edge"],
        receivers: Int[Array, " edge"],
    ) -> Float[Array, " atom"]:
        """Energy of each atom in units of ``config.scale``, from the vectors between receivers and their senders."""
        config = self.config
        lengths = jnp.linalg.norm(vectors, axis=-1)
        # e3nn's Bessel functions are those of Batzner 2022, eq. 6, times sqrt(cutoff / 2)
        basis = e3nn.bessel(lengths, config.num_bessel, config.cutoff) * (2 / config.cutoff) ** 0.5
        radial = basis * polynomial_envelope(lengths / config.cutoff, config.polynomial_cutoff)[:, None]
        harmonics = e3nn.spherical_harmonics(
            e3nn.Irreps.spherical_harmonics(config.l_max), e3nn.IrrepsArray("1o", vectors), normalize=True
        )

        embedding = self.param("embedding", nn.initializers.normal(1.0), (len(config.species), config.num_features))
        features = e3nn.IrrepsArray(f"{config.num_features}x0e", embedding[species])
        for i in range(config.num_blocks):
            irreps_out = str(hidden_irreps(config, i, features.irreps))
            layer = Layer(config, irreps_out, self_connection=i > 0, name=f"layer_{i}")
            features = layer(features, harmonics, radial, species, senders, receivers)
        return e3nn.flax.Linear("0e", name="readout")(features).array[:, 0]


def build(config: ModelConfig) -> tuple[Callable[[jax.Array], Params], Apply]:
    """A plain NequIP as two pure functions.

    Args:
        config: hyper-parameters; ``species`` must be filled in. The heads for standard deviations are not built.

    Returns:
        ``init(rng_key) -> params`` and ``apply(params, species, positions, senders, receivers, structure_index,
        num_structures, images=0.0) -> (energy, forces)``: energies [structure] in eV without shifts, forces [atom, 3]
        in eV/Angstrom. ``species`` indexes ``config.species``; ``num_structures`` is a Python int; ``images`` are the
        lattice vectors, in Angstrom, that each sender is displaced by; edges must have non-zero length (no padding).

    Raises:
        ValueError: the configuration asks for a layer norm, or names no species.
    """
    if config.layer_norm:
        raise ValueError("The plain NequIP has no layer norm; set layer_norm to False.")
    if not config.species:
        raise ValueError("The plain NequIP needs the atomic numbers it shall know; set species.")
    model = PlainNequIP(config)

    def init(rng_key: jax.Array) -> Params:
        pair = jnp.arange(2)
        return model.init(rng_key, jnp.eye(2, 3), jnp.zeros_like(pair), pair, pair[::-1])

    def apply(
        params: Params,
        species: Int[Array, " atom"],
        positions: Float[Array, "atom 3"],
        senders: Int[Array, " edge"],
        receivers: Int[Array, " edge"],
        structure_index: Int[Array, " atom"],
        num_structures: int,
        images: Float[Array, "edge 3"] | float = 0.0,
    ) -> tuple[Float[Array, " structure"], Float[Array, "atom 3"]]:
        def total_energy(positions: Float[Array, "atom 3"]) -> tuple[Float[Array, ""], Float[Array, " structure"]]:
            vectors = positions[senders] + images - positions[receivers]
            atom_energies = model.apply(params, vectors, species, senders, receivers)
            energy = config.scale * e3nn.scatter_sum(atom_energies, dst=structure_index, output_size=num_structures)
            return jnp.sum(energy), energy

        gradient, energy = jax.grad(total_energy, has_aux=True)(positions)
        return energy, -gradient

    return init, apply


def build_predict(config: ModelConfig) -> tuple[Callable[[jax.Array], Params], Callable]:
    """``init(rng_key) -> params`` and ``predict(params, batch) -> (energy, forces)``, as :func:`build` has them."""
    init, apply = build(config)

    def predict(params: Params, batch: StructureBatch) -> tuple[Float[Array, " structure"], Float[Array, "atom 3"]]:
        cell = batch.cell[batch.structure_index[batch.receivers]]
        images = jnp.einsum("ei,eij->ej", batch.shifts, cell)
        graph = batch.species, batch.positions, batch.senders, batch.receivers, batch.structure_index
        return apply(params, *graph, batch.num_structures, images)

    return init, predict


def build_step(config: ModelConfig, learning_rate: float = 1e-3) -> tuple[Callable, Callable]:
    """A jitted Adam step on the mean squared errors of energies and forces, the loss that the PyTorch peer takes.

    Args:
        config: hyper-parameters.
        learning_rate: of Adam.

    Returns:
        ``init(rng_key) -> state`` and ``step(state, batch) -> (state, loss)``, where the state begins with the
        parameters.
    """
    init_params, predict = build_predict(config)
    optimizer = optax.adam(learning_rate)

    def init(rng_key: jax.Array) -> tuple[Params, optax.OptState]:
        params = init_params(rng_key)
        return params, optimizer.init(params)

    @jax.jit
    def step(
        state: tuple[Params, optax.OptState], batch: StructureBatch
    ) -> tuple[tuple[Params, optax.OptState], Float[Array, ""]]:
        def loss_fn(params: Params) -> Float[Array, ""]:
            energy, forces = predict(params, batch)
            return jnp.mean((energy - batch.energy) ** 2) + jnp.mean((forces - batch.forces) ** 2)

        params, optimizer_state = state
        loss, gradient = jax.value_and_grad(loss_fn)(params)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), loss

    return init, step
