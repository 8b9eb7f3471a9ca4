"""The augmentation experiment against ridge regression and intervals of others, and as a whole on small crystals."""

import importlib
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation
from scipy.stats import ttest_1samp
from sklearn.linear_model import Ridge

from bnn_jax import InputError
from bnn_jax.rigidity import dense_hessian, prediction_rigidity

FOLDER = Path(__file__).parents[2] / "experiments" / "rigidity"


@pytest.fixture
def experiment():
    return importlib.import_module("augmentation")


@pytest.fixture
def report():
    return importlib.import_module("augmentation_report")


@pytest.fixture
def pieces():
    return importlib.import_module("pieces")


@pytest.fixture
def spectra():
    pytest.importorskip("featomic", reason="featomic is not installed (extra: experiments)")
    return importlib.import_module("power_spectrum")


def random_problem(experiment, num_train=30, num_candidates=12, width=6):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=width)
    rows = [rng.normal(size=(number, width)) for number in (num_train, num_candidates, 5)]
    energies = [each @ weights + 0.1 * rng.normal(size=len(each)) - 150.0 for each in rows]
    is_low = np.arange(num_candidates) % 3 == 0
    strata = [str(i % 4) for i in range(num_candidates)]
    return experiment.Problem(
        rows[0], energies[0], rows[1], energies[1], is_low, strata, rows[2], energies[2], np.arange(2, 7)
    )


def labelled(atoms, rng, **info):
    """With an energy that depends on the density, and forces."""
    atoms = atoms.copy()
    atoms.rattle(0.05, rng=rng)
    energy = -8.0 * len(atoms) + atoms.get_volume() / len(atoms) + 0.01 * rng.normal()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((len(atoms), 3)))
    atoms.info |= info
    return atoms


@pytest.fixture
def folder(tmp_path, experiment):
    """All files of the experiment in miniature: diamond of several densities, and crystals of silicon and oxygen."""
    rng = np.random.default_rng(1)

    def carbon(edges):
        return [labelled(bulk("C", "diamond", a=edge, cubic=True), rng) for edge in edges]

    def silica(edges, names):
        cell = Atoms("SiO2", [[0, 0, 0], [1.6, 0.2, 0.1], [0.1, 0.3, 1.7]], pbc=True)
        frames = []
        for edge, name in zip(edges, names, strict=True):
            cell.set_cell([edge] * 3)
            frames.append(labelled(cell, rng, framework=name))
        return frames

    # Edges in Angstrom of eight carbon atoms: 3.6 is dense, 4.6 below 2 g/cm^3.
    contents = [
        carbon([3.5, 3.6, 3.65]),
        carbon([4.6, 4.7]),
        carbon([3.6, 4.0, 4.1, 4.3]),
        carbon([4.4, 4.5]),
        silica([3.6, 3.7, 3.9, 4.2, 4.0, 4.1], ["abw", "abw", "bct", "oso", "edi", "tho"]),
        silica([4.0, 4.1], ["afy", "sod"]),
    ]
    for name, frames in zip(experiment.FILES, contents, strict=True):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        ase.io.write(tmp_path / "data" / name, frames, format="extxyz")
    return tmp_path / "data"


def test_retrained_model_is_the_ridge_regression_of_another_library(experiment):
    part, zeta = random_problem(experiment), 0.7
    indices = np.array([3, 0, 7])
    _, errors = experiment.retrained(part, indices, zeta)
    reference = part.train_energies.mean()
    for step in range(4):
        rows = np.vstack([part.train, part.candidates[indices[:step]]])
        energies = np.concatenate([part.train_energies, part.candidate_energies[indices[:step]]]) - reference
        ridge = Ridge(alpha=zeta**2, fit_intercept=False, solver="cholesky").fit(rows, energies)
        assert_allclose(errors[step], ridge.predict(part.targets) + reference - part.target_energies, rtol=1e-8)


def test_structure_that_is_added_is_more_rigid_by_one(experiment):
    part = random_problem(experiment)
    part = part._replace(targets=part.candidates[4:5], target_energies=part.candidate_energies[4:5])
    rigidities, _ = experiment.retrained(part, np.array([4, 1]), 0.7)
    assert rigidities[1] - rigidities[0] == pytest.approx(1.0, rel=1e-9)  # Appendix B
    assert rigidities[2] > rigidities[1]


def test_guided_choice_raises_the_mean_rigidity_most(experiment):
    part, zeta = random_problem(experiment), 0.7
    best = experiment.choose(part, "guided", zeta, 1, 0)[0]
    means = [
        prediction_rigidity(part.targets, dense_hessian([part.train, row[None]], zeta)).mean()
        for row in part.candidates
    ]
    assert best == np.argmax(means)


