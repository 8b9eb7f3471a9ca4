"""What no label of the training set has taught is NaN, and the verdict says so."""

import dataclasses
import json

import numpy as np
import pytest
from posteriors import random_posterior
from systems import labelled_series, rattled, water

from bnn_jax import Dataset, Posterior, evaluate, load_exported
from bnn_jax.atoms.statistics import Statistics
from bnn_jax.methods.base import SamplingRecord
from bnn_jax.verdict import judge

ENERGY_STDS = {"energy_std", "energy_std_aleatoric", "energy_std_epistemic", "energy_std_samples"}
FORCES_STDS = {"forces_std", "forces_std_aleatoric", "forces_std_samples"}


def without(label: str, structures) -> Dataset:
    dataset = Dataset.from_atoms(structures)
    return dataclasses.replace(dataset, **{label: np.full_like(getattr(dataset, label), np.nan)})


@pytest.fixture(scope="module")
def taught() -> Posterior:
    posterior = random_posterior(labelled_series(water(), 6), num_samples=4, num_chains=2)
    return dataclasses.replace(posterior, sampling=SamplingRecord(1.0, (1.0, 1.0), (0, 0), ()))


def trained_without(taught: Posterior, label: str) -> Posterior:
    statistics = without(label, labelled_series(water(), 6)).statistics(taught.config.model.cutoff)
    return dataclasses.replace(taught, statistics=taught.statistics._replace(labels=statistics.labels))


@pytest.mark.parametrize(("label", "unknown"), [("energy", ENERGY_STDS), ("forces", FORCES_STDS)])
def test_what_is_unknown_is_nan_and_nothing_else(taught, label, unknown, tmp_path):
    posterior, atoms = trained_without(taught, label), rattled(water())
    everything, found = taught.predict(atoms), posterior.predict(atoms)
    for name, value in everything._asdict().items():
        if name in unknown:
            assert np.isnan(getattr(found, name)).all(), name
        else:
            np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
    assert np.isfinite(found.forces_score).all()
    again = Posterior.load(posterior.save(tmp_path / "a.safetensors")).predict(atoms)
    alone = load_exported(posterior.export(tmp_path / "b.safetensors", ["cpu"])).predict(atoms)
    for name in unknown:
        assert np.isnan(getattr(again, name)).all() and np.isnan(getattr(alone, name)).all()


def test_differences_of_energies_remain(taught):
    """Of a constant that each sample adds to all structures nothing is left in them."""
    posterior = trained_without(taught, "energy")
    predictive = posterior.predict([rattled(water(), seed=seed) for seed in range(2)])
    difference = predictive.energy_samples[:, 1] - predictive.energy_samples[:, 0]
    assert difference.mean() == pytest.approx(predictive.energy[1] - predictive.energy[0])
    assert 0 < difference.std(ddof=1) < taught.predict(rattled(water())).energy_std_epistemic[0]


def test_chains_need_not_agree_on_energies_that_nothing_fixes(taught):
    held_out = Dataset.from_atoms([rattled(water(), 0.05, seed) for seed in range(6)])
    verdict = judge(trained_without(taught, "energy"), held_out, labels_are_held_out=False)
    assert any("only differences of energies between structures of the same atoms mean" in f for f in verdict.remarks)
    assert "energies" not in verdict.mixed.sentence + verdict.reproducible.sentence
    verdict = judge(trained_without(taught, "forces"), held_out, labels_are_held_out=False)
    assert any("the training set had no forces" in remark for remark in verdict.remarks)


def test_scores_without_a_std_are_nan(taught):
    test = Dataset.from_atoms(labelled_series(water(), 4, seed=20))
    scores = evaluate(trained_without(taught, "forces"), test)
    assert np.isnan(scores["forces_mll"]) and np.isfinite(scores["forces_mae"]) and np.isfinite(scores["energy_mll"])


def test_statistics_of_earlier_files_know_all_labels():
    statistics = without("energy", labelled_series(water(), 6)).statistics(3.0)
    assert statistics.labels == ("forces",)
    assert Statistics.from_json(statistics.to_json()).labels == ("forces",)
    old = json.loads(statistics.to_json())
    del old["labels"]
    assert Statistics.from_json(json.dumps(old)).labels == ("energy", "forces")
    with pytest.raises(ValueError, match="labels are not known"):
        Statistics.from_json(json.dumps(old | {"labels": ["charge"]}))
