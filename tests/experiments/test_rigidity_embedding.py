"""The embedding experiment against Hessians made anew, its dynamics, and the whole of it in miniature."""

import importlib
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.testing import assert_allclose

from bnn_jax import InputError
from bnn_jax.rigidity import dense_hessian, prediction_rigidity

FOLDER = Path(__file__).parents[2] / "experiments" / "rigidity"


@pytest.fixture
def experiment():
    return importlib.import_module("embedding")


@pytest.fixture
def report():
    return importlib.import_module("embedding_report")


@pytest.fixture
def liquid():
    return importlib.import_module("liquid")


@pytest.fixture
def featomic():
    return pytest.importorskip("featomic", reason="featomic is not installed (extra: experiments)")


def disordered(repeats=3, std=0.2, seed=0):
    """Diamond, expanded and displaced."""
    atoms = bulk("C", "diamond", a=4.0, cubic=True).repeat(repeats)
    atoms.rattle(std, seed=seed)
    return atoms


def labelled(atoms):
    """With the labels of a Lennard-Jones solid."""
    atoms.calc = LennardJones(epsilon=0.5, sigma=1.4, rc=3.0)
    labels = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
    atoms.calc = labels
    return atoms


@pytest.fixture
def folder(experiment, tmp_path):
    """All files of the experiment in miniature."""
    for number, name in enumerate(experiment.FILES):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = [labelled(disordered(1, 0.05 + 0.02 * number, seed)) for seed in range(3)]
        if "dimers" in name:
            frames.append(labelled(Atoms("C2", [[5, 5, 5], [5, 5, 9.9]], cell=[10, 10, 20], pbc=True)))
        ase.io.write(path, frames, format="extxyz")
    return tmp_path / "data"


def test_enhancements_are_those_of_hessians_made_anew(experiment):
    rng = np.random.default_rng(0)
    train, g = rng.normal(size=(8, 5)), rng.normal(size=5)
    rows = {"original": rng.normal(size=(3, 5)), "crystal": rng.normal(size=(4, 5))}
    hessian = dense_hessian([train], 0.3)
    found = experiment.enhancements(hessian, g, rows, [1, 3])
    before = prediction_rigidity(g[None], hessian)[0]
    for name, counts in (("original", [1, 3]), ("crystal", [2, 4])):  # the first row is that of the crystal
        after = [prediction_rigidity(g[None], dense_hessian([train, rows[name][:n]], 0.3))[0] for n in counts]
        assert_allclose(found[name], np.array(after) / before - 1, rtol=1e-9)


def test_least_rigid_atoms_come_first_and_do_not_overlap(experiment):
    atoms = Atoms("C5", [[0, 0, 0], [1, 0, 0], [9.5, 0, 0], [5, 0, 0], [2.5, 0, 0]], cell=[10, 10, 10], pbc=True)
    rigidities = np.array([2.0, 3.0, 1.0, 4.0, 5.0])
    assert list(experiment.least_rigid(atoms, rigidities, 2.0)) == [2, 3, 4]  # 0 and 1 are beside 2
    assert list(experiment.least_rigid(atoms, rigidities, 0.0)) == [2, 0, 1, 3, 4]


@pytest.mark.usefixtures("featomic")
def test_every_strategy_keeps_what_a_model_of_the_same_cutoff_sees(experiment):
    atoms = disordered()
    model = experiment.linear_model([disordered(1, 0.3, seed) for seed in range(6)], experiment.Basis(3.7), 1e-6)
    features = model.atoms_fn(atoms)
    structures, original = experiment.small_structures(atoms, 17, experiment.RADIUS), model.rows_fn([atoms])
    found = experiment.of_environment(model, structures, features[17], original, 17, [1, 2])
    assert max(found["feature_change"].values()) < 1e-9
    assert found["num_buffer"]["cluster"] == 0 and found["num_buffer"]["periodic"] > 0
    assert found["num_atoms"]["cluster"] < found["num_atoms"]["periodic"] < found["num_atoms"]["crystal"]
    for strategy in experiment.STRATEGIES:
        one, two = found["enhancement"][strategy]
        assert 0 < one < two
    structures = experiment.small_structures(atoms, 17, 2.5)
    smaller = experiment.of_environment(model, structures, features[17], original, 17, [1])
    assert min(smaller["feature_change"].values()) > 1e-3


