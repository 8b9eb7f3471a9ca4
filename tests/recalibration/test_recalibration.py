"""What all methods share: units, groups, text, and what bad arguments get."""

import inspect
import json
import re

import numpy as np
import pytest

from bnn_jax.recalibration import METHODS, Recalibration, fit_recalibration
from bnn_jax.types import InputError

NUM_STRUCTURES, SIZE = 30, 6
COVERAGES = {"variance": None, "affine": None, "isotonic": None, "conformal": 0.9}
unchecked_fit = inspect.unwrap(fit_recalibration)  # without the suite's shape checker


@pytest.fixture
def validation():
    """Errors, stds, structures and groups of elements, four of group 1 and two of group 8 in each structure."""
    rng = np.random.default_rng(0)
    stds = rng.uniform(0.2, 2.0, size=NUM_STRUCTURES * SIZE)
    groups = np.tile([1, 1, 8, 1, 8, 1], NUM_STRUCTURES)
    errors = np.where(groups == 1, 0.5, 3.0) * stds * rng.normal(size=stds.size)
    return errors, stds, np.repeat(np.arange(NUM_STRUCTURES), SIZE), groups


def fit(method, *arrays):
    return fit_recalibration(method, *arrays, coverage=COVERAGES[method])


def spreads(found, *arguments):
    return found.stds(*arguments) if found.coverage is None else found.half_widths(*arguments)


def test_every_method_is_tested_here():
    assert list(METHODS) == list(COVERAGES)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("unit", [1e-3, 23.06, 1e9])
