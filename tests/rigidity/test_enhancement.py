"""What structures add to rigidities, by the Hessian made with and without them."""

import numpy as np
import pytest

from bnn_jax.rigidity import (
    dense_hessian,
    enhancement,
    kernel_hessian,
    matrix_free_hessian,
    prediction_rigidity,
)

RNG = np.random.default_rng(3)
TRAIN = [RNG.normal(size=(number, 12)) for number in (4, 2, 9)]
PREDICTIONS = RNG.normal(size=(6, 12))
STACKED = np.vstack(TRAIN)
FORMS = {
    "dense": lambda: dense_hessian(TRAIN, 0.2),
    "kernel": lambda: kernel_hessian(lambda first: iter(TRAIN[first:]), 0.2),
    "matrix free": lambda: matrix_free_hessian(lambda each: each @ STACKED.T @ STACKED, 12, 0.2, tolerance=1e-12),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_enhancement_is_that_of_the_hessian_with_the_rows(form: str, scale: float) -> None:
    rows = scale * RNG.normal(size=(4, 12))
    hessian = FORMS[form]()
    found = enhancement(hessian, PREDICTIONS, rows)
    after = prediction_rigidity(PREDICTIONS, hessian.update(rows))
    expected = after / prediction_rigidity(PREDICTIONS, hessian) - 1
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-11)
    first_order = np.sum((hessian.solve(rows) @ PREDICTIONS.T) ** 2, axis=0) / hessian.quadratic(PREDICTIONS)
    if scale < 1:  # where the difference of two rigidities is lost in rounding
        np.testing.assert_allclose(found, first_order, rtol=1e-9)


def test_enhancement_by_the_prediction_itself_and_of_none() -> None:
    """Its rigidity grows by one (Appendix B)."""
    hessian = FORMS["dense"]()
    found = enhancement(hessian, PREDICTIONS[:1], PREDICTIONS[:1])
    np.testing.assert_allclose(found * prediction_rigidity(PREDICTIONS[:1], hessian), 1.0, rtol=1e-9)
    assert np.isnan(enhancement(hessian, np.zeros((1, 12)), PREDICTIONS[:1])).all()
