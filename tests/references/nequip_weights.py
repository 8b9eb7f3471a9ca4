"""Weights of mir-group/nequip 0.19, laid out for the plain e3nn-jax NequIP of the benchmarks."""

from collections.abc import Mapping
from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.plain_e3nn import hidden_irreps
from bnn_jax.config import ModelConfig


def plain_params(arrays: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, Any]:
    """Parameters of ``plain_e3nn.build(config)`` that give the function of a nequip model.

    Conventions differ: nequip orders the paths of the tensor product as its features are, e3nn-jax by target and then
    source; nequip does not normalise the radial network's SiLU, and estimates the second moments of the other
    activations by Monte Carlo. The last two are constants that go into the weights after them.

    Args:
        arrays: what ``benchmarks/peers/write_reference.py`` saved; ``weight:`` and ``moment:`` go by nequip's names.
        config: the hyper-parameters of both.
    """
    weights = {key.removeprefix("weight:model.func."): arrays[key] for key in arrays if key.startswith("weight:")}
    embedding = weights["type_embed.embed_module.weight"]
    params: dict[str, Any] = {"embedding": embedding}
    irreps_in, gains = e3nn.Irreps(f"{config.num_features}x0e"), {e3nn.Irrep("0e"): 1.0}
    for layer in range(config.num_blocks):
        name = f"layer{layer}_convnet"
        irreps_out = hidden_irreps(config, layer, irreps_in)
        convolution = {key.removeprefix(f"{name}.conv."): value for key, value in weights.items() if name in key}
        params[f"layer_{layer}"] = _layer(convolution, embedding, irreps_in, irreps_out, gains, config)
        moments = {
            key.split("equivariant_nonlin.")[1]: arrays[key] for key in arrays if f"moment:model.func.{name}" in key
        }
        irreps_in, gains = irreps_out, _gains(irreps_out, moments)
    readout = weights["per_atom_energy_readout.mlp_module.mlp.0.weight"] * gains[e3nn.Irrep("0e")]
    params["readout"] = {f"w[0,0] {irreps_in},1x0e": readout}
    return {"params": jax.tree.map(jnp.asarray, params)}


def _gains(irreps: e3nn.Irreps, moments: Mapping[str, np.ndarray]) -> dict[e3nn.Irrep, float]:
    """Each irrep's activation in nequip over that in e3nn-jax."""
    silu = float(e3nn.normalize_function(jax.nn.silu)(1.0) / jax.nn.silu(1.0))
    tanh = float(e3nn.normalize_function(jnp.tanh)(1.0) / jnp.tanh(1.0))
    even = float(moments["act_scalars.acts.0"]) / silu
    odd = float(moments.get("act_scalars.acts.1", tanh)) / tanh
    return {irrep: odd if irrep == "0o" else even for _, irrep in irreps}


