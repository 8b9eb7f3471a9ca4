"""The body-ordered features against brute force and closed forms, and the experiment on a handful of clusters."""

import importlib
import importlib.util
import itertools
import json
from pathlib import Path

import e3nn_jax as e3nn
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation
from scipy.special import eval_legendre, roots_legendre
from sklearn.linear_model import Ridge
from skmatter.metrics import componentwise_prediction_rigidity

from bnn_jax import InputError

FOLDER = Path(__file__).parents[2] / "experiments" / "rigidity"
TINY = ("--train", "13", "--replace", "4", "--test", "3", "--degrees", "6", "5", "5", "4")
CUTOFF = 5.5
RNG = np.random.default_rng(1)

needs_tblite = pytest.mark.skipif(importlib.util.find_spec("tblite") is None, reason="tblite is not installed")
both = pytest.mark.parametrize("purified", [False, True])


@pytest.fixture
def experiment():
    return importlib.import_module("body_order")


@pytest.fixture
def many_body():
    return importlib.import_module("many_body")


@pytest.fixture
def silicon():
    return importlib.import_module("silicon_clusters")


def small_basis(many_body):
    """Every order, with angular momenta in each but the first."""
    return many_body.Basis(CUTOFF, (5, 7, 8, 9))


@both
def test_features_do_not_change_with_orientation_mirror_image_or_order_of_atoms(many_body, silicon, purified):
    basis = small_basis(many_body)
    cluster = silicon.grow(np.random.default_rng(0), 5)
    turned = Rotation.random(rng=np.random.default_rng(1)).apply(cluster) + np.array([1.0, -2.0, 3.0])
    exchanged = cluster[[3, 0, 4, 1, 2]]
    plain, *others = many_body.cluster_features([cluster, turned, -cluster, exchanged], basis, purified)
    assert (np.abs(plain) > 1e-6).all()
    for other in others:
        assert_allclose(other, plain, rtol=1e-9, atol=1e-9 * np.abs(plain).max())


def test_purified_features_of_an_order_need_one_atom_more(many_body, silicon):
    """The canonical many-body expansion: an n-mer has no terms of more than n atoms; with self-interactions it has."""
    basis = small_basis(many_body)
    clusters = [silicon.grow(np.random.default_rng(0), size) for size in (2, 3, 4, 5)]
    pure, conventional = (many_body.cluster_features(clusters, basis, purified) for purified in (True, False))
    for order, columns in many_body.component_slices(basis).items():
        for size, row in zip((2, 3, 4, 5), pure, strict=True):
            assert (np.abs(row[columns]).max() == 0) == (size < int(order) + 1)
    assert (np.abs(conventional).max(axis=1) > 0).all()
    assert_allclose(pure[:, many_body.component_slices(basis)["1"]], conventional[:, : len(basis.degrees) + 1])


