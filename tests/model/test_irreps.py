"""Which irreps a network carries: all that matter and none that cannot."""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.model import nequip
from bnn_jax.model.irreps import layer_irreps, product_paths
from tests import systems
from tests.properties.networks import config_of, generic, graph_of


def names(layers) -> list[str]:
    return [" ".join(map(str, layer)) for layer in layers]


@pytest.mark.parametrize(
    ("num_blocks", "l_max", "parity", "expected"),
    [
        (1, 2, True, ["0e", "0e"]),
        (3, 0, True, ["0e"] * 4),
        (3, 2, True, ["0e", "0e 1o 2e", "0e 1o 2e", "0e"]),
        (4, 1, False, ["0e", "0e 1o", "0e 1o", "0e 1o", "0e"]),
        # Pseudovectors need two products to arise from scalars and two to come back.
        (4, 1, True, ["0e", "0e 1o", "0e 1e 1o", "0e 1o", "0e"]),
        (6, 1, True, ["0e", "0e 1o", "0e 1e 1o", "0e 0o 1e 1o", "0e 1e 1o", "0e 1o", "0e"]),
    ],
)
def test_layers(num_blocks: int, l_max: int, parity: bool, expected: list[str]) -> None:
    assert names(layer_irreps(num_blocks, l_max, parity)) == expected


@pytest.mark.parametrize("l_max", [1, 2, 3])
def test_paths_are_those_of_e3nn(l_max: int) -> None:
    irreps = tuple(e3nn.Irrep(degree, sign) for degree in range(l_max + 1) for sign in (1, -1))
    paths = product_paths(irreps, irreps, l_max)
    assert len(set(paths)) == len(paths)
    assert list(paths) == sorted(paths, key=lambda path: irreps.index(path.target))
    product = e3nn.tensor_product(
        e3nn.Irreps(irreps), e3nn.Irreps.spherical_harmonics(l_max), filter_ir_out=list(irreps)
    )
    for irrep in irreps:
        assert sum(path.target == irrep for path in paths) == product.count(irrep)


@pytest.mark.parametrize(("num_blocks", "l_max"), [(3, 2), (4, 1)])
def test_no_weight_is_dead(num_blocks: int, l_max: int) -> None:
    """Every single weight moves the energies or the standard deviations of a generic structure."""
    species = (1, 6, 8)
    config = config_of(num_blocks=num_blocks, l_max=l_max, num_features=2, parity=True, species=species)
    potential = nequip(config)
    atoms = systems.rattled(systems.ethanol(), 0.1)
    with jax.enable_x64(True):
        graph = graph_of([atoms], (1, 16, 80), species=species)
        params = generic(jax.jit(potential.init)(jax.random.key(0), graph))

        def output(params):
            prediction = potential.apply(params, graph)
            weights = jnp.arange(1.0, 17.0)  # so that nothing cancels in the sum
            return jnp.sum(prediction.energy) + jnp.sum(prediction.energy_std) + weights @ prediction.forces_std

        gradient = jax.jit(jax.grad(output))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert (np.abs(leaf) > 1e-12).all(), jax.tree_util.keystr(path)
