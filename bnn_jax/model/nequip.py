"""NequIP (Batzner et al. 2022, doi:10.1038/s41467-022-29939-5) as a Flax module over dense channel-last features."""

import e3nn_jax as e3nn
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bnn_jax.config import ModelConfig
from bnn_jax.model.convolution import convolve, coupling, spherical_harmonics
from bnn_jax.model.irreps import Path, layer_irreps, product_paths
from bnn_jax.model.radial import MLP, bessel_basis, silu, tanh

NORMAL = nn.initializers.normal(1.0)
SCALAR = e3nn.Irrep(0, 1)


def component_offsets(irreps: tuple[e3nn.Irrep, ...]) -> dict[e3nn.Irrep, int]:
    """First component of each irrep in a dense feature array."""
    offsets, start = {}, 0
    for irrep in irreps:
        offsets[irrep] = start
        start += irrep.dim
    return offsets


class IrrepLinear(nn.Module):
    """Mixes channels within each irrep, with unit normal weights divided by the root of the fan-in.

    The input lists its irreps (repeats are summed over); the output holds ``targets`` with the given channel counts,
    as a dictionary of ``[atom, component, channel]``.
    """

    sources: tuple[e3nn.Irrep, ...]
    targets: tuple[tuple[e3nn.Irrep, int], ...]

    @nn.compact
    def __call__(self, x: Float[Array, "atom component channel"]) -> dict[e3nn.Irrep, Float[Array, "atom _ _"]]:
        outputs, start, channels = {}, {}, x.shape[-1]
        position = 0
        for irrep in self.sources:
            start.setdefault(irrep, []).append(position)
            position += irrep.dim
        for irrep, width in self.targets:
            copies = start[irrep]
            block = jnp.concatenate([x[:, first : first + irrep.dim] for first in copies], axis=-1)
            kernel = self.param(f"kernel_{irrep}", NORMAL, (block.shape[-1], width))
            outputs[irrep] = block @ (kernel / jnp.sqrt(len(copies) * channels).astype(x.dtype))
        return outputs


class SelfConnection(nn.Module):
    """Linear map of an atom's own features with one matrix per species (or one for all)."""

    sources: tuple[e3nn.Irrep, ...]
    targets: tuple[tuple[e3nn.Irrep, int], ...]
    num_species: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "atom component channel"], one_hot: Float[Array, "atom species"]
    ) -> dict[e3nn.Irrep, Float[Array, "atom _ _"]]:
        outputs, channels = {}, x.shape[-1]
        offsets = component_offsets(self.sources)
        for irrep, width in self.targets:
            if irrep not in offsets:
                continue
            block = x[:, offsets[irrep] : offsets[irrep] + irrep.dim]
            kernel = self.param(f"kernel_{irrep}", NORMAL, (self.num_species, channels, width))
            kernel = kernel / jnp.sqrt(channels).astype(x.dtype)
            if self.num_species == 1:
                outputs[irrep] = block @ kernel[0]
            else:
                # One matmul over (species, channel): faster than gathering a matrix for each atom.
                spread = block[:, :, None, :] * one_hot[:, None, :, None]
                outputs[irrep] = spread.reshape(*block.shape[:2], -1) @ kernel.reshape(-1, width)
        return outputs


class LayerNorm(nn.Module):
    """Divides by the root mean square over channels and irreps, with one learnt factor a channel and irrep."""

    irreps: tuple[e3nn.Irrep, ...]
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "atom component channel"]) -> Float[Array, "atom component channel"]:
        weights = jnp.concatenate([jnp.full(irrep.dim, 1 / irrep.dim, x.dtype) for irrep in self.irreps])
        mean_square = jnp.einsum("acf,c->a", x**2, weights) / (len(self.irreps) * x.shape[-1])
        factors = self.param("factor", NORMAL, (len(self.irreps), x.shape[-1]))
        factors = jnp.concatenate([jnp.repeat(factors[i][None], ir.dim, 0) for i, ir in enumerate(self.irreps)])
        return x * jax.lax.rsqrt(mean_square + self.epsilon)[:, None, None] * factors


