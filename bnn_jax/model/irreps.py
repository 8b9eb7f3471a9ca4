"""Which irreducible representations a network carries, and which tensor-product paths can reach its output."""

from typing import NamedTuple

import e3nn_jax as e3nn


class Path(NamedTuple):
    """One term of the tensor product of features and spherical harmonics: input, harmonic degree, output."""

    source: e3nn.Irrep
    degree: int
    target: e3nn.Irrep


def product_paths(sources: tuple[e3nn.Irrep, ...], targets: tuple[e3nn.Irrep, ...], l_max: int) -> tuple[Path, ...]:
    """All paths from ``sources`` through harmonics up to ``l_max`` into ``targets``, ordered by target."""
    return tuple(
        Path(source, degree, target)
        for target in targets
        for source in sources
        for degree in range(l_max + 1)
        if target in source * e3nn.Irrep(degree, (-1) ** degree)
    )


def layer_irreps(num_blocks: int, l_max: int, parity: bool) -> tuple[tuple[e3nn.Irrep, ...], ...]:
    """Irreps that each layer carries, from the embedding to the output, without those that never matter.

    A layer keeps an irrep only if it can be reached from the species' scalars and can still reach the invariant
    features after the last block.

    Args:
        num_blocks: number of interaction blocks.
        l_max: largest degree of features and harmonics.
        parity: keep both parities of each degree; otherwise only that of the spherical harmonics.

    Returns:
        ``num_blocks + 1`` tuples; the first and the last are the even scalar alone.
    """
    scalar = e3nn.Irrep(0, 1)
    allowed = [
        e3nn.Irrep(degree, sign) for degree in range(l_max + 1) for sign in (1, -1) if parity or sign == (-1) ** degree
    ]
    reachable: list[tuple[e3nn.Irrep, ...]] = [(scalar,)]
    for _ in range(num_blocks):
        targets = {path.target for path in product_paths(reachable[-1], tuple(allowed), l_max)}
        # The self-connection carries over what is there already.
        reachable.append(tuple(irrep for irrep in allowed if irrep in targets or irrep in reachable[-1]))
    useful: list[tuple[e3nn.Irrep, ...]] = [(scalar,)]
    for layer in range(num_blocks - 1, 0, -1):
        paths = product_paths(reachable[layer], useful[0], l_max)
        sources = {path.source for path in paths} | set(useful[0])
        useful.insert(0, tuple(irrep for irrep in reachable[layer] if irrep in sources))
    useful.insert(0, (scalar,))
    return tuple(useful)


def independent_paths(paths: tuple[Path, ...]) -> tuple[tuple[Path, ...], ...]:
    """The paths of true tensors (scalars, vectors, ...) and those of pseudotensors, where there are both.

    In one matrix from all sources to all paths half of the blocks would be empty if features had both parities: two
    matrices hold them.
    """
    natural = [path.source.p == (-1) ** path.source.l for path in paths]
    groups = (
        tuple(path for path, is_natural in zip(paths, natural, strict=True) if is_natural == kind)
        for kind in (True, False)
    )
    return tuple(group for group in groups if group)
