"""Every form of the Gauss-Newton Hessian against dense algebra, closed forms and scikit-matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skmatter import metrics

from bnn_jax.rigidity import components, dense_hessian, kernel_hessian, last_layer_precision, prediction_rigidity
from bnn_jax.rigidity.matrix_free import block_conjugate_gradients, lanczos_spectrum, matrix_free_hessian
from bnn_jax.rigidity.rigidity import calibration_factor
from bnn_jax.rigidity.sketch import draw_sketch
from bnn_jax.types import InputError

RNG = np.random.default_rng(0)
ROWS = [RNG.normal(size=(number, 30)) for number in (4, 7, 1, 5)]
TARGETS = RNG.normal(size=(6, 30))
ZETA = 0.3
MATRIX = sum(rows.T @ rows for rows in ROWS) + ZETA**2 * np.eye(30)


def product(vectors):
    return vectors @ (MATRIX - ZETA**2 * np.eye(30))


FORMS = {
    "dense": lambda: dense_hessian(ROWS, ZETA),
    "kernel": lambda: kernel_hessian(lambda first: iter(ROWS[first:]), ZETA),
    "kernel in blocks": lambda: kernel_hessian(lambda first: iter(ROWS[first:]), ZETA, max_bytes=2 * 8 * 30 * 8),
    "matrix free": lambda: matrix_free_hessian(product, 30, ZETA, tolerance=1e-12),
    "preconditioned": lambda: matrix_free_hessian(product, 30, ZETA, num_directions=10, tolerance=1e-12),
}


@pytest.fixture(params=FORMS)
def hessian(request):
    return FORMS[request.param]()


def test_products_and_solutions_are_those_of_the_matrix(hessian) -> None:
    inverse = np.linalg.inv(MATRIX)
    np.testing.assert_allclose(hessian.matvec(TARGETS), TARGETS @ MATRIX, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(hessian.solve(TARGETS), TARGETS @ inverse, rtol=1e-8, atol=1e-9)
    variance = np.einsum("tp,pq,tq->t", TARGETS, inverse, TARGETS)
    np.testing.assert_allclose(hessian.quadratic(TARGETS), variance, rtol=1e-9)
    np.testing.assert_allclose(prediction_rigidity(TARGETS, hessian), 1 / variance, rtol=1e-9)


def test_a_structure_that_is_added_raises_its_own_rigidity_by_one(hessian) -> None:
    """Appendix B of Chong et al. (2024)."""
    before = prediction_rigidity(TARGETS[:1], hessian)
    after = prediction_rigidity(TARGETS[:1], hessian.update(TARGETS[:1]))
    assert after - before == pytest.approx(1.0, abs=1e-8)
    both = np.vstack([*ROWS, TARGETS[:2]])
    expected = prediction_rigidity(TARGETS, both.T @ both + ZETA**2 * np.eye(30))
    np.testing.assert_allclose(prediction_rigidity(TARGETS, hessian.update(TARGETS[:2])), expected, rtol=1e-8)


@pytest.mark.parametrize("name", ["dense", "kernel", "kernel in blocks"])
def test_determinants(name: str) -> None:
    assert FORMS[name]().logdet() == pytest.approx(np.linalg.slogdet(MATRIX)[1])


def test_linear_model_by_closed_form_and_hessian_of_its_loss() -> None:
    """A linear model with square loss: the Hessian is that of the loss, whatever the labels."""
    features, targets = np.vstack(ROWS), RNG.normal(size=17)

    def loss(weights):
        return 0.5 * jnp.sum((features @ weights - targets) ** 2) + 0.5 * ZETA**2 * jnp.sum(weights**2)

    with jax.enable_x64(True):
        exact = np.asarray(jax.hessian(loss)(jnp.zeros(30)))
    np.testing.assert_allclose(dense_hessian(ROWS, ZETA).matrix, exact, rtol=1e-12)
    np.testing.assert_allclose(last_layer_precision(features, ZETA), exact, rtol=1e-12)
    # A kernel model with the linear kernel has the same rigidities.
    gram = features @ features.T + ZETA**2 * np.eye(17)
    across = TARGETS @ features.T
    variance = (np.sum(TARGETS**2, axis=1) - np.sum(across @ np.linalg.inv(gram) * across, axis=1)) / ZETA**2
    np.testing.assert_allclose(prediction_rigidity(TARGETS, exact), 1 / variance, rtol=1e-10)


def test_bound_of_the_error_of_an_iteration_that_ends_early() -> None:
    exact = np.einsum("tp,pq,tq->t", TARGETS, np.linalg.inv(MATRIX), TARGETS)
    one = TARGETS[:1]
    value, bound = matrix_free_hessian(product, 30, ZETA, tolerance=0.2).quadratic_with_error(one)
    assert 1e-6 < exact[0] - value[0] <= bound[0]


def test_the_preconditioner_saves_iterations() -> None:
    rows = RNG.normal(size=(60, 60)) * np.logspace(2, -2, 60)[:, None]
    counts = []
    for number in (0, 40):
        calls = []

        def counted(vectors, calls=calls):
            calls.append(len(vectors))
            return vectors @ rows.T @ rows

        hessian = matrix_free_hessian(counted, 60, 0.1, num_directions=number, tolerance=1e-8)
        calls.clear()
        found = hessian.quadratic(TARGETS[:1, :1] * np.ones((1, 60)))
        exact = np.ones((1, 60)) * TARGETS[0, 0]
        matrix = rows.T @ rows + 0.01 * np.eye(60)
        np.testing.assert_allclose(found, exact @ np.linalg.solve(matrix, exact.T).ravel(), rtol=1e-6)
        counts.append(len(calls))
    assert counts[1] < 0.7 * counts[0]


def test_vectors_that_depend_on_each_other_do_no_harm() -> None:
    twice = np.vstack([TARGETS[:2], TARGETS[:1]])
    found = block_conjugate_gradients(lambda vectors: vectors @ MATRIX, twice, 1e-10)
    np.testing.assert_allclose(found, twice @ np.linalg.inv(MATRIX), rtol=1e-7, atol=1e-9)


def test_iterations_that_do_not_converge_say_so(monkeypatch) -> None:
    monkeypatch.setattr("bnn_jax.rigidity.matrix_free.MAX_ITERATIONS", 2)
    with pytest.raises(InputError, match=r"2 iterations left a relative residual of .*, not 1\.0e-10"):
        block_conjugate_gradients(lambda vectors: vectors @ MATRIX, TARGETS[:1], 1e-10)


def test_lanczos_has_the_spectrum() -> None:
    """All steps from each vector are exact quadratures: the determinant to the error of the vectors."""
    found = lanczos_spectrum(lambda vectors: vectors @ MATRIX, 30, num_vectors=100, num_steps=30, seed=0)
    assert found.weights.sum() == pytest.approx(30)
    assert abs(found.logdet - np.linalg.slogdet(MATRIX)[1]) < 4 * found.logdet_error
    assert found.logdet_error < 3.0
    assert found.weights @ found.eigenvalues == pytest.approx(np.trace(MATRIX), rel=0.1)
    assert found.eigenvalues.max() == pytest.approx(np.linalg.eigvalsh(MATRIX)[-1], rel=1e-9)


def test_sketches_keep_inner_products() -> None:
    """Mean over sketches to their Monte Carlo error, spread as one over the root of the buckets."""
    found = np.array([draw_sketch(30, 10, seed)(TARGETS[:2]) for seed in range(2000)])
    products = np.einsum("sk,sk->s", found[:, 0], found[:, 1])
    assert abs(products.mean() - TARGETS[0] @ TARGETS[1]) < 4 * products.std() / np.sqrt(2000)
    norms = np.sum(TARGETS[:2] ** 2, axis=1)
    assert products.std() < 1.2 * np.sqrt((np.prod(norms) + (TARGETS[0] @ TARGETS[1]) ** 2) / 10)
    sketch = draw_sketch(30, 10, 0)
    np.testing.assert_array_equal(np.vstack(list(sketch.of_each(ROWS))), sketch(np.vstack(ROWS)))


def test_a_sketched_hessian_tends_to_the_exact_one() -> None:
    """Few rows of many weights: with buckets enough, rigidities come out to a few percent."""
    rows, targets = RNG.normal(size=(10, 4000)), RNG.normal(size=(20, 4000))
    exact = prediction_rigidity(targets, kernel_hessian(lambda first: iter([rows][first:]), 20.0))
    errors = []
    for number in (100, 2000):
        sketch = draw_sketch(4000, number, 1)
        found = prediction_rigidity(sketch(targets), dense_hessian(sketch.of_each([rows]), 20.0))
        errors.append(np.median(np.abs(found / exact - 1)))
    assert errors[1] < 0.05 and errors[1] < 0.6 * errors[0]


def test_local_and_componentwise_rigidities_equal_scikit_matter() -> None:
    """Rows are means over the atoms of a structure, zeta is relative to the spread of all atoms."""
    train = [RNG.normal(size=(number, 6)) for number in (3, 5, 4, 6, 2, 7, 5)]
    test = [RNG.normal(size=(number, 6)) for number in (2, 4)]
    alpha = 1e-3
    zeta = np.sqrt(alpha * np.sum(np.mean(np.vstack(train) ** 2, axis=0)))
    hessian = dense_hessian((each.mean(axis=0)[None] for each in train), zeta)
    expected, _ = metrics.local_prediction_rigidity(train, test, alpha)
    for atoms, found in zip(test, expected, strict=True):
        np.testing.assert_allclose(prediction_rigidity(atoms, hessian), found, rtol=1e-10)
    whole, local, _ = metrics.componentwise_prediction_rigidity(train, test, alpha, np.array([2, 3, 1]))
    slices = {"two": slice(0, 2), "three": slice(2, 5), "one": slice(5, 6)}
    for i, atoms in enumerate(test):
        parts = components(atoms.mean(axis=0)[None], slices)
        found = np.array([prediction_rigidity(rows, hessian)[0] for rows in parts.values()])
        np.testing.assert_allclose(found, whole[i], rtol=1e-10)
        each = np.stack([prediction_rigidity(rows, hessian) for rows in components(atoms, slices).values()], axis=1)
        np.testing.assert_allclose(each, local[i], rtol=1e-10)


@given(st.integers(1, 12), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_data_never_lower_a_rigidity(number: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = dense_hessian([rng.normal(size=(number, 8))], 0.1)
    after = before.update(rng.normal(size=(3, 8)))
    targets = rng.normal(size=(5, 8))
    assert (prediction_rigidity(targets, after) >= prediction_rigidity(targets, before) * (1 - 1e-9)).all()


def test_a_singular_hessian_names_its_open_directions() -> None:
    rows = RNG.normal(size=(20, 5))
    rows[:, 3] = 0.0
    with pytest.raises(InputError, match=r"1 of 5 directions of the weights are not determined .*along the weights 3,"):
        dense_hessian([rows], 0.0)
    assert dense_hessian([rows], 1e-3).jitter == 0.0
    turned = rows @ np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    tiny = dense_hessian([1e8 * turned], 1e-6)  # zeta drowns in rounding
    assert 0 < tiny.jitter < 1e-6 * np.trace(tiny.matrix)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dense_hessian([], 1.0), "no labelled structures"),
        (lambda: dense_hessian(ROWS, -1.0), "zeta is -1.0; it must be finite and not negative"),
        (
            lambda: kernel_hessian(lambda first: iter(ROWS[first:]), 0.0),
            "zeta is 0.0; more weights than rows need one above 0",
        ),
        (lambda: kernel_hessian(lambda first: iter([][first:]), 1.0), "no labelled structures"),
        (lambda: matrix_free_hessian(product, 30, float("nan")), "zeta is nan"),
        (lambda: draw_sketch(5, 6, 0), "6 buckets for 5 weights"),
        (lambda: components(TARGETS, {"a": slice(0, 20), "b": slice(19, 30)}), "Weight 19 is in several components"),
        (lambda: components(TARGETS, {"a": slice(0, 20), "b": slice(22, 30)}), "Weight 20 is in no component"),
        (lambda: calibration_factor(np.zeros(0), np.zeros(0)), "needs finite errors and positive rigidities"),
    ],
)
def test_what_cannot_be_used_is_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_calibration_recovers_the_factor_of_normal_errors() -> None:
    rng = np.random.default_rng(1)
    rigidities = rng.uniform(0.1, 10, size=40_000)
    errors = 2.5 * rng.normal(size=40_000) / np.sqrt(rigidities)
    for by in ("squared", "absolute", "likelihood"):
        assert calibration_factor(errors, rigidities, by) == pytest.approx(2.5, rel=0.02)  # 1 / sqrt(2 n) = 0.35 %