def test_baselines_choose_what_they_may(experiment):
    part = random_problem(experiment)
    low = experiment.choose(part, "low density", 0.7, 4, 0)
    assert part.is_low_density[low].all() and len(set(low)) == 4
    stratified = experiment.choose(part, "stratified", 0.7, 4, 0)
    assert sorted(part.strata[i] for i in stratified) == ["0", "1", "2", "3"]
    assert len(set(experiment.choose(part, "random", 0.7, 12, 0))) == 12


def test_share_differs_between_seeds_and_keeps_rows_beside_their_labels(experiment):
    whole = random_problem(experiment)
    first, other = (experiment.subset(whole, 0.5, seed) for seed in (0, 1))
    assert len(first.train) == 15 and len(first.candidates) == len(first.strata) == 6
    assert not np.array_equal(first.train, other.train)
    places = [int(np.flatnonzero((whole.candidates == row).all(axis=1))[0]) for row in first.candidates]
    assert_allclose(first.candidate_energies, whole.candidate_energies[places])
    assert [whole.strata[i] for i in places] == first.strata
    assert (whole.is_low_density[places] == first.is_low_density).all()
    assert_allclose(first.targets, whole.targets)


def test_zeta_is_relative_to_the_mean_diagonal_element(experiment):
    rows = np.random.default_rng(0).normal(size=(20, 5))
    assert experiment.absolute_zeta(rows, 1e-4) ** 2 == pytest.approx(1e-4 * np.trace(rows.T @ rows) / 5)


def test_energies_of_cells_weigh_by_their_atoms(experiment):
    part = random_problem(experiment)
    found = experiment.compare(part, 1.0, 1e-3, 2, 0)["strategies"]["random"]
    zeta = experiment.absolute_zeta(part.train, 1e-3)
    whole = experiment.subset(part, 1.0, 0)  # in the same order
    _, errors = experiment.retrained(whole, experiment.choose(whole, "random", zeta, 2, 0), zeta)
    assert_allclose(found["rmse_ev_per_cell"], np.sqrt(np.mean((errors * [2, 3, 4, 5, 6]) ** 2, axis=1)))
    assert_allclose(found["rmse_ev_per_atom"], np.sqrt(np.mean(errors**2, axis=1)))


def test_interval_is_that_of_scipy(report):
    values = np.random.default_rng(0).normal(1.0, 2.0, size=10)
    interval = ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert_allclose(report.t_interval(values), [values.mean(), interval.low, interval.high])
    assert np.isnan(report.t_interval([1.0]).lower)


def rattled_quartz_like(rng):
    cell = Atoms("Si2O4", rng.uniform(0, 5.0, size=(6, 3)), cell=[5.0, 5.5, 6.0], pbc=True)
    return cell


def test_spectra_are_those_of_featomic_without_what_is_there_twice(spectra):
    from featomic import SoapPowerSpectrum

    frames = [rattled_quartz_like(np.random.default_rng(seed)) for seed in range(3)]
    basis = spectra.Basis(cutoff=4.0, num_radial=3, max_angular=2)
    found = spectra.atom_features(frames, basis, [8, 14])
    whole = SoapPowerSpectrum(
        cutoff={"radius": 4.0, "smoothing": {"type": "ShiftedCosine", "width": 0.5}},
        density={"type": "Gaussian", "width": 0.4},
        basis={"type": "TensorProduct", "max_angular": 2, "radial": {"type": "Gto", "max_radial": 2}},
    ).compute(frames)
    whole = whole.keys_to_properties(["neighbor_1_type", "neighbor_2_type"])
    oxygen = whole.block({"center_type": 8}).values  # of the last four atoms of each structure
    is_oxygen = np.tile(np.arange(6) >= 2, 3)
    ours = found.values[is_oxygen]
    assert_allclose(ours @ ours.T, oxygen @ oxygen.T, rtol=1e-9)
    assert ours.shape[1] < 2 * oxygen.shape[1]
    assert_allclose(found.values[is_oxygen] @ found.values[~is_oxygen].T, 0.0)


def test_spectra_do_not_turn_with_the_structure_and_mean_over_it(spectra):
    rng = np.random.default_rng(0)
    first = rattled_quartz_like(rng)
    turned = first.copy()
    rotation = Rotation.random(rng=0).as_matrix()
    turned.set_cell(first.cell.array @ rotation.T, scale_atoms=True)
    basis = spectra.Basis(cutoff=3.5, num_radial=3, max_angular=2)
    found = spectra.atom_features([first, turned, first.repeat((2, 1, 1))], basis, [8, 14])
    assert found.num_atoms.tolist() == [6, 6, 12]
    assert_allclose(found.values[:6], found.values[6:12], atol=1e-9 * abs(found.values).max())
    assert_allclose(found.means()[0], found.values[:6].mean(axis=0))
    assert_allclose(found.means()[0], found.means()[2], rtol=1e-9)


