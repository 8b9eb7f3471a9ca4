"""The stochastic potential: its units, its standard deviations, its start, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.config import ModelConfig
from bnn_jax.model import nequip
from bnn_jax.model.heads import LARGEST_STD, Heads, bounded
from bnn_jax.types import InputError
from tests import systems
from tests.properties.networks import config_of, evaluate, graph_of, network

pytestmark = pytest.mark.usefixtures("x64")


def test_scale_is_the_unit_of_everything() -> None:
    net = network("l_max 0")
    other = config_of(l_max=0, scale=3 * net.config.scale)
    graph = graph_of([systems.rattled(systems.water()), systems.rattled(systems.triclinic_crystal())])
    small, large = net.apply(net.params, graph), jax.jit(nequip(other).apply)(net.params, graph)
    for name in ("energy", "forces", "stress", "energy_std", "forces_std", "atom_energies"):
        np.testing.assert_allclose(getattr(large, name), 3 * getattr(small, name), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(large.features, small.features, rtol=1e-12)


def test_heads_read_the_features() -> None:
    """Energies are linear in them; the energy's variance is the sum of the atoms'."""
    net = network()
    result = evaluate(net, [systems.rattled(systems.ethanol())])[0]
    scale = net.config.scale
    energies, energy_log_std, forces_log_std = Heads(net.config).apply(
        {"params": net.params["heads"]}, jnp.asarray(result.features)
    )
    kernel = net.params["heads"]["energy"]["kernel_0"][:, 0] / np.sqrt(result.features.shape[1])
    np.testing.assert_allclose(energies, result.features @ kernel, rtol=1e-12)
    np.testing.assert_allclose(result.atom_energies, scale * energies, rtol=1e-12)
    np.testing.assert_allclose(result.energy, result.atom_energies.sum(), rtol=1e-12)
    np.testing.assert_allclose(result.energy_std, scale * np.sqrt(np.exp(2 * energy_log_std).sum()), rtol=1e-12)
    np.testing.assert_allclose(result.forces_std, scale * np.exp(forces_log_std), rtol=1e-12)


def test_bounded_growth_is_exact_inside_smooth_and_bounded() -> None:
    inside, outside = jnp.linspace(-30.0, 0.0, 40), jnp.linspace(0.0, 1e3, 100)
    np.testing.assert_array_equal(bounded(inside), inside)
    assert (jnp.diff(bounded(outside)) >= 0).all() and bounded(outside).max() <= np.log(LARGEST_STD) * (1 + 1e-12)
    beyond = jnp.full(1, 1e-6)
    for order, expected in ((1, 1.0), (2, 0.0)):
        derivative = lambda x: bounded(x).sum()  # noqa: E731
        for _ in range(order):
            derivative = jax.grad(lambda x, f=derivative: jnp.sum(f(x)))
        for x in (-beyond, 0 * beyond, beyond):
            np.testing.assert_allclose(derivative(x), expected, atol=2e-6)


def test_growth_of_stds_far_from_what_the_heads_were_made_for() -> None:
    net = network()
    features = jnp.asarray(evaluate(net, [systems.rattled(systems.ethanol())])[0].features)
    heads = dict(net.params["heads"])
    for name in ("energy_std", "forces_std"):  # as drawn the last layers are zero
        last = max(key for key in heads[name] if key.startswith("kernel"))
        heads[name] = heads[name] | {last: jax.random.normal(jax.random.key(1), heads[name][last].shape)}

    def log_stds(growth: str, factor: float) -> np.ndarray:
        config = dataclasses.replace(net.config, std_growth=growth)
        return np.stack(Heads(config).apply({"params": heads}, factor * features)[1:])

    near = log_stds("exponential", 1e-2)
    np.testing.assert_array_equal(log_stds("bounded", 1e-2)[near <= 0], near[near <= 0])
    far = log_stds("exponential", 1e4)
    assert far.max() > 1e2 and far.min() < -1e2
    assert log_stds("bounded", 1e4).max() <= np.log(LARGEST_STD) * (1 + 1e-12)
    np.testing.assert_array_equal(log_stds("bounded", 1e4)[far <= 0], far[far <= 0])


def test_matrices_are_multiplied_in_full_precision_everywhere() -> None:
    """By themselves recent GPUs would take TF32 and TPUs bfloat16, at three digits; no CPU shows it."""
    net, graph = network(), graph_of([systems.rattled(systems.water()), systems.rattled(systems.triclinic_crystal())])

    def loss(params):
        prediction = net.apply(params, graph)
        return sum(jnp.sum(getattr(prediction, name) ** 2) for name in ("energy", "forces", "stress", "forces_std"))

    batched = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), net.params)
    programs = (
        jax.jit(jax.vmap(jax.value_and_grad(loss))).lower(batched),
        jax.jit(jax.jvp, static_argnums=0).lower(loss, (net.params,), (net.params,)),
    )
    for program in programs:
        products = [line for line in program.as_text().splitlines() if "stablehlo.dot_general" in line]
        assert len(products) > 5
        assert not [line for line in products if "precision = [HIGHEST, HIGHEST]" not in line]


def test_fresh_standard_deviations_are_the_scale() -> None:
    """A draw of the prior in the exponent could overflow the first loss."""
    net, graph = network("l_max 0"), graph_of([systems.water()])
    prediction = net.apply(jax.jit(nequip(net.config).init)(jax.random.key(5), graph), graph)
    np.testing.assert_allclose(prediction.forces_std[:3], net.config.scale, rtol=1e-12)
    np.testing.assert_allclose(prediction.energy_std[0], np.sqrt(3) * net.config.scale, rtol=1e-12)


def test_fresh_weights_are_draws_of_the_prior() -> None:
    config = config_of(num_features=32)
    params = jax.jit(nequip(config).init)(jax.random.key(0), graph_of([systems.water()]))
    draws = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params["base"])])
    # The errors of mean and standard deviation of n normal numbers are 1 and 0.7 over the root of n.
    assert abs(draws.mean()) < 4 / np.sqrt(len(draws))
    assert abs(draws.std() - 1) < 3 / np.sqrt(len(draws))


def test_keys_draw_other_weights_and_a_network_without_dropout_none() -> None:
    net, graph = network("l_max 0"), graph_of([systems.water()])
    potential = nequip(net.config)
    init = jax.jit(potential.init)
    first, second = (init(jax.random.key(seed), graph) for seed in (0, 1))
    assert (first["base"]["embedding"] != second["base"]["embedding"]).all()
    with_key = potential.apply(net.params, graph, rng_key=jax.random.key(0))
    np.testing.assert_allclose(with_key.forces, net.apply(net.params, graph).forces, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"species": ()}, r"model.species is empty; fill it from the training set's statistics"),
        ({"num_blocks": 0}, r"model.num_blocks is 0; it must be at least 1"),
        ({"l_max": -1}, r"model.l_max is -1; it must be at least 0"),
        ({"polynomial_cutoff": 1}, r"model.polynomial_cutoff is 1; it must be at least 2"),
        ({"cutoff": 0.0}, r"model.cutoff is 0.0; it must be positive"),
        ({"scale": float("nan")}, r"model.scale is nan; it must be positive"),
    ],
)
def test_impossible_networks_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        nequip(ModelConfig(**{"species": (1,)} | options))
