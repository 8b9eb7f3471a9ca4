"""Selection by rigidity against brute force that makes every Hessian anew, and the baselines."""

import numpy as np
import pytest

from bnn_jax.rigidity import (
    dense_hessian,
    kernel_hessian,
    matrix_free_hessian,
    prediction_rigidity,
    random_selection,
    select_by_rigidity,
    stratified_selection,
)
from bnn_jax.types import InputError

RNG = np.random.default_rng(0)
WIDTH, ZETA = 12, 0.3
TRAIN = [RNG.normal(size=(number, WIDTH)) for number in (2, 3, 1)]
TARGETS = RNG.normal(size=(5, WIDTH))
ONE_ROW = [RNG.normal(size=(1, WIDTH)) for _ in range(20)]
BLOCKS = [RNG.normal(size=(number, WIDTH)) for number in (3, 1, 4, 4, 2, 7, 3, 1, 15, 3)]
HESSIAN = dense_hessian(TRAIN, ZETA)
OBJECTIVES = {"mean": np.mean, "minimum": np.min, "logarithm": lambda rigidity: np.mean(np.log(rigidity))}
FORMS = {
    "dense": lambda: HESSIAN,
    "kernel": lambda: kernel_hessian(lambda first: iter(TRAIN[first:]), ZETA),
    "matrix free": lambda: matrix_free_hessian(
        lambda vectors: vectors @ np.vstack(TRAIN).T @ np.vstack(TRAIN), WIDTH, ZETA, tolerance=1e-13
    ),
}


def rigidity(rows: list[np.ndarray], targets: np.ndarray = TARGETS) -> np.ndarray:
    return prediction_rigidity(targets, dense_hessian([*TRAIN, *rows], ZETA))


def brute_force(candidates: list[np.ndarray], number: int, objective: str, num_batch: int = 1) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < number:
        held = [candidates[i] for i in chosen]
        scores = {
            i: OBJECTIVES[objective](rigidity([*held, rows])) for i, rows in enumerate(candidates) if i not in chosen
        }
        chosen += sorted(scores, key=lambda i: -scores[i])[: min(num_batch, number - len(chosen))]
    return chosen


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("candidates", [ONE_ROW, BLOCKS], ids=["one row", "blocks"])
@pytest.mark.parametrize("num_batch", [1, 3])
def test_choices_are_those_of_brute_force(candidates, objective, num_batch) -> None:
    found = select_by_rigidity(HESSIAN, candidates, TARGETS, 8, objective, num_batch)
    assert found.indices.tolist() == brute_force(candidates, 8, objective, num_batch)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("candidates", [ONE_ROW, BLOCKS], ids=["one row", "blocks"])
def test_rigidities_after_each_choice_are_those_of_the_hessian_made_anew(form, candidates) -> None:
    found = select_by_rigidity(FORMS[form](), candidates, TARGETS, len(candidates))
    held = [candidates[i] for i in found.indices]
    expected = [rigidity(held[:number]).mean() for number in range(len(held) + 1)]
    np.testing.assert_allclose(found.mean_rigidity, expected, rtol=1e-9)
    np.testing.assert_allclose(prediction_rigidity(TARGETS, found.hessian), rigidity(held), rtol=1e-9)


def test_rigidities_survive_a_large_fall_of_the_variance() -> None:
    """Small regularisers leave the targets free until a choice holds them: eight digits of the variance go."""
    hessian = dense_hessian(TRAIN, 1e-4)
    found = select_by_rigidity(hessian, ONE_ROW, TARGETS, 15)
    rows = [ONE_ROW[i] for i in found.indices]
    expected = prediction_rigidity(TARGETS, dense_hessian([*TRAIN, *rows], 1e-4)).mean()
    assert expected > 1e6 * found.mean_rigidity[0]
    assert found.mean_rigidity[-1] == pytest.approx(expected, rel=1e-5)


def test_every_candidate_is_chosen_once_and_rigidity_never_falls() -> None:
    for objective in OBJECTIVES:
        found = select_by_rigidity(HESSIAN, BLOCKS, TARGETS, len(BLOCKS), objective, num_batch=4)
        assert sorted(found.indices) == list(range(len(BLOCKS)))
        assert (np.diff(found.mean_rigidity) >= 0).all()


def test_the_target_itself_comes_first_and_adds_one() -> None:
    """Of rows no longer in the metric of the inverse Hessian none does better, by Cauchy and Schwarz (Appendix B)."""
    length = np.sqrt(HESSIAN.quadratic(np.vstack(ONE_ROW)))
    target = TARGETS[:1]
    equally_long = [row / own * np.sqrt(HESSIAN.quadratic(target)) for row, own in zip(ONE_ROW, length, strict=True)]
    found = select_by_rigidity(HESSIAN, [*equally_long, target], target, 1)
    assert found.indices.tolist() == [len(ONE_ROW)]
    assert np.diff(found.mean_rigidity) == pytest.approx(1.0, rel=1e-9)


def test_of_equal_candidates_the_first_is_chosen() -> None:
    twins = [ONE_ROW[3], *BLOCKS[:2], -ONE_ROW[3], np.zeros((1, WIDTH)), BLOCKS[0][::-1], BLOCKS[0]]
    for objective in OBJECTIVES:
        order = select_by_rigidity(HESSIAN, twins, TARGETS, len(twins), objective).indices.tolist()
        assert order.index(0) < order.index(3) and order.index(1) < order.index(5) < order.index(6)
    nothing = [np.zeros((1, WIDTH)) for _ in range(5)]
    assert select_by_rigidity(HESSIAN, nothing, TARGETS, 3).indices.tolist() == [0, 1, 2]


