"""The basis is orthogonal, finds the eigenvectors of the factors, and leaves the target of a chain as it is."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bnn_jax.config import SamplerConfig
from bnn_jax.sampling import amsgrad, chain, kronecker, schedule, sghmc

RNG = np.random.default_rng(0)
POSITION = {
    "bias": jnp.asarray(RNG.normal(size=5)),
    "column": jnp.asarray(RNG.normal(size=(4, 1))),
    "matrices": jnp.asarray(RNG.normal(size=(2, 3, 4, 5))),
    "scalar": jnp.asarray(1.5),
    "wide": jnp.asarray(RNG.normal(size=(3, kronecker.MAX_SIDE + 1))),
}


def like(tree, seed: int):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), tree)


def learnt(num_gradients: int = 20) -> kronecker.Basis:
    basis = kronecker.init(POSITION)
    for seed in range(num_gradients):
        basis = TURN(kronecker.update(basis, like(POSITION, seed)))
    return basis


def test_sides_that_turn() -> None:
    """Bias, column, matrices, scalar, wide: only sides of 2 to MAX_SIDE of leaves that are matrices."""
    sides = [
        (None if leaf.rows is None else leaf.rows.shape, None if leaf.columns is None else leaf.columns.shape)
        for leaf in kronecker.init(POSITION)
    ]
    assert sides == [(None, None), (None, None), ((6, 4, 4), (6, 5, 5)), (None, None), ((1, 3, 3), None)]


def test_nothing_turns_before_the_first_gradient() -> None:
    basis = TURN(kronecker.init(POSITION))
    jax.tree.map(assert_array_equal, kronecker.to_basis(basis, POSITION), POSITION)


@pytest.mark.usefixtures("x64")
def test_there_and_back_is_the_identity_and_lengths_are_kept() -> None:
    position = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), POSITION)
    basis = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), learnt())
    basis = TURN(basis)
    turned = kronecker.to_basis(basis, position)
    assert np.abs(np.asarray(turned["matrices"] - position["matrices"])).max() > 0.1
    for name in ("bias", "column", "scalar"):
        assert_array_equal(turned[name], position[name])
    for name, leaf in kronecker.from_basis(basis, turned).items():
        assert_allclose(leaf, position[name], rtol=1e-12, atol=1e-12)
        assert_allclose(jnp.linalg.norm(turned[name]), jnp.linalg.norm(position[name]), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_orthogonalisation_is_numpys_qr() -> None:
    matrices = np.random.default_rng(1).normal(size=(3, 7, 7))
    orthogonal, upper = np.linalg.qr(matrices)
    expected = orthogonal * np.sign(np.diagonal(upper, axis1=1, axis2=2))[:, None, :]
    assert_allclose(kronecker._orthogonal(jnp.asarray(matrices)), expected, atol=1e-13)


def test_orthogonal_even_where_there_is_nothing_to_orthogonalise() -> None:
    rng = np.random.default_rng(2)
    deficient = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 20))
    matrices = np.stack([np.zeros((20, 20)), deficient, np.diag(np.arange(20.0))]).astype(np.float32)
    result = np.asarray(kronecker._orthogonal(jnp.asarray(matrices)))
    assert_allclose(np.einsum("bmi,bmj->bij", result, result), np.broadcast_to(np.eye(20), (3, 20, 20)), atol=2e-6)
    assert_array_equal(result[0], np.eye(20))


def test_no_library_is_called() -> None:
    """LAPACK's calls wait for threads of the pool that they run on: two devices on two cores would wait for ever."""
    assert "custom_call" not in TURN.lower(kronecker.init(POSITION)).as_text()


