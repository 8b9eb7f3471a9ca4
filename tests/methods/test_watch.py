"""What a run says of itself while it samples is what its posterior says of the same samples."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bnn_jax
from bnn_jax import Dataset
from bnn_jax.methods import recorder, sghmc
from bnn_jax.methods.watch import Watch, watch
from bnn_jax.sampling.groups import RunProgress
from bnn_jax.types import Predictive
from tests import systems
from tests.methods.test_sghmc import Killed, config_of, killed, log_rows, run, train_set

VALID = Dataset.from_atoms(systems.labelled_series(systems.water(), 2, seed=9))
GROUPS = config_of(num_chains=4, chains_at_once=2)


class Recorded:
    """A function of figures that keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Predictive, int]] = []

    def __call__(self, predictive, num_chains, labels):
        assert tuple(labels) == ("energy", "forces")
        self.calls.append((predictive, num_chains))
        return {"z": float(predictive.forces.sum()), "nothing": float("nan")}


@pytest.fixture(scope="module")
def last(tmp_path_factory) -> RunProgress:
    """The progress of a finished run in two groups."""
    found = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sghmc, "watch", lambda *_: Watch(lambda _: {}, lambda progress: found.append(progress) or {}))
        run(tmp_path_factory.mktemp("run"), GROUPS)
    assert len(found) == 6
    return found[-1]


def assert_same(found: Predictive, expected: Predictive) -> None:
    for name, value in expected._asdict().items():
        if value is not None:
            assert_allclose(getattr(found, name), value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_after_each_sample_all_samples_so_far_are_looked_at(tmp_path):
    seen = Recorded()
    posterior = run(tmp_path, figures_fn=seen)
    assert [len(predictive.energy_samples) for predictive, _ in seen.calls] == [2, 4, 6]
    assert {num_chains for _, num_chains in seen.calls} == {2}
    assert_same(seen.calls[-1][0], posterior.predict(VALID))


def test_groups_stopped_chains_and_a_resumed_run(last):
    statistics = train_set().statistics(GROUPS.model.cutoff)
    config = sghmc.prepare(train_set(), VALID, GROUPS).config
    seen = Recorded()
    look = watch(VALID, config, statistics, seen)  # knows of no sample yet, as in a resumed run
    look.figures(last)
    expected = sghmc._posterior(last, config, statistics, 0)
    assert_same(seen.calls[-1][0], expected.predict(VALID))

    first, second = last.groups
    halfway = RunProgress((first, second._replace(num_samples=np.array(1))))
    look.figures(halfway)
    every = jax.tree.map(lambda leaf: leaf.reshape(4, 3, *leaf.shape[1:])[:, 0], expected.samples)
    assert_same(seen.calls[-1][0], bnn_jax.Posterior(config, statistics, every, 4, 0).predict(VALID))

    stopped = second._replace(stopped_step=np.array([7, -1]), stopped_cause=np.array([0, -1]))
    look.figures(RunProgress((first, stopped)))
    predictive, num_chains = seen.calls[-1]
    assert num_chains == 3 and len(predictive.energy_samples) == 9
    assert_same(predictive, sghmc._posterior(RunProgress((first, stopped)), config, statistics, 0).predict(VALID))

    before = len(seen.calls)
    none = RunProgress((first._replace(num_samples=np.array(0)), second._replace(num_samples=np.array(0))))
    assert look.figures(none) == {} and len(seen.calls) == before


def test_the_log_of_a_resumed_run_has_the_same_figures(tmp_path, monkeypatch):
    run(tmp_path / "whole", figures_fn=Recorded())
    with pytest.raises(Killed):
        monkeypatch.setattr(recorder, "save_checkpoint", killed(2, recorder.save_checkpoint, after=True))
        run(tmp_path / "cut", figures_fn=Recorded())
    monkeypatch.undo()
    run(tmp_path / "cut", resume=True, figures_fn=Recorded())
    rows = log_rows(tmp_path / "whole")
    assert log_rows(tmp_path / "cut") == rows
    assert [row["step"] for row in rows if "z" in row] == [12, 18, 24]


def test_a_fit_shows_the_three_questions(tmp_path):
    bnn_jax.fit(
        train_set(), bnn_jax.load(systems.labelled_series(systems.water(), 5, seed=9)), config_of(), out=tmp_path
    )
    figures = [row for row in log_rows(tmp_path) if "z" in row]
    assert len(figures) == 3 and all({"z", "shift"} <= set(row) for row in figures)
    assert figures[-1]["z"] > 0 and figures[-1]["shift"] > 0 and "R-hat" not in figures[-1]  # three draws a chain
