"""The committee experiment on rattled ethanols, and the numbers behind its figures in closed form."""

import importlib
import json
import runpy
import sys
from pathlib import Path

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm, spearmanr
from systems import ethanol, labelled_series

from bnn_jax import Config, Dataset, InputError
from bnn_jax.model import with_readout
from bnn_jax.rigidity import Network, SquareLoss, gauss_newton_matrix
from bnn_jax.types import Labels, Prediction

FOLDER = Path(__file__).parents[2] / "experiments" / "rigidity"
MODEL = {"num_blocks": 1, "num_features": 3, "l_max": 0, "cutoff": 3.0, "num_bessel": 2, "radial_hidden": []}
ARGUMENTS = "--systems ethanol --steps 4 --folds 2 --spread 1 --structures 36 --valid 12 --features 2 --test 8".split()


@pytest.fixture
def committee():
    return importlib.import_module("committee")


@pytest.fixture
def figures():
    return importlib.import_module("committee_figures")


@pytest.fixture
def last_layers():
    return importlib.import_module("last_layer")


@pytest.fixture
def least_squares():
    return importlib.import_module("least_squares")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder of reference data in miniature, and networks as small."""
    folder = tmp_path / "data" / "rmd17" / "ethanol"
    folder.mkdir(parents=True)
    ase.io.write(folder / "train.xyz.gz", labelled_series(ethanol(), 36))
    ase.io.write(folder / "test.xyz.gz", labelled_series(ethanol(), 9, seed=100))
    reference_sets = importlib.import_module("reference_sets")
    monkeypatch.setattr(reference_sets, "MODEL", MODEL)
    return tmp_path / "data"


def network_of(least_squares, train, seed=0):
    config = Config.from_dict({"model": MODEL})
    prepared = importlib.import_module("bnn_jax.methods.preparation").prepare(train, None, config)
    potential = least_squares.potential(prepared.config)
    graph = next(train.batches(2, 3.0, prepared.statistics)).graph
    return Network(potential.apply, potential.init(jax.random.key(seed), graph), prepared.statistics, 3.0)


# --- the loss ---


def test_loss_is_half_the_weighted_square_error_and_leaves_out_what_has_no_label(least_squares):
    energy, forces = jnp.array([1.0, 5.0, 0.0]), jnp.arange(9.0).reshape(3, 3)
    prediction = Prediction(energy, forces, None, energy, forces[:, 0], forces[:, 0], None)
    labels = Labels(
        energy=jnp.array([3.0, 0.0, 0.0]),
        energy_mask=jnp.array([True, False, False]),
        forces=jnp.zeros((3, 3)),
        forces_mask=jnp.array([False, True, False]),
        stress=jnp.zeros((3, 3, 3)),
        stress_mask=jnp.zeros(3, bool),
    )
    (atoms,) = labelled_series(ethanol(), 1)
    train = Dataset.from_atoms([atoms, atoms])
    graph = next(train.batches(2, 3.0, train.statistics(3.0))).graph  # two structures and padding
    value = least_squares.half_square_error(
        prediction, importlib.import_module("bnn_jax.types").Batch(graph, labels), SquareLoss(2.0, 0.5)
    )
    assert_allclose(value, (0.5 * 2.0 * 2.0**2 + 0.5 * 0.5 * (3**2 + 4**2 + 5**2)) / 2)


def test_curvature_is_the_second_derivative_of_the_loss_that_is_minimised(least_squares, last_layers):
    train = Dataset.from_atoms(labelled_series(ethanol(), 4))
    network, loss = network_of(least_squares, train), SquareLoss(2.0, 0.3)
    batch = next(train.batches(4, network.cutoff, network.statistics))

    @jax.jit
    def total(readout):
        prediction = network.apply(with_readout(network.params, readout), batch.graph)
        return len(train) * least_squares.half_square_error(prediction, batch, loss)

    # The loss is quadratic in the readout, so that its second differences are its second derivatives.
    unit, zero = np.eye(3), np.zeros(3)
    expected = np.array([[total(a + b) - total(a) - total(b) + total(zero) for a in unit] for b in unit])
    found = gauss_newton_matrix(last_layers.weighted(network, train, loss))
    assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


# --- the choice of the regulariser ---


def test_chosen_regulariser_has_the_highest_likelihood_of_validation_errors(last_layers):
    rng = np.random.default_rng(3)
    features, rows = rng.normal(size=(40, 4)) * [3.0, 1.0, 0.3, 1e-3], rng.normal(size=(30, 4))
    matrix = features.T @ features
    zetas, likelihoods, alphas = (1e-4, 1e-2, 0.3, 1.0), [], []
    errors = rng.normal(0, np.sqrt(np.einsum("ij,jk,ik->i", rows, np.linalg.inv(matrix + 9.0 * np.eye(4)), rows)))
    for zeta in zetas:
        inverse = np.linalg.inv(matrix + zeta**2 * np.trace(matrix) / 4 * np.eye(4))
        variance = np.einsum("ij,jk,ik->i", rows, inverse, rows)
        alphas.append(np.sqrt(np.mean(errors**2 / variance)))
        likelihoods.append(norm.logpdf(errors, 0, alphas[-1] * np.sqrt(variance)).mean())
    best = int(np.argmax(likelihoods))
    assert 0 < best  # otherwise the first, whatever was computed
    choice = last_layers.choose(matrix, rows, errors, zetas)
    assert_allclose(choice.likelihoods, likelihoods)
    assert choice.relative_zeta == zetas[best]
    assert_allclose(choice.absolute_zeta, zetas[best] * np.sqrt(np.trace(matrix) / 4))
    assert_allclose(choice.alpha, alphas[best])


# --- figures ---


@pytest.mark.parametrize("fraction", [0.3, 0.6826894921, 0.9973])
def test_isolines_enclose_their_fraction_between_ends_of_equal_density_in_the_logarithm(figures, fraction):
    low, high = figures.isolines(fraction)
    assert 0 < low < 1 < high
    assert_allclose(norm.cdf(high) - norm.cdf(low), fraction / 2, atol=1e-8)
    assert_allclose(np.log(low) + norm.logpdf(low), np.log(high) + norm.logpdf(high), atol=1e-8)


def test_bins_hold_all_elements_in_order(committee):
    x = np.array([3.0, 1.0, 2.0, 6.0, 5.0, 4.0, 7.0])
    bins = committee.binned(x, 10 * x, 2)
    assert_allclose(bins["x"], [1.5, 3.5, 5.5, 7.0])
    assert_allclose(bins["y"], [15, 35, 55, 70])
    assert_allclose(committee.binned(x, x, 100)["x"], [4.0])


def test_slope_is_the_exponent(committee):
    x = np.array([0.1, 1.0, 3.0, 20.0])
    assert_allclose(committee.slope(x, 3 * x**1.7), 1.7)
    assert np.isnan(committee.slope(x[:1], x[:1]))


def test_attainable_correlation_is_that_of_errors_drawn_from_the_stds(committee):
    std = np.geomspace(1, 4, 300)
    rng = np.random.default_rng(99)
    expected = np.mean([spearmanr(np.abs(rng.normal(0, std)), std).statistic for _ in range(200)])
    assert_allclose(committee.attainable(std), expected, atol=0.02)
    assert committee.attainable(np.geomspace(1, 1e30, 50)) > 0.99


def test_assessment_of_errors_that_are_as_large_as_estimated(committee):
    rng = np.random.default_rng(1)
    std = np.geomspace(0.1, 10, 2000)
    errors = rng.normal(0, std)
    found = committee.assess(errors, std, np.arange(2000), float(np.sqrt(np.mean(errors**2))), 50, num_resamples=20)
    assert found["mean_squared_z"] == pytest.approx(1, abs=0.15)
    assert found["slope"] == pytest.approx(1, abs=0.05)
    assert found["spearman"]["estimate"] == pytest.approx(found["attainable_spearman"], abs=0.05)
    constant = norm.logpdf(errors, 0, np.sqrt(np.mean(errors**2))).mean()
    assert_allclose(found["gain_over_constant"], norm.logpdf(errors, 0, std).mean() - constant)
    assert found["std_ratio_95_5"] == pytest.approx(100**0.9, rel=1e-3)
    assert len(found["bins"]["variance"]) == 40


def test_each_network_of_the_committee_misses_one_part(committee):
    kept = committee.without_fold(23, 5)
    left_out = [np.setdiff1d(np.arange(23), each) for each in kept]
    assert sorted(np.concatenate(left_out)) == list(range(23))
    assert {len(each) for each in left_out} == {4, 5}


def test_local_energies_that_vary_as_the_rigidities_say(committee):
    test = Dataset.from_atoms(labelled_series(ethanol(), 20))
    rng = np.random.default_rng(0)
    rigidities = rng.uniform(50, 100, len(test.numbers))
    spread = np.array([[-1.0], [0.0], [1.0]]) / np.sqrt(rigidities)  # variance 1 / LPR, ddof = 1
    found = committee.local(rigidities, spread + rng.normal(size=len(test.numbers)), test, per_bin=20)
    assert_allclose(found["spearman"]["estimate"], 1)
    assert set(found["spearman_by_element"]) == {"H", "C", "O"}
    assert found["slope"] == pytest.approx(-1, abs=0.05)
    lowest = np.argsort(rigidities)[:20]
    assert_allclose(found["bins"]["variance"][0], np.mean(1 / rigidities[lowest]))
    assert_allclose(found["bins"]["lpr"][0], rigidities[lowest].mean() / rigidities.max())


# --- the command ---


@pytest.mark.slow
def test_whole_experiment_resumes_and_rebuilds_its_table(committee, data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = [*ARGUMENTS, "--data", str(data), "--out", str(out)]
    with monkeypatch.context() as patched:  # killed when all networks are trained
        patched.setattr(committee, "energies_only", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            committee.main(arguments)
    assert not (out / "results-ethanol.json").exists()
    reference_sets = importlib.import_module("reference_sets")
    monkeypatch.setattr(reference_sets.bnn_jax, "fit", lambda *_, **__: pytest.fail("a network was trained again"))
    with pytest.raises(InputError, match=r"whole has another network; choose another --out\."):
        committee.main([*arguments, "--seed", "5"])

    capsys.readouterr()
    committee.main(arguments)
    text = capsys.readouterr().out
    assert (out / "table.md").read_text() in text
    assert "rMD17 ethanol, test set | energies" in text and "rMD17 ethanol, test set | forces" in text
    for name in ("figure-1.png", "figure-2.png", "figure-forces.png"):
        assert (out / name).stat().st_size > 5000
    (result,) = json.loads((out / "results.json").read_text()).values()
    assert result["num_structures"] == {"train": 24, "valid": 12, "test": 8}
    energies = result["energies"]["test"]
    assert_allclose(energies["mae"], np.mean(np.abs(energies["error"])), rtol=1e-5)
    z = np.array(energies["error"]) / np.array(energies["std"])
    assert_allclose(energies["mean_squared_z"], np.mean(z**2), rtol=1e-4)
    zeta = result["zeta"]
    likelihoods = dict(zip(zeta["grid"], zeta["validation_log_likelihood"], strict=True))
    assert likelihoods[zeta["relative"]] == max(likelihoods.values())
    assert len(result["other_networks"]) == 1

    monkeypatch.setattr(committee, "trained", lambda *_: pytest.fail("a finished system was begun again"))
    committee.main(arguments)
    assert capsys.readouterr().out == text
    committee.main(["--table-only", "--out", str(out)])
    assert capsys.readouterr().out == text
    with pytest.raises(InputError, match=r"results-ethanol\.json has another seed; choose another --out\."):
        committee.main([*arguments, "--seed", "5"])


def test_missing_data_end_the_command_with_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("BNN_JAX_TEST_DATA", raising=False)
    for extra, sentence in (
        ([], "The reference data are needed; give their folder by --data or BNN_JAX_TEST_DATA."),
        (["--data", str(tmp_path)], "holds no qm9_subset/train.xyz.gz; check --data."),
    ):
        monkeypatch.setattr(sys, "argv", ["committee.py", "--out", str(tmp_path / "out"), *extra])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(FOLDER / "committee.py"), run_name="__main__")
        assert stopped.value.code == 2
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_table_without_results_says_what_to_do(committee, tmp_path):
    with pytest.raises(InputError, match=r"holds no results-\*\.json; run the experiment without --table-only"):
        committee.main(["--table-only", "--out", str(tmp_path)])