@pytest.mark.usefixtures("featomic")
def test_environments_in_close_contact_are_left_out(experiment):
    atoms = disordered()
    atoms.positions[40] = atoms.positions[41] + [0.6, 0, 0]
    model = experiment.linear_model([disordered(1, 0.3, seed) for seed in range(6)], experiment.Basis(3.7), 1e-6)
    found = experiment.compare(model, atoms, 1.5, 2, [1])
    assert found["refused"] and not set(found["refused"]) & {each["index"] for each in found["environments"]}
    assert len(found["environments"]) == 2
    assert atoms.get_distances(found["refused"][0], [40, 41], mic=True).min() < 1.5 * np.sqrt(3)


@pytest.mark.usefixtures("featomic")
def test_rows_repeat_where_there_is_no_buffer(experiment):
    atoms = disordered()
    model = experiment.linear_model([disordered(1, 0.3, seed) for seed in range(6)], experiment.Basis(3.7), 1e-6)
    found = experiment.small_structures(atoms, 5, experiment.RADIUS)
    rows = experiment.added_rows(model, model.rows_fn([atoms]), found, 3, 0)
    assert {name: len(each) for name, each in rows.items()} == dict(original=3, cluster=3, periodic=3, crystal=4)
    for name in ("original", "cluster"):
        assert_allclose(rows[name], rows[name][:1].repeat(3, axis=0))
    for name in ("periodic", "crystal"):
        assert np.linalg.matrix_rank(rows[name], tol=1e-6) == len(rows[name])
    again = experiment.added_rows(model, model.rows_fn([atoms]), found, 3, 0)
    other = experiment.added_rows(model, model.rows_fn([atoms]), found, 3, 1)
    assert_allclose(again["periodic"], rows["periodic"], rtol=1e-12)
    assert not np.isclose(other["periodic"], rows["periodic"]).all()


def test_environment_of_the_crystal_is_told_from_the_one_that_is_held(experiment):
    atoms = disordered()
    found = experiment.small_structures(atoms, 5, 2.0)
    crystal = found["crystal"]
    is_crystal = experiment.is_crystal_environment(crystal)
    assert is_crystal.sum() == 5  # an atom of diamond and its neighbours
    assert not (is_crystal & crystal.is_buffer).any()
    held = ~is_crystal & ~crystal.is_buffer
    assert held.sum() == len(found["cluster"].atoms)
    assert not experiment.is_crystal_environment(found["periodic"]).any()


def test_diamond_has_the_density_asked_for(liquid):
    atoms = liquid.diamond(2.5, 2)
    assert len(atoms) == 64
    grams = atoms.get_masses().sum() / 6.02214076e23
    assert grams / (atoms.get_volume() * 1e-24) == pytest.approx(2.5, rel=1e-6)


def test_structure_of_diamond(liquid):
    atoms = bulk("C", "diamond", a=3.567, cubic=True).repeat(3)
    assert liquid.coordination(atoms) == {"0": 0, "1": 0, "2": 0, "3": 0, "4": 1}
    assert liquid.min_distance(atoms) == pytest.approx(3.567 * np.sqrt(3) / 4)
    middles, values = liquid.radial_distribution(atoms, 4.0, 400)
    shells = 4 * np.pi * middles**2 * 0.01 * len(atoms) / atoms.get_volume()
    counts = np.cumsum(values * shells)
    assert counts[np.searchsorted(middles, 2.0)] == pytest.approx(4, rel=1e-3)
    assert counts[np.searchsorted(middles, 2.7)] == pytest.approx(16, rel=1e-3)


