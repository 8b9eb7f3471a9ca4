"""Which weights read which invariant channels: what has to be scaled to drop a channel."""

from collections.abc import Mapping
from typing import Any

from bnn_jax.model.leaves import Path, leaf


def channel_readers(params: Mapping[str, Any]) -> list[list[Path]]:
    """Kernels in groups that read the same invariant channels, along their last axis but one.

    The groups are the scalar features between blocks and before the heads, and each hidden layer of each MLP; the
    embedding of the species is no such layer.

    Args:
        params: of a stochastic NequIP (:func:`bnn_jax.model.nequip`).

    Returns:
        For each group the paths of its kernels in ``params``.
    """
    base, heads = params["base"], params["heads"]
    num_blocks = sum(name.startswith("block_") for name in base)
    groups: list[list[Path]] = []
    for block in range(1, num_blocks):
        readers = ("linear_1", "self_connection")
        groups.append([("base", f"block_{block}", reader, "kernel_0e") for reader in readers])
    groups.append([("heads", head, "kernel_0") for head in heads])
    networks = [("base", f"block_{block}", "radial") for block in range(num_blocks)]
    for network in [*networks, *(("heads", head) for head in heads)]:
        num_layers = sum(name.startswith("kernel_") for name in leaf(params, network))
        groups += [[(*network, f"kernel_{layer}")] for layer in range(1, num_layers)]
    return groups