def test_covariant_under_a_change_of_unit(validation, method, unit):
    errors, stds, structure, groups = validation
    expected = spreads(fit(method, errors, stds, structure, groups), stds, groups)
    found = spreads(fit(method, unit * errors, unit * stds, structure, groups), unit * stds, groups)
    assert found == pytest.approx(unit * expected, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_order_and_names_of_elements_and_structures_mean_nothing(validation, method):
    errors, stds, structure, _ = validation
    expected = spreads(fit(method, errors, stds, structure), stds)
    order = np.random.default_rng(1).permutation(errors.size)
    renamed = 7 * (NUM_STRUCTURES - structure)
    found = spreads(fit(method, -errors[order], stds[order], renamed[order]), stds)
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("labels", [{1: 1, 8: 8}, {1: "H", 8: "O"}, {1: 8, 8: -1}])
def test_each_group_as_if_it_were_alone(validation, method, labels):
    errors, stds, structure, groups = validation
    named = np.array([labels[group] for group in groups.tolist()])
    found = spreads(fit(method, errors, stds, structure, named), stds, named)
    for group in (1, 8):
        chosen = groups == group
        alone = fit(method, errors[chosen], stds[chosen], structure[chosen])
        assert found[chosen].tolist() == spreads(alone, stds[chosen]).tolist()
    assert found != pytest.approx(spreads(fit(method, errors, stds, structure), stds), rel=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_scores_of_any_shape(validation, method):
    errors, stds, structure, groups = validation
    found = fit(method, errors, stds, structure, groups)
    flat = spreads(found, stds[:12], groups[:12])
    assert spreads(found, stds[:12].reshape(4, 3), groups[:12].reshape(4, 3)).tolist() == flat.reshape(4, 3).tolist()
    assert spreads(found, stds[:0], groups[:0]).shape == (0,)
    plain = fit(method, errors, stds, structure)
    assert spreads(plain, np.array(stds[3])).tolist() == spreads(plain, stds[3:4]).item()


@pytest.mark.parametrize("method", METHODS)
def test_float32_is_computed_in_float64(validation, method):
    errors, stds, structure, _ = validation
    errors, stds = errors.astype(np.float32), stds.astype(np.float32)
    expected = spreads(fit(method, errors.astype(np.float64), stds.astype(np.float64), structure), stds)
    assert spreads(fit(method, errors, stds, structure), stds).tolist() == expected.tolist()
    assert expected.dtype == np.float64


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("labels", [None, {1: 1, 8: 8}, {1: "H", 8: "O"}])
def test_text_and_back(validation, method, labels):
    errors, stds, structure, groups = validation
    named = None if labels is None else np.array([labels[group] for group in groups.tolist()])
    found = fit(method, errors, stds, structure, named)
    again = Recalibration.from_json(found.to_json())
    assert again.to_json() == found.to_json()
    assert again[:5] == found[:5]
    for curve, other in zip(found.curves, again.curves, strict=True):
        assert type(curve) is type(other)
        assert all(np.array_equal(value, read) for value, read in zip(curve, other, strict=True))
    assert spreads(again, 1.1 * stds, named).tolist() == spreads(found, 1.1 * stds, named).tolist()


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("variance", {"method": "varience"}, "Unknown recalibration method 'varience'; the nearest known is"),
        ("variance", {"curves": []}, "the groups and the curves do not fit each other"),
        ("variance", {"curves": [{"factor": -1.0}]}, "VarianceScaling(factor=-1.0) gives no spread"),
        ("variance", {"curves": [{"factor": float("nan")}]}, "a number is not finite"),
        ("variance", {"curves": [{"scale": 1.0}]}, "scale"),
        ("variance", {"coverage": 0.9}, "coverage is 0.9"),
        ("variance", {"score_kind": "variance"}, "score_kind is 'variance'"),
        ("variance", {"groups": [1.5]}, "the groups are not distinct integers or strings"),
        (
            "variance",
            {"groups": [1, 1], "curves": 2 * [{"factor": 1.0}], "num_structures": [3, 3]},
            "the groups are not distinct",
        ),
        ("variance", {"extra": 1}, "extra"),
        ("variance", {"num_structures": ["many"]}, "invalid literal for int()"),
        ("variance", {"curves": [{"factor": [1.0]}]}, "a number is a list, or a list a number"),
        ("variance", {"curves": [{"factor": 10**400}]}, "int too large to convert to float"),
        ("isotonic", {"curves": [{"scores": 1.0, "variances": 1.0}]}, "a number is a list, or a list a number"),
        ("affine", {"curves": [{"power": 3, "slope": 1, "lowest": 0, "floor": 1}]}, "gives no spread"),
        ("affine", {"curves": [{"power": 1, "slope": 1, "lowest": 0, "floor": 0}]}, "gives no spread"),
        ("affine", {"curves": [{"power": 2, "slope": -1, "lowest": 0, "floor": 2}]}, "gives no spread"),
        ("isotonic", {"curves": [{"scores": [1, 2], "variances": [2, 1]}]}, "gives no spread"),
        ("isotonic", {"curves": [{"scores": [1, 2], "variances": [1]}]}, "gives no spread"),
        ("isotonic", {"curves": [{"scores": [], "variances": []}]}, "gives no spread"),
        ("conformal", {"coverage": 1.5}, "coverage is 1.5; choose it between 0 and 1"),
        ("conformal", {"coverage": None}, "coverage is None"),
    ],
)
def test_text_that_is_not_sound(validation, method, changes, message):
    errors, stds, structure, _ = validation
    text = json.dumps(json.loads(fit(method, errors, stds, structure).to_json()) | changes)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Recalibration.from_json(text)
    assert str(caught.value).startswith("This is no recalibration as to_json wrote it (")


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "{}", '{"method": "affine"}', "null"])
def test_text_that_is_something_else(text):
    with pytest.raises(InputError, match="This is no recalibration as to_json wrote it"):
        Recalibration.from_json(text)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        (
            "afine",
            {},
            "Unknown recalibration method 'afine'; the nearest known is 'affine' (there are variance, affine, isotonic,"
            " conformal).",
        ),
        ("affine", {"score_kind": "nll"}, "score_kind is 'nll'; choose 'std' or 'any'."),
        ("variance", {"score_kind": "any"}, "'variance' scales standard deviations; choose 'affine' or 'isotonic' for"),
        ("conformal", {}, "'conformal' needs the coverage of its intervals, such as coverage=0.9."),
        ("affine", {"coverage": 0.9}, "'affine' gives no intervals; leave coverage out, or choose 'conformal'."),
        ("conformal", {"coverage": 95.0}, "coverage is 95.0; choose it between 0 and 1, such as 0.9."),
        ("conformal", {"coverage": np.nan}, "coverage is nan; choose it between 0 and 1, such as 0.9."),
        ("conformal", {"coverage": 0.99}, "A coverage of 0.99 needs at least 99 structures and the validation set has"),
        ("variance", {"errors": np.zeros(5)}, "Shapes differ: errors (5,), scores (180,), structure_index (180,);"),
        ("affine", {"groups": np.zeros(5, int)}, "Shapes differ: errors (180,), groups (5,); give one value per"),
        ("affine", {"groups": np.zeros(180)}, "groups must be an array of integers or strings, not of float64."),
        ("affine", {"structure_index": np.zeros(180)}, "structure_index must be an array of integers, not of float64."),
        ("affine", {"scores": np.full(180, "a")}, "scores must be an array of numbers, not of <U1."),
        ("affine", {"errors": np.full(180, None)}, "errors must be an array of numbers, not of object."),
        ("affine", {"errors": np.zeros(180)}, "Every error is zero, which fits no spread; are the references"),
    ],
)
def test_bad_arguments(validation, method, arguments, message):
    errors, stds, structure, _ = validation
    arguments = {"errors": errors, "scores": stds, "structure_index": structure} | arguments
    with pytest.raises(InputError, match="^" + re.escape(message)):
        unchecked_fit(method, **arguments)