def test_radial_distribution_of_an_ideal_gas_is_one(liquid):
    positions = np.random.default_rng(0).uniform(0, 20, size=(4000, 3))
    _, values = liquid.radial_distribution(Atoms(f"C{4000}", positions, cell=[20] * 3, pbc=True), 6.0, 6)
    assert_allclose(values[1:], 1.0, atol=0.02)


def test_displacement_leaves_out_the_drift_of_all(liquid):
    start = np.random.default_rng(0).normal(size=(10, 3))
    turn = np.tile([[0.1, 0, 0], [-0.1, 0, 0]], (5, 1))
    assert liquid.mean_square_displacement(start, start + turn + [1.0, 2.0, 3.0]) == pytest.approx(0.01)


def test_killed_dynamics_go_on_as_if_nothing_had_been(liquid, tmp_path, monkeypatch):
    monkeypatch.setattr(liquid, "CHUNK", 4)
    monkeypatch.setattr(liquid, "SAMPLE_EVERY", 2)
    stage = liquid.Stage("small", 300.0, 10)

    def run(name, calculator):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
        return liquid.dynamics(atoms, calculator, stage, 0, folder), atoms

    calculator = LennardJones(epsilon=0.01, sigma=3.4)
    whole, atoms = run("whole", calculator)
    assert [row["step"] for row in whole] == [2, 4, 6, 8, 10]
    assert whole[-1]["msd"] > 0 and whole[-1]["temperature"] > 0

    class Killed(LennardJones):
        calls = 0

        def calculate(self, *arguments, **options):
            Killed.calls += 1
            if Killed.calls > 7:
                raise KeyboardInterrupt
            super().calculate(*arguments, **options)

    with pytest.raises(KeyboardInterrupt):
        run("killed", Killed(epsilon=0.01, sigma=3.4))
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["small-0.extxyz", "small-0.json"]
    again, same = run("killed", calculator)
    assert again == whole
    assert_allclose(same.positions, atoms.positions, rtol=0, atol=0)
    with pytest.raises(InputError, match="another seed"):
        liquid.dynamics(bulk("Ar", "fcc", a=5.3, cubic=True), calculator, stage, 1, tmp_path / "killed")


def test_table_counts_the_best_and_shows_the_spread(report):
    def environment(original, periodic):
        enhancement = {"original": original, "cluster": [0.0, 0.0], "periodic": periodic, "crystal": [0.0, 0.0]}
        sizes = {"cluster": 3, "periodic": 4, "crystal": 5}
        buffers = {"cluster": 0, "periodic": 1, "crystal": 2}
        changes = {"cluster": 0.0, "periodic": 2e-3, "crystal": 0.0}
        return dict(enhancement=enhancement, num_atoms=sizes, num_buffer=buffers, feature_change=changes)

    model = {"num_atoms": 8, "counts": [1, 10], "environments": [environment([0.01, 0.02], [0.005, 0.1])] * 2}
    model["environments"].append(environment([0.01, 0.02], [0.02, 0.4]))
    assert report.wins(model, 1) == {"original": 2, "cluster": 0, "periodic": 1, "crystal": 0}
    table = report.enhancement_table(model)
    assert "| periodic embedding | 4 | 1 | 0.002 | 1 ± 0.87 | 20 ± 17 |" in table
    assert "| original structure | 8 |  |  | 1 ± 0 | 2 ± 0 |" in table