def one_neighbour_functions(many_body, vectors, degree):
    radial = many_body.radial_functions(np.linalg.norm(vectors, axis=-1), degree, CUTOFF)
    return radial, many_body.angular_functions(vectors, 4)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_all_tuples_give_the_product_of_densities(many_body, order):
    degrees = (5, 7, 8, 9)[:order]
    basis = many_body.Basis(CUTOFF, degrees)
    vectors = RNG.normal(size=(2, 4, 3)) * 2
    radial, angular = one_neighbour_functions(many_body, vectors, max(degrees))
    columns = []
    for coupling in many_body.couplings(order, degrees[-1]):
        for indices in coupling.radial:
            densities = [
                np.einsum("xj,xjm->xm", radial[..., n - 1], angular[degree])
                for n, degree in zip(indices, coupling.momenta, strict=True)
            ]
            for tensor in coupling.tensor:
                for_atoms = []
                for atom in range(2):
                    product = np.array(1.0)
                    for density in densities:
                        product = np.multiply.outer(product, density[atom])
                    for_atoms.append(np.sum(tensor * product))
                columns.append(for_atoms)
    found = many_body.atom_features(vectors, basis, False)[:, many_body.component_slices(basis)[str(order)]]
    assert_allclose(found, np.array(columns).T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_purified_features_are_sums_over_permutations_of_neighbours(many_body, order):
    degrees = (5, 7, 8, 9)[:order]
    basis = many_body.Basis(CUTOFF, degrees)
    vectors = RNG.normal(size=(1, 4, 3)) * 2
    radial, angular = one_neighbour_functions(many_body, vectors, max(degrees))
    columns = []
    for coupling in many_body.couplings(order, degrees[-1]):
        for indices in coupling.radial:
            for tensor in coupling.tensor:
                total = 0.0
                for neighbours in itertools.permutations(range(4), order):
                    left = tensor
                    for n, degree, j in zip(indices, coupling.momenta, neighbours, strict=True):
                        left = np.tensordot(radial[0, j, n - 1] * angular[degree][0, j], left, 1)
                    total += left
                columns.append(total)
    found = many_body.atom_features(vectors, basis, True)[0, many_body.component_slices(basis)[str(order)]]
    assert_allclose(found, columns, rtol=1e-10, atol=1e-12)


def test_second_order_is_a_sum_of_legendre_polynomials_of_angles(many_body):
    """The addition theorem, by scipy."""
    basis = many_body.Basis(CUTOFF, (2, 6))
    vectors = RNG.normal(size=(3, 4, 3)) * 2
    radial, _ = one_neighbour_functions(many_body, vectors, 6)
    units = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    cosines = np.einsum("xid,xjd->xij", units, units)
    found = many_body.atom_features(vectors, basis, False)[:, many_body.component_slices(basis)["2"]]
    k = 0
    for coupling in many_body.couplings(2, 6):
        degree = coupling.momenta[0]
        angular = np.sqrt(2 * degree + 1) / (4 * np.pi) * eval_legendre(degree, cosines)
        for first, second in coupling.radial:
            expected = np.einsum("xi,xij,xj->x", radial[..., first - 1], angular, radial[..., second - 1])
            assert_allclose(np.abs(found[:, k]), np.abs(expected), rtol=1e-9, atol=1e-12)
            k += 1
    assert k == found.shape[1]


def test_radial_functions_are_orthonormal_and_vanish_smoothly(many_body):
    nodes, weights = roots_legendre(97)
    values = many_body.radial_functions(
        (CUTOFF + many_body.R_INNER + (CUTOFF - many_body.R_INNER) * nodes) / 2, 8, CUTOFF
    )
    assert_allclose(values.T * weights / 2 @ values, np.eye(8), atol=1e-10)
    step = 1e-5
    near = many_body.radial_functions(np.array([CUTOFF - step, CUTOFF, 6.0, 0.0]), 8, CUTOFF)
    assert (np.abs(near[0]) < 1e3 * step**2).all() and (near[0] != 0).all() and (near[1:] == 0).all()


@pytest.mark.parametrize(
    ("momenta", "groups"), [((2, 2, 2), (0, 0, 0)), ((1, 1, 1, 1), (0, 0, 0, 0)), ((2, 2, 2, 2), (0, 0, 0, 0))]
)
def test_symmetric_couplings_are_as_many_as_e3nn_has(many_body, momenta, groups):
    tensors = many_body.coupling_tensors(momenta, groups)
    reduced = e3nn.reduced_symmetric_tensor_product_basis(
        f"{momenta[0]}{'e' if momenta[0] % 2 == 0 else 'o'}", len(momenta), keep_ir=["0e"]
    )
    assert len(tensors) == reduced.irreps.dim
    assert_allclose(tensors, tensors.swapaxes(1, -1), atol=1e-12)


def test_couplings_are_orthonormal_and_invariant(many_body):
    tensors = many_body.coupling_tensors((1, 1, 2, 2), (0, 1, 2, 3))
    # l1 x l2 and l3 x l4 share L = 0, 1 and 2.
    assert len(tensors) == 3
    flat = tensors.reshape(3, -1)
    assert_allclose(flat @ flat.T, np.eye(3), atol=1e-12)
    alpha, beta, gamma = 0.3, 1.1, -0.7
    one, two = (np.asarray(e3nn.Irrep(degree, 1).D_from_angles(alpha, beta, gamma)) for degree in (1, 2))
    assert_allclose(np.einsum("pabcd,ea,fb,gc,hd->pefgh", tensors, one, one, two, two), tensors, atol=1e-5)


def test_number_of_features_is_that_of_the_published_model(many_body, experiment):
    """Of the orders three and four (505 and 127); it has 273 of the second, and a second set of 24 of the first."""
    basis = many_body.Basis(experiment.CUTOFF, experiment.Setting().degrees)
    slices = many_body.component_slices(basis)
    assert [columns.stop - columns.start for columns in slices.values()] == [24, 274, 505, 127]


def test_component_rigidities_are_those_of_scikit_matter():
    component_model = importlib.import_module("component_model")
    train = [RNG.normal(size=(size, 6)) for size in (3, 5, 4, 6)]
    test = [RNG.normal(size=(size, 6)) for size in (2, 4)]
    slices = {"1": slice(0, 2), "2": slice(2, 5), "3": slice(5, 6)}
    rows, energy = np.array([each.mean(axis=0) for each in train]), RNG.normal(size=4)
    alpha = 1e-3 * np.sum(np.mean(np.vstack(train) ** 2, axis=0))  # scikit-matter's is in units of the spread
    model = component_model.fit(rows, energy, alpha, slices, offset=0.4)
    targets = np.array([each.mean(axis=0) for each in test])
    expected, _, _ = componentwise_prediction_rigidity(train, test, 1e-3, np.array([2, 3, 1]))
    found = model.component_rigidities(targets)
    assert_allclose(np.array([found[name] for name in slices]).T, expected, rtol=1e-9)
    ridge = Ridge(alpha, fit_intercept=False).fit(rows, energy - 0.4)
    assert_allclose(model.energies(targets), ridge.predict(targets) + 0.4, rtol=1e-9)
    assert_allclose(sum(model.component_energies(targets).values()) + 0.4, model.energies(targets), rtol=1e-12)
    assert component_model.rmse(np.array([3.0, -4.0, 0.0, 0.0])) == 2.5


@pytest.mark.parametrize("size", [3, 4, 5])
def test_clusters_are_bound_and_dense(silicon, size):
    clusters = silicon.draw(np.random.default_rng(2), size, 20)
    distances = np.linalg.norm(clusters[:, :, None] - clusters[:, None], axis=-1)
    distances[:, np.arange(size), np.arange(size)] = np.inf
    assert distances.min() >= silicon.SHORTEST
    assert (distances.min(axis=2) <= silicon.LONGEST_BOND).all()
    distances[~np.isfinite(distances)] = 0
    assert distances.max() <= silicon.WIDEST_DIMER * (size / 2) ** (1 / 3)
    assert_allclose(silicon.draw(np.random.default_rng(2), size, 20), clusters)


def test_dimers_are_spread_over_the_curve_with_its_ends(silicon):
    distances = np.linalg.norm(np.diff(silicon.draw(np.random.default_rng(3), 2, 50), axis=1)[:, 0], axis=-1)
    assert distances[0] == silicon.DIMER_GRID[0] and distances[-1] == silicon.DIMER_GRID[-1]
    assert (np.diff(distances) > 0).all() and np.diff(distances).max() < 2 * 3.5 / 49


@needs_tblite
def test_labels_are_energies_above_free_atoms(silicon):
    far = silicon.label(silicon.dimers(np.array([2.2, 40.0])))
    assert far.energy[0] < -1 and abs(far.energy[1]) < 2e-3
    once, again = silicon.labelled(5, {3: 2}), silicon.labelled(5, {3: 2})
    assert_allclose(once["3"]["energy"], again["3"]["energy"], atol=1e-6)
    assert once["3"]["positions"] == again["3"]["positions"]


def test_smaller_clusters_replace_pentamers(experiment):
    sets = experiment.training_sets(experiment.Setting(num_train=500, num_replaced=50))
    assert list(sets.values()) == [{5: 500}, {5: 450, 2: 50}, {5: 400, 2: 50, 3: 50}, {5: 350, 2: 50, 3: 50, 4: 50}]


def test_only_purified_features_learn_pairs_from_dimers(experiment, many_body, silicon):
    """Energies that are a sum over pairs: the pair component is them, if the features of order one are of pairs only.

    And then, with more dimers than features of order one, their rigidity no longer follows the regulariser.
    """
    setting = experiment.Setting(alpha=1e-6, num_train=50, num_replaced=15, num_test=5, degrees=(6, 12, 9, 4))
    basis = many_body.Basis(CUTOFF, setting.degrees)
    rng = np.random.default_rng(4)
    positions = {size: silicon.draw(rng, size, 15) for size in (2, 3, 4)} | {5: silicon.draw(rng, 5, 55)}
    grid = silicon.dimers(np.linspace(2.0, 5.5, 20))
    curves, ratios = {}, {}
    for name, purified in experiment.MODELS.items():
        first = many_body.component_slices(basis)["1"]
        weights = np.linspace(1, -1, first.stop)
        features = {size: many_body.cluster_features(each, basis, purified) for size, each in positions.items()}
        energy = {size: each[:, first] @ weights for size, each in features.items()}
        of_curve = many_body.cluster_features(grid, basis, purified)
        reference, slices = of_curve[:, first] @ weights, many_body.component_slices(basis)
        found = experiment.evaluate(features, energy, of_curve, reference, slices, setting)["+ dimers"]
        curves[name] = found["curve_pairs_rmse"] / reference.std()
        ratios[name] = found["cpr"]["1"] / found["cpr_less_regularised"]["1"]
        assert found["curve_total_rmse"] < 0.1 * reference.std()
    assert curves["purified"] < 1e-4 and curves["self-interacting"] > 50 * curves["purified"]
    assert ratios["purified"] < 1.2 and ratios["self-interacting"] > 30


@needs_tblite
def test_whole_experiment_resumes_and_draws_again(experiment, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = [*TINY, "--seeds", "0", "1", "--out", str(out)]
    experiment.main(arguments)
    text = capsys.readouterr().out
    assert text == (out / "table.md").read_text() + "\n"
    assert text.count("| purified | + trimers |") == 2
    results = json.loads((out / "results.json").read_text())
    assert [each["seed"] for each in results["seeds"]] == [0, 1]
    assert len(results["reference"]) == len(results["seeds"][1]["models"]["purified"]["+ dimers"]["curve_pairs"]) == 71
    assert results["seeds"][0]["models"] != results["seeds"][1]["models"]
    assert (out / "body_order-cpr.png").stat().st_size > 10_000

    def no_work(*_, **__):
        raise AssertionError("a finished piece was computed again")

    monkeypatch.setattr(experiment.silicon_clusters, "label", no_work)
    labelled_only = (out / "seed-1.json").read_text()
    (out / "seed-1.json").unlink()
    experiment.main(arguments)
    assert json.loads((out / "seed-1.json").read_text())["models"] == json.loads(labelled_only)["models"]
    monkeypatch.setattr(experiment, "evaluate", no_work)
    (out / "table.md").unlink()
    experiment.main(["--table-only", "--out", str(out)])
    assert (out / "table.md").read_text() + "\n" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"seed-0\.json has another setting; choose another --out\."):
        experiment.main([*arguments, "--alpha", "0.1"])


def test_command_without_tblite_fails_before_any_work(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"tblite, which labels .* pip install 'bnn_jax\[experiments\]'"):
        experiment.main(["--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "12", "--replace", "4"], "--train must be more than three times --replace"),
        (["--test", "0"], "--replace and --test must be at least 1"),
        (["--table-only"], "does not exist; run the experiment without --table-only first"),
    ],
)
def test_command_says_what_is_wrong_without_a_traceback(tmp_path, run_script, arguments, message):
    code, printed = run_script(FOLDER / "body_order.py", *arguments, "--out", str(tmp_path / "out"))
    assert code == 2 and message in printed