class Interaction(nn.Module):
    """One block: radial weights, convolution, linear, self-connection, gate (Batzner 2022, Fig. 1)."""

    config: ModelConfig
    sources: tuple[e3nn.Irrep, ...]
    targets: tuple[e3nn.Irrep, ...]
    first: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "atom component channel"],
        one_hot: Float[Array, "atom species"],
        radial: Float[Array, "edge bessel"],
        couplings: dict[Path, Float[Array, "edge _ _"]],
        senders: Int[Array, " edge"],
        receivers: Int[Array, " edge"],
    ) -> Float[Array, "atom target channel"]:
        config, channels = self.config, self.config.num_features
        paths = product_paths(self.sources, self.targets, config.l_max)
        gated = tuple(irrep for irrep in self.targets if irrep.l > 0)
        wanted = tuple((irrep, channels * (1 + len(gated)) if irrep == SCALAR else channels) for irrep in self.targets)
        mixed = IrrepLinear(self.sources, tuple((irrep, channels) for irrep in self.sources), name="linear_1")(x)
        mixed = jnp.concatenate([mixed[irrep] for irrep in self.sources], axis=1)
        weights = MLP((*config.radial_hidden, len(paths) * channels), name="radial")(radial)
        messages = convolve(
            mixed,
            weights.reshape(-1, len(paths), channels),
            couplings,
            component_offsets(self.sources),
            paths,
            senders,
            receivers,
        )
        messages = messages / jnp.sqrt(config.avg_num_neighbors).astype(x.dtype)
        updated = IrrepLinear(tuple(path.target for path in paths), wanted, name="linear_2")(messages)
        if not self.first:
            # Without it in the first block an atom that has no neighbours keeps exactly zero energy.
            num_species = one_hot.shape[1] if config.species_self_connection else 1
            kept = SelfConnection(self.sources, wanted, num_species, name="self_connection")(x, one_hot)
            updated = {irrep: value + kept[irrep] if irrep in kept else value for irrep, value in updated.items()}
        gates = silu(updated[SCALAR][:, :, channels:])
        updated[SCALAR] = updated[SCALAR][:, :, :channels]
        if config.layer_norm:
            updated = self._normalise(updated)
        activated = []
        for irrep in self.targets:
            if irrep.l == 0:
                activated.append((silu if irrep.p == 1 else tanh)(updated[irrep]))
            else:
                gate = gated.index(irrep) * channels
                activated.append(updated[irrep] * gates[:, :, gate : gate + channels])
        return jnp.concatenate(activated, axis=1)

    def _normalise(self, updated: dict) -> dict:
        stacked = jnp.concatenate([updated[irrep] for irrep in self.targets], axis=1)
        stacked = LayerNorm(self.targets, name="layer_norm")(stacked)
        offsets = component_offsets(self.targets)
        return {irrep: stacked[:, offsets[irrep] : offsets[irrep] + irrep.dim] for irrep in self.targets}


class NequIP(nn.Module):
    """Invariant features of each atom from species and edge vectors.

    A padded edge is one whose mask is False; its vector may be zero.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        species: Int[Array, " atom"],
        vectors: Float[Array, "edge 3"],
        senders: Int[Array, " edge"],
        receivers: Int[Array, " edge"],
        edge_mask: Bool[Array, " edge"],
    ) -> Float[Array, "atom channel"]:
        config = self.config
        dtype = vectors.dtype
        layers = layer_irreps(config.num_blocks, config.l_max, config.parity)
        one_hot = jax.nn.one_hot(species, len(config.species), dtype=dtype)
        # A zero vector has no direction and no derivative of its length: padded edges get one outside the cutoff.
        outside = jnp.asarray([2 * config.cutoff, 0, 0], dtype)
        vectors = jnp.where(edge_mask[:, None], vectors, outside)
        lengths = jnp.linalg.norm(vectors, axis=-1)
        radial = bessel_basis(lengths, config.cutoff, config.num_bessel, config.polynomial_cutoff)
        harmonics = spherical_harmonics(vectors, config.l_max)
        all_paths = {
            path for i in range(config.num_blocks) for path in product_paths(layers[i], layers[i + 1], config.l_max)
        }
        couplings = {path: coupling(path, harmonics) for path in sorted(all_paths)}
        embedding = self.param("embedding", NORMAL, (len(config.species), config.num_features))
        x = (one_hot @ embedding)[:, None, :]
        for block in range(config.num_blocks):
            x = Interaction(config, layers[block], layers[block + 1], block == 0, name=f"block_{block}")(
                x, one_hot, radial, couplings, senders, receivers
            )
        return x[:, 0, :]
