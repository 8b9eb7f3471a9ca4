"""Training and validation sets that do not go together, by the API; the command's are in ``test_cli_input.py``."""

import dataclasses

import numpy as np
import pytest
from systems import ammonia, labelled_series, water

import bnn_jax
from bnn_jax.atoms import Dataset, check_parts
from bnn_jax.types import InputError, InputWarning

SERIES = labelled_series(ammonia(), 8)
TRAIN, OTHERS = Dataset.from_atoms(SERIES), Dataset.from_atoms(labelled_series(ammonia(), 3, seed=50))


def fit(train: Dataset, valid: Dataset, **options: bool) -> None:
    bnn_jax.fit(train, valid, **options)


def check(train: Dataset, valid: Dataset, **options: bool) -> None:
    check_parts(train, {"valid": valid}, **options)


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnn_jax.methods.sghmc.drive", lambda *_: pytest.fail("the loop was reached"))
    monkeypatch.setattr("bnn_jax.api.registry.get", lambda _: pytest.fail("passed"))


def passes(entry, *sets: Dataset, **options: bool) -> bool:
    """Whether the data are let through, which :func:`no_work` ends for a fit."""
    if entry is check:
        return entry(*sets, **options) is None
    with pytest.raises(pytest.fail.Exception, match="passed"):
        entry(*sets, **options)
    return True


def lacking(dataset: Dataset, label: str, count: int) -> Dataset:
    values = getattr(dataset, label).copy()
    values[:count] = np.nan
    return dataclasses.replace(dataset, **{label: values})


@pytest.mark.parametrize("entry", [check, fit])
def test_sets_that_go_together_pass_without_a_word(entry):
    assert passes(entry, TRAIN, OTHERS)  # a warning would be an error


@pytest.mark.parametrize("entry", [check, fit])
def test_structures_that_occur_twice_are_warned_of(entry):
    twice = Dataset.concatenate([TRAIN, TRAIN.take(np.array([3]))])
    with pytest.warns(InputWarning, match=r"1 of 9 training structures are there already \(first: structure 8\)"):
        assert passes(entry, twice, OTHERS)
    shared = Dataset.concatenate([OTHERS, TRAIN.take(np.array([1, 2]))])
    sentence = r"2 of 5 structures of the valid set are training structures too \(first: structure 3\), so that its"
    with pytest.warns(InputWarning, match=sentence):
        assert passes(entry, TRAIN, shared)


@pytest.mark.parametrize("entry", [check, fit])
@pytest.mark.parametrize(("label", "count", "number"), [("energy", 2, 2), ("forces", 4, 1)])
def test_gaps_in_the_labels_need_consent(entry, label, count, number):
    gap = lacking(TRAIN, label, count)
    sentence = rf"train set: {label} is missing in {number} of 8 structures \(first: frame 0\); .*allow_missing_labels"
    with pytest.raises(InputError, match=sentence):
        entry(gap, OTHERS)
    with pytest.raises(InputError, match=rf"valid set: {label} is missing in {number} of 8"):
        entry(OTHERS, gap)
    assert passes(entry, gap, OTHERS, allow_missing_labels=True)
    assert passes(entry, lacking(TRAIN, label, len(TRAIN.numbers)), OTHERS)  # what none has is no gap


@pytest.mark.parametrize("entry", [check, fit])
def test_elements_that_training_lacks_are_refused(entry):
    mixed = Dataset.from_atoms([*SERIES[:2], *labelled_series(water(), 2)])
    with pytest.raises(InputError, match="Structure 2 of the valid set holds O, which no training structure has"):
        entry(OTHERS, mixed)


def test_what_was_checked_is_not_checked_again():
    assert passes(fit, Dataset.concatenate([TRAIN, TRAIN]), lacking(TRAIN, "energy", 2), checked=True)