@pytest.mark.parametrize(
    ("value", "wanted"), [(np.nan, "finite"), (-np.inf, "finite"), (1e60, "finite and at most 1e+50")]
)
@pytest.mark.parametrize("name", ["errors", "scores"])
@pytest.mark.parametrize("method", METHODS)
def test_values_that_are_not_finite(validation, method, name, value, wanted):
    arrays = dict(zip(("errors", "scores", "structure_index"), validation, strict=False))
    arrays[name][7] = value
    with pytest.raises(InputError, match=re.escape(f"{name}[7] is {value}, but must be {wanted}")):
        fit_recalibration(method, **arrays, coverage=COVERAGES[method])


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-60])
def test_scores_that_have_to_be_positive(validation, value):
    errors, stds, structure, _ = validation
    message = re.escape(f"scores[3] is {value}, but must be positive and at least 1e-50.")
    found = {method: fit(method, errors, stds, structure) for method in METHODS}
    stds[3] = value
    for method in METHODS:
        with pytest.raises(InputError, match=message):
            fit(method, errors, stds, structure)
        with pytest.raises(InputError, match=message):
            spreads(found[method], stds)
    with pytest.raises(InputError, match=message):
        fit_recalibration("conformal", errors, stds, structure, score_kind="any", coverage=0.9)
    for method in ("affine", "isotonic"):
        other = fit_recalibration(method, errors, stds, structure, score_kind="any")
        assert other.stds(stds)[3] > 0.0


@pytest.mark.parametrize(("method", "needed"), [("variance", 2), ("affine", 4), ("isotonic", 20), ("conformal", 9)])
def test_too_few_structures(validation, method, needed):
    def first(num_structures):
        return (array[: num_structures * SIZE] for array in validation[:3])

    name = "A coverage of 0.9" if method == "conformal" else repr(method)
    for num_structures in (0, needed - 1):
        message = f"{name} needs at least {needed} structures and the validation set has {num_structures}; add "
        with pytest.raises(InputError, match=re.escape(message)):
            fit(method, *first(num_structures))
    assert fit(method, *first(needed)).num_structures == (needed,)


def test_too_few_structures_with_a_group(validation):
    errors, stds, structure, groups = validation
    groups[:SIZE] = 26
    groups[3 * SIZE] = groups[4 * SIZE] = groups[4 * SIZE + 1] = 17
    message = (
        "'affine' needs at least 4 structures with each group, and group 17 has 2, group 26 has 1; "
        "add structures, merge groups or choose a method that needs fewer."
    )
    with pytest.raises(InputError, match=re.escape(message)):
        fit("affine", errors, stds, structure, groups)
    message = "group 26 has 1; add structures, merge groups or lower the coverage."
    with pytest.raises(InputError, match=re.escape(message)):
        fit("conformal", errors, stds, structure, groups)


def test_errors_of_a_group_that_are_all_zero(validation):
    errors, stds, structure, groups = validation
    errors[groups == 8] = 0.0
    with pytest.raises(InputError, match=re.escape("Every error of group 8 is zero, which fits no spread;")):
        fit("isotonic", errors, stds, structure, groups)
    # An interval of no width does cover them.
    assert fit("conformal", errors, stds, structure, groups).curves[1].quantile == 0.0


def test_groups_of_new_scores(validation):
    errors, stds, structure, groups = validation
    found, plain = fit("variance", errors, stds, structure, groups), fit("variance", errors, stds, structure)
    for unknown, shown in ((np.array([1, 6]), "6"), (np.array(["1", "8"]), "'1'")):
        message = f"Group {shown} was not in the validation set, whose groups are 1, 8."
        with pytest.raises(InputError, match=re.escape(message)):
            found.stds(stds[:2], unknown)
    with pytest.raises(InputError, match=re.escape("The recalibration was fitted by group; pass that of each score.")):
        found.stds(stds)
    with pytest.raises(InputError, match=re.escape("The recalibration was fitted without groups; leave them out.")):
        plain.stds(stds, groups)
    with pytest.raises(InputError, match=re.escape("Shapes differ: scores (2,), groups (3,); give one value")):
        inspect.unwrap(Recalibration.stds)(found, stds[:2], groups[:3])
    with pytest.raises(InputError, match=re.escape("scores[1] is nan, but must be finite")):
        found.stds(np.array([1.0, np.nan]), groups[:2])


def test_standard_deviations_are_no_half_widths(validation):
    errors, stds, structure, _ = validation
    with pytest.raises(InputError, match="'conformal' gives intervals, no standard deviations; call half_widths"):
        fit("conformal", errors, stds, structure).stds(stds)
    with pytest.raises(InputError, match="'affine' gives standard deviations; call stds, or fit 'conformal' for"):
        fit("affine", errors, stds, structure).half_widths(stds)


def test_more_than_one_axis_of_elements():
    message = "errors have the shape (4, 3); ravel all arrays to one axis of elements."
    with pytest.raises(InputError, match=re.escape(message)):
        unchecked_fit("variance", np.ones((4, 3)), np.ones((4, 3)), np.zeros((4, 3), int))