def test_missing_species_have_columns_all_the_same(spectra):
    basis = spectra.Basis(cutoff=3.5, num_radial=2, max_angular=1)
    silicon = bulk("Si", cubic=True)
    alone, beside = (spectra.atom_features([silicon], basis, species) for species in ([14], [8, 14]))
    assert alone.values.shape[1] < beside.values.shape[1]
    assert_allclose((alone.values**2).sum(), (beside.values**2).sum())


@pytest.mark.slow
def test_families_are_apart_as_the_question_has_it(experiment, pieces, shared_data):
    frames = experiment.SYSTEMS["carbon-dense"](shared_data)
    liquids = [frame for frame in frames.train if len(frame) == 200]
    assert len(frames.train) == 442 and len(liquids) == 42 and len(frames.candidates) == 20 + 105
    assert pieces.densities(liquids).min() > pieces.densities(frames.candidates).max()
    silica = experiment.SYSTEMS["silica"](shared_data)
    names = [{frame.info["framework"] for frame in part} for part in silica[:3]]
    assert [len(each) for each in names] == [3, 15, 5]
    assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])


def test_finished_piece_is_read_and_another_question_refused(pieces, tmp_path):
    path = tmp_path / "piece.json"
    assert pieces.finished(path, {"seed": (0, 1)}, lambda: {"value": 2.0})["value"] == 2.0
    assert pieces.finished(path, {"seed": (0, 1)}, lambda: 1 / 0) == {"seed": [0, 1], "value": 2.0}
    with pytest.raises(InputError, match=r"another seed; choose another --out"):
        pieces.finished(path, {"seed": (0, 2)}, lambda: {})


@pytest.mark.usefixtures("spectra")
def test_whole_experiment_resumes_and_rebuilds_its_figure(experiment, folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    command = ["--data", str(folder), "--out", str(out), "--seeds", "0", "1", "--number", "2", "--share", "1"]
    monkeypatch.setattr(experiment, "SWEEP", (1e-3,))
    whole, calls = experiment.compare, []

    def killed(*arguments):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(arguments)
        return whole(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(experiment, "compare", killed)
        with pytest.raises(KeyboardInterrupt):
            experiment.main([*command, "--no-sweep"])
    names = sorted(path.name for path in (out / "pieces").iterdir())
    assert names == ["carbon-crystals-seed-0.json", "carbon-crystals-seed-1.json", "carbon-dense-seed-0.json"]
    times = {name: (out / "pieces" / name).stat().st_mtime_ns for name in names}
    experiment.main(command)
    assert {name: (out / "pieces" / name).stat().st_mtime_ns for name in names} == times
    results = json.loads((out / "results.json").read_text())
    assert list(results["systems"]) == ["carbon-crystals", "carbon-dense", "silica"]
    seed = results["systems"]["carbon-dense"]["seeds"][1]
    assert seed["num_train"] == 4 and seed["num_candidates"] == 5
    table = (out / "table.md").read_text()
    assert f"{1e3 * seed['strategies']['guided']['rmse_ev_per_atom'][0]:.0f} ± 0" in table  # both seeds see all
    assert "| PR-guided − random, low density |" in table and "| 1e-03 |" in table
    capsys.readouterr()
    (out / "augmentation.png").unlink()
    experiment.main(["--table-only", "--out", str(out)])
    assert capsys.readouterr().out == table + "\n"
    assert (out / "augmentation.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="has another number; choose another --out"):
        experiment.main([*command[:-4], "--number", "1"])


def test_results_that_are_not_there_are_asked_for(experiment, tmp_path):
    with pytest.raises(InputError, match="without --table-only first"):
        experiment.main(["--table-only", "--out", str(tmp_path)])


@pytest.mark.parametrize("name", ["augmentation.py", "embedding.py"])
def test_missing_data_end_the_command_before_any_work(name, tmp_path, monkeypatch, run_script):
    monkeypatch.delenv("BNN_JAX_TEST_DATA", raising=False)
    for more, message in ([], "give their folder by --data"), (["--data", str(tmp_path)], "holds no carbon_gap17"):
        code, printed = run_script(FOLDER / name, "--out", str(tmp_path / "out"), *more)
        assert code == 2 and printed.startswith("error: ") and message in printed
        assert not list((tmp_path / "out").glob("*"))