@pytest.mark.slow
def test_last_layer_rows_are_energies_of_unit_readouts(experiment, folder, tmp_path, monkeypatch):
    small(experiment, monkeypatch)
    posterior, train = experiment.trained(folder, tmp_path, 3, 0)
    network, loss = posterior.network(), experiment.SquareLoss(energy=4.0, per_atom=True)
    model = experiment.last_layer_model(network, train, loss, 1e-6)
    structures = [disordered(1, 0.1), disordered(1, 0.1, seed=3).repeat((2, 1, 1))]
    rows, atoms = model.rows_fn(structures), model.atoms_fn(structures[1])
    assert_allclose(rows[1], 2.0 * atoms.mean(axis=0), rtol=2e-5)  # root of the weight, mean over atoms
    assert rows.shape == (2, 2)
    trace = np.trace(model.hessian.matrix)
    shifted = model.rows_fn(train.to_atoms())
    assert trace == pytest.approx(np.sum(shifted**2) * (1 + 1e-6), rel=1e-4)


@pytest.mark.slow
def test_errors_are_those_of_predictions(experiment, folder, tmp_path, monkeypatch):
    small(experiment, monkeypatch)
    posterior, train = experiment.trained(folder, tmp_path, 3, 0)
    predicted = posterior.predict(train)
    found = experiment.errors_of(posterior, train)
    energy = (predicted.energy - train.energy) / 8
    assert found["energy_mean_error"] == pytest.approx(energy.mean())
    assert found["energy_std_of_error"] ** 2 + energy.mean() ** 2 == pytest.approx(np.mean(energy**2))
    assert found["forces_rms"] == pytest.approx(np.sqrt(np.mean(train.forces**2)))
    assert found["forces_rmse"] == pytest.approx(np.sqrt(np.mean((predicted.forces - train.forces) ** 2)))


def small(experiment, monkeypatch):
    """A network that compiles fast."""
    model = {"cutoff": 3.7, "num_blocks": 1, "num_features": 2, "l_max": 0, "radial_hidden": [], "num_bessel": 2}
    monkeypatch.setattr(experiment, "NETWORK", experiment.NETWORK | {"model": model})
    monkeypatch.setattr(experiment, "NUM_VALID", 3)


@pytest.mark.usefixtures("featomic")
def test_whole_experiment_resumes_and_rebuilds_its_figures(experiment, folder, tmp_path, monkeypatch, capsys):
    small(experiment, monkeypatch)
    out = tmp_path / "out"
    sizes = "--train 10 --train-steps 2 --repeats 2 --copies 1 --steps 2 2 2 --environments 1 --number 3".split()
    command = ["--data", str(folder), "--out", str(out), *sizes, "--network-environments", "1", "--network-number", "1"]
    whole = experiment.compare

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(experiment, "compare", killed)
        with pytest.raises(KeyboardInterrupt):
            experiment.main(command)
    done = {path: path.stat().st_mtime_ns for path in (out / "dynamics").iterdir()}
    assert len(done) == 6
    monkeypatch.setattr(experiment, "compare", whole)
    experiment.main(command)
    assert {path: path.stat().st_mtime_ns for path in (out / "dynamics").iterdir()} == done
    results = json.loads((out / "results.json").read_text())
    assert list(results["models"]) == ["linear", "network", "network, receptive field"]
    numbers = [each["num_structures"] for each in results["network_errors"].values()]
    assert numbers == [3, 3, 3, 3, 3, 3]  # without the dimer whose atoms have no neighbours
    assert results["dynamics"]["num_atoms"] == 64
    (linear,) = results["models"]["linear"]["environments"]
    assert max(linear["feature_change"].values()) < 1e-9
    (receptive,) = results["models"]["network, receptive field"]["environments"]
    assert max(receptive["feature_change"].values()) < 1e-5
    table = (out / "table.md").read_text()
    assert "HS embedding (diamond)" in table and "Linear, radius 3.75 Å" in table
    capsys.readouterr()
    for name in ("embedding.png", "embedding-liquid.png"):
        (out / name).unlink()
    experiment.main(["--table-only", "--out", str(out)])
    assert capsys.readouterr().out == table + "\n"
    assert all((out / name).stat().st_size > 5_000 for name in ("embedding.png", "embedding-liquid.png"))
    monkeypatch.setattr(experiment, "compare", killed)
    experiment.main(command)  # nothing is left to compute
