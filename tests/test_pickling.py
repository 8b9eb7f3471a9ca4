"""Posteriors, predictors and calculators travel to other processes, and show themselves in a line."""

import multiprocessing
import pickle

import jax
import numpy as np
import pytest
from posteriors import molecular_posterior
from systems import rattled, water

from bnn_jax import BNNCalculator, InputError, load_exported
from bnn_jax.types import Criterion, Verdict


@pytest.fixture(scope="module")
def posterior():
    return molecular_posterior(water())


@pytest.fixture(scope="module")
def exported(posterior, tmp_path_factory):
    return load_exported(posterior.export(tmp_path_factory.mktemp("exported") / "a.safetensors", ["cpu"]))


def forces_of(predicting):
    return predicting.predict([rattled(water())]).forces


@pytest.mark.parametrize("kind", ["posterior", "predictor", "exported"])
def test_what_comes_back_predicts_the_same(kind, posterior, exported):
    sent = {"posterior": posterior, "predictor": posterior.predictor, "exported": exported}[kind]
    expected = forces_of(sent)  # so that there is something cached and compiled, which stays behind
    back = pickle.loads(pickle.dumps(sent))
    np.testing.assert_array_equal(forces_of(back), expected)


def test_what_comes_back_shares_what_is_compiled(posterior):
    back = pickle.loads(pickle.dumps(posterior))
    assert back.predictor.compiled is posterior.predictor.compiled


def test_a_calculator_works_in_a_process_of_its_own(posterior):
    atoms = rattled(water())
    atoms.calc = BNNCalculator(posterior)
    atoms.get_forces()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (forces,) = pool.map(type(atoms).get_forces, [atoms])
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=1e-6, atol=1e-6)


def test_a_method_that_is_not_there_is_named(posterior):
    text = pickle.dumps(posterior.predictor).replace(b"sghmc", b"sghmz")
    with pytest.raises(InputError, match="There is no method 'sghmz'; the nearest is sghmc"):
        pickle.loads(text)


def test_they_show_themselves_in_a_line(posterior, exported):
    num_weights = sum(leaf[0].size for leaf in jax.tree.leaves(posterior.samples))
    line = f"3 samples of {num_weights:,} weights, H O"
    assert repr(posterior) == f"<Posterior: sghmc, seed 0; {line}>"
    assert repr(exported) == f"<Predictor: {line}>"
    judged = type(posterior)(
        **posterior.__getstate__()
        | {"verdict": Verdict(False, "Do not trust it.", (), *3 * [Criterion(None, "Who knows.", "", {})])}
    )
    assert repr(judged.predictor) == f"<Predictor: {line}, not to be trusted yet>"


def test_through_a_dask_worker_and_back(posterior):
    """Of the extra ``cluster``: predicted there, and predicting here when it is back."""
    distributed = pytest.importorskip("distributed")
    expected = forces_of(posterior)
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        back, found = client.submit(lambda sent: (sent, forces_of(sent)), posterior).result(timeout=120)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(forces_of(back), expected)
