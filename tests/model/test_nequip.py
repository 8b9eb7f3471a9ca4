"""The whole network against the plain e3nn-jax NequIP of the benchmarks, which equals mir-group's to 1e-9."""

import re

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.peers import plain_e3nn
from bnn_jax.atoms.graph import edge_mask, node_structure
from bnn_jax.config import ModelConfig
from bnn_jax.model import nequip
from bnn_jax.model.radial import bessel_basis, polynomial_envelope, silu
from tests import systems
from tests.properties.networks import config_of, generic, graph_of

pytestmark = pytest.mark.usefixtures("x64")


def plain_params(ours: dict, like: dict, config: ModelConfig) -> dict:
    """Our weights under the other network's names: ``w[i,j] 4x1o,4x1o`` is ours ``kernel_1o``.

    Where the other normalises its activations or radial basis with another constant, the weights after them make up.
    """
    base = ours["base"]
    gain = float(silu(jnp.asarray(1.0)) / e3nn.normalize_function(jax.nn.silu)(1.0))
    lengths = jnp.asarray([1.0])
    basis_gain = float(bessel_basis(lengths, 2.0, 1, 6)[0, 0] / polynomial_envelope(lengths / 2, 6)[0] / (2 / 2.0))
    blocks = {"linear_up": "linear_1", "linear_down": "linear_2", "self_connection": "self_connection"}

    def weight(path, leaf):
        names = [entry.key for entry in path][1:]
        if names[0] == "embedding":
            return base["embedding"]
        if names[0] == "readout":
            return gain * ours["heads"]["energy"]["kernel_0"]
        block = base[f"block_{names[0].removeprefix('layer_')}"]
        if names[1] == "radial":
            index = int(names[2].removeprefix("Dense_"))
            return block["radial"][f"kernel_{index}"] * (gain if index else basis_gain)
        irrep = re.fullmatch(r"w\[\d+,\d+\] \d+x(\w+),\d+x\1", names[2])[1]
        follows_gate = names[0] != "layer_0" and names[1] != "linear_down"
        return block[blocks[names[1]]][f"kernel_{irrep}"].reshape(leaf.shape) * (gain if follows_gate else 1)

    assert config.num_blocks == sum(name.startswith("layer_") for name in like["params"])
    return jax.tree_util.tree_map_with_path(weight, like)


@pytest.mark.parametrize("species_self_connection", [True, False])
def test_equals_plain_e3nn(species_self_connection: bool) -> None:
    species = (1, 6, 8)
    config = config_of(
        num_blocks=2,
        parity=False,
        species=species,
        species_self_connection=species_self_connection,
        radial_hidden=(8, 6),
    )
    structures = [systems.rattled(systems.ethanol()), systems.rattled(systems.water())]
    graph = graph_of(structures, (2, 16, 128), species=species)
    potential = nequip(config)
    params = generic(jax.jit(potential.init)(jax.random.key(0), graph))
    prediction = jax.jit(potential.apply)(params, graph)

    init, apply = plain_e3nn.build(config)
    real = np.asarray(edge_mask(graph))  # the plain one knows no padding
    arrays = graph.nodes["species"], graph.nodes["positions"], graph.senders[real], graph.receivers[real]
    theirs = plain_params(params, jax.jit(init)(jax.random.key(0)), config)
    energy, forces = jax.jit(apply, static_argnums=6)(theirs, *arrays, node_structure(graph), 3)
    np.testing.assert_allclose(prediction.energy[:2], energy[:2], rtol=1e-9)
    np.testing.assert_allclose(prediction.forces[:12], forces[:12], atol=1e-9 * np.abs(forces).max())
    assert np.abs(forces).max() > 1e-2