@pytest.mark.usefixtures("x64")
def test_it_finds_the_eigenvectors_of_the_factors() -> None:
    """Gradients A z B with white z: factors in proportion to A A^T and B^T B."""
    left, right = RNG.normal(size=(4, 4)) * [[4.0], [2.0], [1.0], [0.5]], RNG.normal(size=(3, 3)) * [4.0, 2.0, 1.0]
    basis = kronecker.init(jnp.zeros((4, 3)))
    for seed in range(600):
        white = np.random.default_rng(seed).normal(size=(4, 3))
        basis = kronecker.update(basis, jnp.asarray(left @ white @ right))
    expected_mean = np.sum([0.01 * 0.99**i for i in range(600)])
    (leaf,) = basis
    assert_allclose(
        np.trace(leaf.row_factor[0]) / expected_mean,
        np.trace(left @ left.T) * np.trace(right.T @ right),
        rtol=0.5,  # a mean over some 100 gradients of few degrees of freedom
    )
    for _ in range(200):
        basis = TURN(basis)
    (leaf,) = basis
    for factor, vectors in ((leaf.row_factor, leaf.rows), (leaf.column_factor, leaf.columns)):
        diagonal = np.asarray(vectors[0].T @ factor[0] @ vectors[0])
        assert_allclose(diagonal - np.diag(np.diag(diagonal)), 0, atol=1e-6 * np.abs(diagonal).max())
        assert_allclose(np.sort(np.diag(diagonal)), np.linalg.eigvalsh(factor[0]), rtol=1e-6)


def test_tiny_gradients_turn_it_as_large_ones_do() -> None:
    gradient = {"weights": jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)}
    turned = []
    for scale in (1.0, 1e-15):
        basis = kronecker.update(kronecker.init(gradient), jax.tree.map(lambda leaf, s=scale: s * leaf, gradient))
        turned.append(kronecker.to_basis(TURN(basis), gradient)["weights"])
    assert_allclose(turned[1], turned[0], atol=1e-5)


def test_it_is_computed_in_full_precision() -> None:
    basis = kronecker.init(POSITION)

    def everything(basis, tree):
        turned = TURN(kronecker.update(basis, tree))
        return kronecker.from_basis(turned, kronecker.to_basis(turned, tree))

    text = jax.jit(everything).lower(basis, POSITION).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) > 5
    assert not [line for line in products if "precision = [HIGHEST, HIGHEST]" not in line]


# Four matrices' worth of weights with a normal posterior whose stiff directions lie across them.
NUM_DATA, NUM_CHAINS, SHAPE = 16, 1_500, (3, 2)
DIRECTIONS = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
COVARIANCE = DIRECTIONS @ np.diag([1.0, 0.5, 0.25, 0.12, 0.06, 0.03]) @ DIRECTIONS.T
MEAN = RNG.normal(size=6)
TURN = jax.jit(kronecker.turn)
CONFIG = SamplerConfig(
    mass="kronecker",
    basis_every=10,
    num_samples=3,
    alpha=0.5,
    beta=0.99,
    convergence_steps=800,
    step_size_first=5e-2,
    step_size_last=1e-2,
    cycle_steps=800,
    cycle_step_size=2e-2,
)


def value_and_grad_fn(position, _):
    def log_density(position):
        shifted = position.reshape(-1) - jnp.asarray(MEAN, jnp.float32)
        return -0.5 * shifted @ jnp.asarray(np.linalg.inv(COVARIANCE), jnp.float32) @ shifted, None

    return jax.value_and_grad(log_density, has_aux=True)(position)


def run(config: SamplerConfig) -> tuple[np.ndarray, chain.ChainState]:
    """Positions at the sample steps [chain, sample, 6], and the last states."""
    step, turn = chain.build_step(value_and_grad_fn, NUM_DATA, config), chain.build_turn(config)

    @jax.jit
    def cycle(states):
        return jax.lax.fori_loop(
            0, 800, lambda _, states: jax.vmap(lambda s: step(s, None)[0])(turn(states, None)), states
        )

    keys = jax.random.split(jax.random.key(0), NUM_CHAINS)
    states = jax.vmap(lambda key: chain.init(key, jnp.zeros(SHAPE, jnp.float32), config.mass))(keys)
    samples = []
    for sample_step in schedule.sample_steps(config):
        states = cycle(states)
        assert (np.asarray(states.step) == sample_step).all()
        samples.append(np.asarray(states.sampler.position).reshape(NUM_CHAINS, 6))
    return np.stack(samples, axis=1), states


