"""NequIP (Batzner et al. 2022, doi:10.1038/s41467-022-29939-5) as a Flax module over channel-last features."""

import e3nn_jax as e3nn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bnn_jax.config import ModelConfig
from bnn_jax.model.convolution import convolve, coupling, spherical_harmonics
from bnn_jax.model.initial import UNIT
from bnn_jax.model.irreps import independent_paths, layer_irreps, product_paths
from bnn_jax.model.radial import MLP, bessel_basis, silu, tanh

SCALAR = e3nn.Irrep(0, 1)


Features = dict[e3nn.Irrep, Float[Array, "atom _ _"]]
"""Each irrep has its own number of components and of channels."""


class IrrepLinear(nn.Module):
    """Mixes channels within each irrep, with unit normal weights divided by the root of the fan-in."""

    targets: tuple[tuple[e3nn.Irrep, int], ...]

    @nn.compact
    def __call__(self, x: Features) -> Features:
        outputs = {}
        for irrep, width in self.targets:
            kernel = self.param(f"kernel_{irrep}", UNIT, (x[irrep].shape[-1], width))
            outputs[irrep] = x[irrep] @ (kernel / jnp.sqrt(kernel.shape[0]).astype(kernel.dtype))
        return outputs


class SelfConnection(nn.Module):
    """Linear map of an atom's own features with one matrix per species (or one for all)."""

    targets: tuple[tuple[e3nn.Irrep, int], ...]
    num_species: int

    @nn.compact
    def __call__(self, x: Features, one_hot: Float[Array, "atom species"]) -> Features:
        outputs = {}
        for irrep, width in self.targets:
            if irrep not in x:
                continue
            block = x[irrep]
            kernel = self.param(f"kernel_{irrep}", UNIT, (self.num_species, block.shape[-1], width))
            kernel = kernel / jnp.sqrt(block.shape[-1]).astype(block.dtype)
            if self.num_species == 1:
                outputs[irrep] = block @ kernel[0]
            else:
                # One matmul over (species, channel): faster than gathering a matrix for each atom.
                spread = block[:, :, None, :] * one_hot[:, None, :, None]
                outputs[irrep] = spread.reshape(*block.shape[:2], -1) @ kernel.reshape(-1, width)
        return outputs


class LayerNorm(nn.Module):
    """Divides by the root mean square over channels and irreps, with one learnt factor a channel and irrep."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Features) -> Features:
        mean_square = sum(jnp.mean(block**2, axis=(1, 2)) for block in x.values()) / len(x)
        factors = self.param("factor", UNIT, (len(x), next(iter(x.values())).shape[-1]))
        scale = jax.lax.rsqrt(mean_square + self.epsilon)[:, None, None]
        return {irrep: block * scale * factors[i] for i, (irrep, block) in enumerate(x.items())}


class Interaction(nn.Module):
    """One block: radial weights, convolution, linear, self-connection, gate (Batzner 2022, Fig. 1)."""

    config: ModelConfig
    sources: tuple[e3nn.Irrep, ...]
    targets: tuple[e3nn.Irrep, ...]
    first: bool

    @nn.compact
    def __call__(
        self,
        x: Features,
        one_hot: Float[Array, "atom species"],
        radial: Float[Array, "pair bessel"],
        harmonics: Float[Array, "pair 2 harmonic"],
        senders: Int[Array, " edge"],
        receivers: Int[Array, " edge"],
    ) -> Features:
        config, channels = self.config, self.config.num_features
        gated = tuple(irrep for irrep in self.targets if irrep.l > 0)
        wanted = tuple((irrep, channels * (1 + len(gated)) if irrep == SCALAR else channels) for irrep in self.targets)
        mixed = IrrepLinear(tuple((irrep, channels) for irrep in self.sources), name="linear_1")(x)
        messages = self._messages(mixed, radial, harmonics, senders, receivers)
        updated = IrrepLinear(wanted, name="linear_2")(messages)
        if not self.first:
            # Without it in the first block an atom that has no neighbours keeps exactly zero energy.
            num_species = one_hot.shape[1] if config.species_self_connection else 1
            kept = SelfConnection(wanted, num_species, name="self_connection")(x, one_hot)
            updated = {irrep: value + kept[irrep] if irrep in kept else value for irrep, value in updated.items()}
        gates = silu(updated[SCALAR][:, :, channels:])
        updated[SCALAR] = updated[SCALAR][:, :, :channels]
        if config.layer_norm:
            updated = LayerNorm(name="layer_norm")(updated)
        for irrep in self.targets:
            if irrep.l == 0:
                updated[irrep] = (silu if irrep.p == 1 else tanh)(updated[irrep])
            else:
                gate = gated.index(irrep) * channels
                updated[irrep] = updated[irrep] * gates[:, :, gate : gate + channels]
        return updated

    def _messages(self, x: Features, radial: Array, harmonics: Array, senders: Array, receivers: Array) -> Features:
        """Sum over neighbours, over the root of their average number; the channels of all paths into each target."""
        config, channels = self.config, self.config.num_features
        groups = independent_paths(product_paths(self.sources, self.targets, config.l_max))
        num_paths = [len(paths) for paths in groups]
        weights = MLP((*config.radial_hidden, sum(num_paths) * channels), name="radial")(radial)
        weights = weights.reshape(-1, sum(num_paths), channels)
        messages: dict[e3nn.Irrep, list[Array]] = {irrep: [] for irrep in self.targets}
        first = 0
        for paths in groups:
            sources = tuple(irrep for irrep in self.sources if any(path.source == irrep for path in paths))
            received = convolve(
                jnp.concatenate([x[irrep] for irrep in sources], axis=1),
                weights[:, first : first + len(paths)],
                coupling(sources, paths, harmonics),
                paths,
                senders,
                receivers,
            )
            for irrep, values in received.items():
                messages[irrep].append(values)
            first += len(paths)
        root = np.sqrt(config.avg_num_neighbors)
        return {irrep: jnp.concatenate(parts, axis=2) / root for irrep, parts in messages.items()}


class NequIP(nn.Module):
    """Invariant features of each atom from species and edge vectors.

    Edges 2k and 2k + 1 are the two directions of pair k: the vector of the first is the pair's, that of the second its
    opposite. A padded pair is one whose mask is False; its vector may be zero.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        species: Int[Array, " atom"],
        vectors: Float[Array, "pair 3"],
        senders: Int[Array, " edge"],
        receivers: Int[Array, " edge"],
        pair_mask: Bool[Array, " pair"],
    ) -> Float[Array, "atom channel"]:
        config = self.config
        dtype = vectors.dtype
        layers = layer_irreps(config.num_blocks, config.l_max, config.parity)
        one_hot = jax.nn.one_hot(species, len(config.species), dtype=dtype)
        # A zero vector has no direction and no derivative of its length: padded pairs get one outside the cutoff.
        outside = jnp.asarray([2 * config.cutoff, 0, 0], dtype)
        vectors = jnp.where(pair_mask[:, None], vectors, outside)
        lengths = jnp.linalg.norm(vectors, axis=-1)
        radial = bessel_basis(lengths, config.cutoff, config.num_bessel, config.polynomial_cutoff)
        harmonics = spherical_harmonics(vectors, config.l_max)
        embedding = self.param("embedding", UNIT, (len(config.species), config.num_features))
        x = {SCALAR: (one_hot @ embedding)[:, None, :]}
        for block in range(config.num_blocks):
            x = Interaction(config, layers[block], layers[block + 1], block == 0, name=f"block_{block}")(
                x, one_hot, radial, harmonics, senders, receivers
            )
        return x[SCALAR][:, 0, :]