def test_pieces_of_a_group_change_nothing(monkeypatch) -> None:
    whole = select_by_rigidity(HESSIAN, BLOCKS, TARGETS, 6)
    monkeypatch.setattr("bnn_jax.rigidity.selection.ELEMENTS_AT_ONCE", 1)
    pieces = select_by_rigidity(HESSIAN, BLOCKS, TARGETS, 6)
    np.testing.assert_array_equal(pieces.indices, whole.indices)
    np.testing.assert_allclose(pieces.mean_rigidity, whole.mean_rigidity, rtol=1e-12)


def test_single_precision_rows_leave_what_was_given_as_it_was() -> None:
    single = [rows.astype(np.float32) for rows in BLOCKS]
    copies = [rows.copy() for rows in single]
    found = select_by_rigidity(HESSIAN, single, TARGETS, 4)
    assert found.indices.tolist() == brute_force(copies, 4, "mean")
    for rows, copy in zip(single, copies, strict=True):
        np.testing.assert_array_equal(rows, copy)


def test_greedy_choices_beat_random_ones() -> None:
    greedy = select_by_rigidity(HESSIAN, ONE_ROW, TARGETS, 5).mean_rigidity[-1]
    drawn = [rigidity([ONE_ROW[i] for i in random_selection(20, 5, seed)]).mean() for seed in range(50)]
    assert greedy > max(drawn)


def test_random_choices_are_reproducible_and_without_repeats() -> None:
    drawn = [random_selection(10, 4, seed) for seed in range(2000)]
    np.testing.assert_array_equal(drawn[7], random_selection(10, 4, 7))
    assert all(len(set(each.tolist())) == 4 for each in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=10)
    assert np.abs(counts - 800).max() < 5 * np.sqrt(800 * 0.6)  # binomial
    np.testing.assert_array_equal(np.sort(random_selection(10, 10, 3)), np.arange(10))


def test_random_choices_among_some() -> None:
    is_light = np.arange(30) % 3 == 0
    drawn = random_selection(30, 10, seed=1, among=is_light)
    assert sorted(drawn) == list(range(0, 30, 3))


def test_strata_give_equally_many_to_one() -> None:
    strata = np.repeat([7, 2, 5, 9], [40, 10, 25, 6])
    for seed in range(20):
        drawn = stratified_selection(strata, 23, seed)
        assert len(set(drawn.tolist())) == 23
        counts = [np.sum(strata[drawn] == name) for name in (2, 5, 7, 9)]
        assert max(counts) - min(counts) <= 1
        np.testing.assert_array_equal(drawn, stratified_selection(strata, 23, seed))
    assert not np.array_equal(stratified_selection(strata, 23, 0), stratified_selection(strata, 23, 1))


def test_an_exhausted_stratum_leaves_its_turns_to_the_others() -> None:
    names = ["bulk"] * 2 + ["surface"] * 5 + ["liquid"] * 9
    drawn = stratified_selection(names, 12, seed=0)
    assert sorted(names[i] for i in drawn) == ["bulk"] * 2 + ["liquid"] * 5 + ["surface"] * 5
    firsts = {names[stratified_selection(names, 1, seed)[0]] for seed in range(30)}
    assert firsts == {"bulk", "surface", "liquid"}


def choose(candidates=ONE_ROW, targets=TARGETS, number=2, **options):
    return select_by_rigidity(HESSIAN, candidates, targets, number, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: choose(number=21), "21 structures were to be chosen, but only 20 may be; ask for fewer"),
        (lambda: choose(number=0), "0 structures were to be chosen; ask for 1 or more"),
        (lambda: choose(num_batch=0), "let num_batch be 1 or more"),
        (lambda: choose(objective="minimal"), "Unknown objective 'minimal'; the nearest known is 'minimum'"),
        (lambda: choose(targets=np.zeros((0, WIDTH))), "no targets"),
        (lambda: choose([*ONE_ROW, np.ones((2, 9))]), "rows of candidate 20 have 9 weights, the targets 12"),
        (lambda: choose([*ONE_ROW, np.full((2, WIDTH), np.nan)]), "rows of candidate 20 are not finite"),
        (lambda: choose([*ONE_ROW, np.ones((0, WIDTH))]), "Candidate 20 has no rows; .* once it is labelled"),
        (lambda: choose(targets=np.vstack([TARGETS, TARGETS[:1] * np.inf])), "derivatives of target 5 are not finite"),
        (lambda: choose(targets=np.vstack([TARGETS, 0 * TARGETS[:1]])), "rigidity of target 5 is infinite"),
        (lambda: random_selection(5, 6, 0), "6 structures were to be chosen, but only 5 may be"),
        (lambda: random_selection(5, 3, 0, np.arange(5) < 2), "but only 2 may be"),
        (lambda: random_selection(5, 3, 0, np.ones(4, bool)), "says of 4 candidates, not of 5"),
        (lambda: random_selection(5, 0, 0), "ask for 1 or more"),
        (lambda: stratified_selection(["a", "b"], 3, 0), "3 structures were to be chosen, but only 2 may be"),
        (lambda: stratified_selection(["a", "b"], -1, 0), "-1 structures were to be chosen"),
    ],
)
def test_what_cannot_be_used_is_refused(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