def test_chains_in_a_learnt_basis_have_the_law_of_their_target() -> None:
    """Every chain learns a basis of its own; each coordinate in the target's eigenvectors has its variance."""
    samples, states = run(CONFIG)
    turned = np.abs(np.asarray(states.basis[0].rows - jnp.eye(3))).max(axis=(1, 2, 3))
    assert np.median(turned) > 0.3
    deviations = (samples.reshape(-1, 6) - MEAN) @ DIRECTIONS / np.sqrt(np.linalg.eigvalsh(COVARIANCE)[::-1])
    # Chains are independent; the three samples of one may not be, so that only chains are counted.
    assert_allclose(deviations.mean(axis=0), 0, atol=5 / np.sqrt(NUM_CHAINS))
    assert_allclose(deviations.var(axis=0), 1, atol=5 * np.sqrt(2 / NUM_CHAINS))


def test_the_basis_rests_once_the_mass_is_frozen() -> None:
    config = replace(CONFIG, convergence_steps=100, freeze_fraction=0.5)
    step, turn = chain.build_step(value_and_grad_fn, NUM_DATA, config), chain.build_turn(config)
    states = jax.vmap(lambda key: chain.init(key, jnp.zeros(SHAPE), "kronecker"))(
        jax.random.split(jax.random.key(1), 2)
    )
    advance = jax.jit(lambda states: jax.vmap(lambda state: step(state, None)[0])(turn(states, None)))
    seen = []
    for _ in range(80):
        states = advance(states)
        seen.append(jax.tree.map(np.asarray, (states.basis, states.mass)))
    changes = [
        any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), first, second)))
        for first, second in itertools.pairwise(seen)
    ]
    assert changes[:49] == 49 * [True] and changes[49:] == 30 * [False]
    rows = [basis[0].rows for basis, _ in seen]
    turns = [i + 1 for i in range(79) if (rows[i] != rows[i + 1]).any()]
    assert turns == [10, 20, 30, 40]


@pytest.mark.usefixtures("x64")
def test_a_turn_keeps_the_physical_momentum() -> None:
    state = chain.init(jax.random.key(0), POSITION, "kronecker")
    momentum = like(POSITION, 1)
    state = state._replace(sampler=sghmc.SGHMCState(POSITION, momentum), basis=kronecker.update(state.basis, POSITION))
    states = jax.tree.map(lambda leaf: leaf[None], state)._replace(step=jnp.array([40]))
    turned = jax.tree.map(lambda leaf: leaf[0], chain.build_turn(CONFIG)(states, None))
    assert np.abs(np.asarray(turned.sampler.momentum["matrices"] - momentum["matrices"])).max() > 0.1
    back = kronecker.from_basis(turned.basis, turned.sampler.momentum)
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-5), back, momentum)


def test_where_the_basis_is_that_of_the_weights_the_chain_is_the_diagonal_one() -> None:
    """Leaves without a side that turns: bit for bit."""
    position = {"bias": POSITION["bias"], "column": POSITION["column"]}

    def gradient_of(position, _):
        return jax.value_and_grad(
            lambda p: (-0.5 * sum(jnp.sum(x**2) for x in jax.tree.leaves(p)), None), has_aux=True
        )(position)

    ends = []
    for mass in ("diagonal", "kronecker"):
        config = replace(CONFIG, mass=mass)
        step, state = jax.jit(chain.build_step(gradient_of, 7, config)), chain.init(jax.random.key(0), position, mass)
        for _ in range(30):
            state, _ = step(state, None)
        ends.append(state.sampler.position)
        assert isinstance(state.mass, amsgrad.AMSGradState)
    jax.tree.map(assert_array_equal, *ends)
