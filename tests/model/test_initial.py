"""Initial weights are independent standard normals, all of one draw, but for those that start at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bnn_jax.config import ModelConfig
from bnn_jax.methods.base import example_graph
from bnn_jax.model import nequip
from bnn_jax.model.heads import Heads
from bnn_jax.model.initial import draw

CONFIG = ModelConfig(num_blocks=2, num_features=16, species=(1, 8), avg_num_neighbors=4.0, std_hidden=(8,))
GRAPH = example_graph(CONFIG)
STD_HEADS = ("energy_std", "forces_std")


@pytest.fixture(scope="module")
def init():
    return jax.jit(nequip(CONFIG).init)


def test_weights_are_standard_normal_or_zero(init):
    weights = init(jax.random.key(0), GRAPH)
    zero, normal = [], []
    for path, leaf in jax.tree.leaves_with_path(weights):
        names = [part.key for part in path]
        is_zero = names[1] in STD_HEADS and names[2].endswith("_1")
        (zero if is_zero else normal).append(np.asarray(leaf).ravel())
    assert len(zero) == 4 and not np.concatenate(zero).any()
    values = np.concatenate(normal)
    # No weight has the draw of another: of 2^23 values that float32 draws take, n come out equal n^2 / 2^24 times.
    assert len(values) - len(np.unique(values)) < 4 * len(values) ** 2 / 2**24
    assert stats.kstest(values, "norm").pvalue > 0.01
    for leaf in normal:
        assert np.mean(leaf**2) == pytest.approx(1, abs=4 * np.sqrt(2 / len(leaf)))


def test_chains_draw_what_each_draws_alone(init):
    keys = jax.random.split(jax.random.key(1), 2)
    together = jax.jit(jax.vmap(nequip(CONFIG).init, in_axes=(0, None)))(keys, GRAPH)
    for leaf, one, other in zip(*map(jax.tree.leaves, (together, *(init(key, GRAPH) for key in keys))), strict=True):
        np.testing.assert_allclose(leaf, [one, other], rtol=1e-6, atol=1e-7)
        assert not one.any() or (one != other).all()


def test_there_is_one_draw_for_all():
    heads, features = Heads(CONFIG), jnp.zeros((1, CONFIG.num_features))
    program = str(jax.make_jaxpr(lambda key: draw(heads, key, features))(jax.random.key(0)))
    assert program.count("random_bits[") == 1