def _layer(
    own: Mapping[str, np.ndarray],
    embedding: np.ndarray,
    irreps_in: e3nn.Irreps,
    irreps_out: e3nn.Irreps,
    gains: Mapping[e3nn.Irrep, float],
    config: ModelConfig,
) -> dict[str, Any]:
    width, num_gated = config.num_features, sum(irrep.l > 0 for _, irrep in irreps_out)
    columns = {irrep: width * (1 + num_gated if irrep == "0e" else 1) for _, irrep in irreps_out}
    paths = [
        (source, target)
        for _, source in irreps_in
        for degree in range(config.l_max + 1)
        for target in source * e3nn.Irrep(degree, (-1) ** degree)
        if target in irreps_out
    ]
    up = _blocks(own["linear_1.weight"], [(irrep, (width, width)) for _, irrep in irreps_in])
    # e3nn orders irreps by (l, parity), odd before even; e3nn-jax has 0e, 0o, 1o, 1e, 2e, ...
    torch_order = sorted(columns, key=lambda irrep: (irrep.l, irrep.p))
    sources = {irrep: [source for source, target in paths if target == irrep] for irrep in columns}
    down = _blocks(
        own["linear_2.weight"], [(irrep, (len(sources[irrep]), width, columns[irrep])) for irrep in torch_order]
    )
    down = {irrep: block[_stable_order(sources[irrep])].reshape(-1, columns[irrep]) for irrep, block in down.items()}
    irreps_mid = e3nn.Irreps([(width * len(sources[irrep]), irrep) for irrep in columns])
    params = {
        "linear_up": _linear({irrep: gains[irrep] * block for irrep, block in up.items()}, irreps_in, irreps_in),
        "linear_down": _linear(down, irreps_mid, irreps_out),
        "radial": _radial(own, paths, width),
    }
    if "sc.weight" in own:
        shared = [irrep for _, irrep in irreps_in if irrep in columns]
        weights = _blocks(own["sc.weight"], [(irrep, (width, embedding.shape[1], columns[irrep])) for irrep in shared])
        # a tensor product with the embedding is a linear map for each species
        maps = {
            irrep: gains[irrep] * np.einsum("sv,uvw->suw", embedding, block) / np.sqrt(embedding.shape[1])
            for irrep, block in weights.items()
        }
        params["self_connection"] = _linear(maps, irreps_in, irreps_out)
    return params


def _blocks(flat: np.ndarray, shapes: list[tuple[e3nn.Irrep, tuple[int, ...]]]) -> dict[e3nn.Irrep, np.ndarray]:
    """Cut a flat weight into one array per irrep."""
    ends = np.cumsum([np.prod(shape) for _, shape in shapes])
    assert ends[-1] == len(flat)
    parts = np.split(flat, ends[:-1])
    return {irrep: part.reshape(shape) for (irrep, shape), part in zip(shapes, parts, strict=True)}


def _stable_order(keys: list[Any]) -> list[int]:
    return sorted(range(len(keys)), key=lambda i: keys[i])


def _radial(own: Mapping[str, np.ndarray], paths: list[tuple[e3nn.Irrep, e3nn.Irrep]], width: int) -> dict[str, Any]:
    kernels = [own[key] for key in sorted(own) if key.startswith("edge_mlp")]
    order = _stable_order([(target, source) for source, target in paths])
    last = kernels[-1].reshape(-1, len(paths), width)[:, order].reshape(len(kernels[-1]), -1)
    # nequip multiplies by sqrt(2) where e3nn-jax normalises the SiLU before it
    gain = np.sqrt(2) * float(jax.nn.silu(1.0) / e3nn.normalize_function(jax.nn.silu)(1.0))
    scaled = [kernel * (gain if i else 1.0) for i, kernel in enumerate([*kernels[:-1], last])]
    return {f"Dense_{i}": {"kernel": kernel} for i, kernel in enumerate(scaled)}


def _linear(
    blocks: Mapping[e3nn.Irrep, np.ndarray], irreps_in: e3nn.Irreps, irreps_out: e3nn.Irreps
) -> dict[str, np.ndarray]:
    """Name and cut the weights as e3nn-jax does for targets that list scalars, gates and gated irreps."""
    width = irreps_out[0].mul
    num_gates = blocks[e3nn.Irrep("0e")].shape[-1] // width - 1
    scalars, gated = irreps_out.filter("0e + 0o"), irreps_out.filter(drop="0e + 0o")
    targets = (scalars + e3nn.Irreps(f"{num_gates * width}x0e") + gated).remove_zero_multiplicities().simplify()
    sources, used, named = irreps_in.regroup(), {}, {}
    for j, (mul, irrep) in enumerate(targets):
        start = used.get(irrep, 0)
        used[irrep] = start + mul
        for i, (mul_in, other) in enumerate(sources):
            if other == irrep:
                named[f"w[{i},{j}] {mul_in}x{irrep},{mul}x{irrep}"] = blocks[irrep][..., start : start + mul]
    return named
