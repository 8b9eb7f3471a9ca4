"""Coarse-grained water: structure, mapping and dynamics against closed forms, and the whole experiment in miniature."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import ase.build
import ase.units
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.geometry.rdf import get_rdf
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

import bnn_jax
from bnn_jax import Config, InputError
from bnn_jax.atoms.graph import batch_bound, gather_batch, pack, pair_mask
from bnn_jax.methods.base import fill_model_config
from bnn_jax.rigidity import Network, SquareLoss, fit_rigidity

FOLDER = Path(__file__).parents[2] / "experiments" / "rigidity"
MODEL = {
    "num_blocks": 1,
    "num_features": 3,
    "l_max": 0,
    "cutoff": 3.5,
    "num_bessel": 2,
    "radial_hidden": [],
    "std_hidden": [],
}
CONFIG = {"method": "mean_variance", "model": MODEL, "trainer": {"batch_size": 2, "num_steps": 4, "log_every": 2}}


@pytest.fixture
def experiment():
    return importlib.import_module("coarse_grained")


@pytest.fixture
def all_atom():
    return importlib.import_module("all_atom")


@pytest.fixture
def dynamics():
    return importlib.import_module("bead_dynamics")


@pytest.fixture
def structure():
    return importlib.import_module("liquid_structure")


def gas(num_frames=1, num_beads=16, side=8.0, seed=0):
    return np.random.default_rng(seed).uniform(0, side, (num_frames, num_beads, 3))


def loose(num_beads=16, side=8.0, seed=0):
    """Beads on a rattled lattice, none of which touch."""
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:num_beads] * side / 3
    return grid + np.random.default_rng(seed).uniform(-0.3, 0.3, grid.shape)


def random_network(all_atom, positions, forces, side):
    """A network with random weights, and the data set that it takes for its own."""
    dataset = all_atom.as_dataset(positions, forces, side)
    config = Config.from_dict(CONFIG).model
    statistics = dataset.statistics(config.cutoff)
    potential = bnn_jax.nequip(fill_model_config(config, statistics))
    packed = pack(dataset, config.cutoff, statistics.species, statistics.shifts)
    graph = gather_batch(packed, np.arange(1), *batch_bound(packed, 1)).graph
    params = jax.jit(potential.init)(jax.random.key(0), graph)
    return Network(jax.jit(potential.apply), params, statistics, config.cutoff), dataset, graph


def fake_network(energy_fn, cutoff=3.0):
    """A potential that knows positions alone."""

    def apply(_, graph):
        energy, gradient = jax.value_and_grad(energy_fn)(graph.nodes["positions"][:-1])
        forces = jnp.concatenate([-gradient, jnp.zeros((1, 3))])
        return SimpleNamespace(energy=energy[None] + jnp.zeros(2), forces=forces)

    return SimpleNamespace(apply=apply, params=None, cutoff=cutoff)


# Structure


@pytest.mark.parametrize(
    ("lattice", "constant", "cutoff", "expected"),
    [
        ("sc", 1.0, 1.2, 0.763763),
        ("bcc", 2.0, 1.85, 0.509175),  # 8 nearest neighbours
        ("bcc", 2.0, 2.2, 0.036370),  # 14 with the second shell
        ("fcc", 2.0, 1.7, 0.190941),
        ("diamond", 4.0, 2.0, 0.509175),
    ],
)
def test_order_of_perfect_lattices(structure, lattice, constant, cutoff, expected):
    """Steinhardt, Nelson and Ronchetti (1983); all atoms see one environment, whose average is itself."""
    crystal = ase.build.bulk("C", lattice, a=constant, cubic=True).repeat(3)
    found = structure.averaged_order(crystal.positions, crystal.cell[0, 0], cutoff)
    assert_allclose(found, expected, atol=2e-6)


def test_order_is_averaged_over_neighbours_and_does_not_depend_on_the_orientation(structure):
    positions = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 5]])
    found = structure.averaged_order(positions, 50.0, 1.2)
    # By the addition theorem sums of Y_4m over unit vectors have inner products P_4 of the angles between them.
    legendre = np.polynomial.legendre.Legendre.basis(4)(0.0)
    assert found[0] == pytest.approx(np.sqrt((1 + 1 + 2 * legendre) / 4))  # half of each bond
    assert found[1] == pytest.approx(np.sqrt((9 + 1 + 6 * legendre) / 16))  # three quarters of one, one of the other
    assert found[3] == 0
    turned = positions @ Rotation.random(rng=0).as_matrix().T
    assert_allclose(structure.averaged_order(turned, 50.0, 1.2), found, atol=1e-12)


def test_pair_correlation_equals_that_of_ase_and_is_one_for_an_ideal_gas(structure):
    side, num_bins = 8.0, 20
    edges = np.linspace(0, 3.9, num_bins + 1)
    (frame,) = gas(num_beads=40, side=side)
    atoms = ase.Atoms("X40", frame, cell=[side] * 3, pbc=True)
    expected, r = get_rdf(atoms, 3.9, num_bins)
    assert_allclose(r, (edges[1:] + edges[:-1]) / 2)
    # The ideal gas of ASE has the bead itself among its neighbours.
    assert_allclose(structure.pair_correlation(frame[None], side, edges), expected * 40 / 39, rtol=1e-6)
    many = structure.pair_correlation(gas(400, 40, side), side, edges)
    assert_allclose(many[5:], 1, atol=0.05)


def test_nearest_distances_see_periodic_images(structure):
    positions = np.array([[0.5, 0, 0], [7.0, 0, 0], [3.0, 0, 0]])
    assert_allclose(structure.nearest_distances(positions, 8.0), [1.5, 1.5, 2.5])


def test_distribution_of_order_is_normalised(structure):
    edges = np.linspace(0, 1, 11)
    density = structure.order_distribution(gas(3, 20), 8.0, 3.0, edges)
    assert np.sum(density * np.diff(edges)) == pytest.approx(1)


def test_total_variation(structure):
    widths = np.array([0.5, 0.5])
    p, q = np.array([2.0, 0.0]), np.array([0.0, 2.0])
    assert structure.total_variation(p, p, widths) == 0
    assert structure.total_variation(p, q, widths) == 1
    assert structure.total_variation(p, (p + q) / 2, widths) == pytest.approx(0.5)


# The mapping and the all-atom simulation


def test_beads_are_centres_of_mass_with_net_forces(all_atom):
    random = np.random.default_rng(0)
    positions, forces = random.normal(size=(2, 4, 3, 3))
    centres, net = all_atom.beads(positions, forces)
    expected = [ase.Atoms("OH2", molecule).get_center_of_mass() for molecule in positions]
    assert_allclose(centres, expected)
    assert_allclose(net, forces[:, 0] + forces[:, 1] + forces[:, 2])


def test_cube_has_the_density_of_water(all_atom):
    side = all_atom.side(128)
    grams = 128 * all_atom.BEAD_MASS * ase.units._amu * 1000
    assert grams / (side * 1e-8) ** 3 == pytest.approx(all_atom.DENSITY, rel=1e-6)


def test_structures_have_forces_alone(all_atom):
    positions, forces = gas(2), np.ones((2, 16, 3))
    dataset = all_atom.as_dataset(positions, forces, 8.0)
    assert len(dataset) == 2 and dataset.species == (8,)
    assert np.isnan(dataset.energy).all() and np.isnan(dataset.stress).all()
    assert_array_equal(dataset[1].positions, positions[1])
    assert_array_equal(dataset.forces, 1.0)
    assert np.isnan(all_atom.as_dataset(positions, None, 8.0).forces).all()


def test_force_of_a_bead_is_minus_the_slope_of_the_energy(all_atom):
    openmm = pytest.importorskip("openmm", reason="the extra 'experiments' is not installed")
    water = all_atom._Water(all_atom.Settings(num_molecules=16))
    _, context = water._context(0)
    context.setPositions(water.start)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=20)
    atoms = water._state(context)["atoms"]
    centres, net = water._beads(context)

    def energy(shift):
        moved = atoms.reshape(-1, 3, 3).copy()
        moved[3, :, 1] += shift / all_atom.ANGSTROM_PER_NM
        context.setPositions(moved.reshape(-1, 3))
        value = context.getState(getEnergy=True).getPotentialEnergy()
        return value.value_in_unit(openmm.unit.kilojoule_per_mole) * all_atom.EV_PER_KJ_PER_MOL

    assert net[3, 1] == pytest.approx(-(energy(0.01) - energy(-0.01)) / 0.02, rel=2e-2, abs=5e-3)
    assert_allclose(centres[0], ase.Atoms("OH2", 10 * atoms[:3]).get_center_of_mass(), atol=1e-9)


def test_simulation_resumes_to_the_same_frames(all_atom, tmp_path):
    pytest.importorskip("openmm", reason="the extra 'experiments' is not installed")
    settings = all_atom.Settings(16, num_frames=5, frames_a_piece=2, steps_a_frame=3, equilibration_ps=0.05)
    whole = all_atom.simulate(tmp_path, settings)
    assert whole.positions.shape == whole.forces.shape == (5, 16, 3)
    assert np.isfinite(whole.forces).all() and np.abs(np.diff(whole.positions, axis=0)).max() < 0.5
    for name in ("piece-001.npz", "piece-002.npz"):
        (tmp_path / name).unlink()
    again = all_atom.simulate(tmp_path, settings)
    assert_array_equal(again.positions, whole.positions)
    assert_array_equal(again.forces, whole.forces)
    with pytest.raises(InputError, match="holds another simulation; choose another --out"):
        all_atom.simulate(tmp_path, settings._replace(seed=1))


def test_simulation_without_openmm_says_what_to_install(all_atom, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openmm", None)
    with pytest.raises(InputError, match="needs OpenMM; install bnn_jax with the extra 'experiments'"):
        all_atom.simulate(tmp_path / "new", all_atom.Settings())
    assert not (tmp_path / "new").exists()


# Dynamics


def test_compiled_neighbours_give_the_energies_and_forces_of_the_package(all_atom, dynamics):
    positions = gas(num_beads=16)
    network, _, graph = random_network(all_atom, positions, np.ones((1, 16, 3)), 8.0)
    expected = network.apply(network.params, graph)
    far = positions[0] + 8.0 * np.random.default_rng(1).integers(-2, 3, (16, 3))  # in other cells
    energy, forces, num_pairs = dynamics.build_energy_and_forces(network, 8.0, 60)(jnp.asarray(far, jnp.float32))
    assert num_pairs == pair_mask(graph).sum() < 60
    assert energy == pytest.approx(float(expected.energy[0]), rel=1e-4)
    assert_allclose(forces, expected.forces[:-1], atol=2e-3 * np.abs(expected.forces).max())


def test_cutoff_must_fit_twice_into_the_cube(dynamics):
    with pytest.raises(InputError, match=r"cutoff of 3 Å does not fit twice into a cube of 6 Å; take more beads"):
        dynamics.build_energy_and_forces(fake_network(jnp.sum), 6.0, 10)


def test_trajectory_without_a_bath_is_that_of_an_oscillator(dynamics):
    stiffness, mass = 2.0, 18.0
    options = dynamics.Dynamics(2.0, friction_per_ps=0.0, steps_a_frame=5, num_frames=40, mass=mass)
    energy_and_forces = lambda x: (stiffness / 2 * jnp.sum(x**2), -stiffness * x, jnp.zeros((), int))  # noqa: E731
    start = jnp.array([[1.0, 0, 0], [0, -0.5, 0.25]])
    zero = jnp.zeros((), int)
    state = dynamics.State(start, 0 * start, -stiffness * start, jnp.zeros(()), zero, zero)
    _, (positions, energies, kinetic) = dynamics.build_steps(energy_and_forces, options, 40)(state, jax.random.key(0))
    times = np.arange(1, 41) * 10.0 * ase.units.fs
    swing = np.cos(np.sqrt(stiffness / mass) * times)
    assert_allclose(positions, swing[:, None, None] * start, atol=2e-2)
    assert_allclose(energies + kinetic, stiffness / 2 * np.sum(start**2), rtol=2e-3)


def test_bath_has_its_temperature(dynamics):
    """BAOAB samples positions in a harmonic well exactly, whatever the step."""
    stiffness = 2.0
    options = dynamics.Dynamics(8.0, temperature=400.0, friction_per_ps=20.0, steps_a_frame=20)
    energy_and_forces = lambda x: (stiffness / 2 * jnp.sum(x**2), -stiffness * x, jnp.zeros((), int))  # noqa: E731
    start, zero = jnp.zeros((300, 3)), jnp.zeros((), int)
    state = dynamics.State(start, start, start, jnp.zeros(()), zero, zero)
    _, (positions, _, _) = dynamics.build_steps(energy_and_forces, options, 60)(state, jax.random.key(1))
    assert np.mean(positions[10:] ** 2) == pytest.approx(ase.units.kB * 400 / stiffness, rel=0.03)


def test_run_makes_room_for_more_neighbours(dynamics, structure):
    """The energy is the number of pairs, which grows from few: beads fly freely together."""
    side, options = 12.0, dynamics.Dynamics(4.0, 300.0, 0.0, steps_a_frame=20, num_frames=25)
    lattice = 3.9 * np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)

    def apply(_, graph):
        count = jnp.sum(pair_mask(graph)).astype(float)
        return SimpleNamespace(energy=count[None], forces=jnp.zeros_like(graph.nodes["positions"]))

    network = SimpleNamespace(apply=apply, params=None, cutoff=3.8)
    found = dynamics.run(network, lattice, side, options, seed=0, frames_a_call=10)
    counts = [(structure.pair_distances(frame, side) < 3.8).sum() for frame in found.positions]
    assert_array_equal(found.energies, counts)
    assert counts[-1] > 1.15 * (structure.pair_distances(lattice, side) < 3.8).sum() + 1
    assert found.is_stable and len(found.positions) == 25
    assert_allclose(found.temperatures, found.temperatures[0], rtol=1e-4)


def test_run_ends_with_the_first_unstable_frame(dynamics):
    """Beads that a saddle throws out: x grows as cosh."""
    options = dynamics.Dynamics(1.0, 300.0, 0.0, steps_a_frame=5, num_frames=1000)
    network = fake_network(lambda x: -0.5 * jnp.sum(x**2))
    found = dynamics.run(network, loose(), 8.0, options, seed=0, frames_a_call=10)
    assert not found.is_stable and len(found.positions) == len(found.temperatures) < 1000
    assert found.temperatures[-1] >= 600 and (found.temperatures[:-1] < 600).all()


# Rigidities and the experiment


def test_rigidity_by_the_last_layer_equals_that_of_the_package(all_atom):
    bead_rigidity = importlib.import_module("bead_rigidity")
    network, dataset, _ = random_network(all_atom, gas(3, side=8.0), np.ones((3, 16, 3)), 8.0)
    found = bead_rigidity.force_rigidity(network, dataset, 1e-2)
    expected = fit_rigidity(network, dataset, SquareLoss(energy=0.0, forces=1.0), 1e-2, zeta_is_relative=True)
    assert found.zeta == pytest.approx(expected.zeta, rel=1e-4)
    scale = np.abs(expected.hessian.matrix).max()
    assert_allclose(found.hessian.matrix, expected.hessian.matrix, atol=1e-4 * scale)


def test_parts_follow_one_another_and_training_sets_are_nested(experiment, all_atom):
    beads = all_atom.Beads(gas(9), np.zeros((9, 16, 3)), 8.0)
    reference = experiment.Reference(beads, experiment.Sizes(4, 2, 3))
    parts = [reference.part(name) for name in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [4, 2, 3]
    assert_array_equal(np.concatenate([part.positions for part in parts]), beads.positions.reshape(-1, 3))
    small, large = (set(experiment.draw(parts[0], count, 1).hashes()) for count in (2, 3))
    assert small < large and len(large) == 3
    assert set(experiment.draw(parts[0], 2, 2).hashes()) != small


def test_whole_experiment_resumes_and_redraws(experiment, all_atom, dynamics, tmp_path, monkeypatch, capsys):
    pytest.importorskip("openmm", reason="the extra 'experiments' is not installed")
    short = dynamics.Dynamics(2.0, steps_a_frame=2, num_frames=4)
    monkeypatch.setattr(experiment, "CONSERVATION", short._replace(friction_per_ps=0.0))
    monkeypatch.setattr(experiment, "PROVOCATION", short)
    monkeypatch.setattr(experiment, "PROVOKING_TIME_STEPS_FS", (4.0, 400.0))
    monkeypatch.setattr(experiment, "PROVOCATION_LIMIT", 3.0)
    settings = all_atom.Settings(16, 9, frames_a_piece=5, steps_a_frame=5, equilibration_ps=0.1)
    figures = importlib.import_module("coarse_grained_figures")
    sizes, config, out = experiment.Sizes(5, 2, 2), Config.from_dict(CONFIG), tmp_path / "out"
    text = experiment.run([0], [4], sizes, settings, config, short, out)
    assert (out / "table.md").read_text() == text
    assert all((out / f"coarse_grained-figure{number}.png").exists() for number in (8, 9))
    results = json.loads((out / "results.json").read_text())
    assert [(each["num_train"], each["seed"]) for each in results["networks"]] == [(4, 0)]
    for each in results["networks"]:
        assert np.mean(each["rigidity"]["test_relative"]) == pytest.approx(1)
        assert len(each["rigidity"]["relative"]) == each["trajectory"]["num_frames"]
    failure = results["failure"]
    assert np.mean(failure["relative"][0]) == pytest.approx(1)
    assert not failure["is_stable"] and failure["temperature"] >= 900

    def refuse(*_, **__):
        raise AssertionError("what was finished was done again")

    for module, name in ((experiment.bnn_jax, "fit"), (dynamics, "run"), (all_atom, "_Water")):
        monkeypatch.setattr(module, name, refuse)
    (out / "results.json").unlink()
    assert experiment.run([0], [4], sizes, settings, config, short, out) == text
    (out / "table.md").unlink()
    capsys.readouterr()
    experiment.main(["--table-only", "--out", str(out)])
    assert capsys.readouterr().out == text + "\n"
    # Means and standard deviations over seeds.
    again = json.loads((out / "results.json").read_text())
    again["networks"] += [json.loads(json.dumps(again["networks"][0])) | {"seed": 1}]
    for each, error in zip(again["networks"], (0.1, 0.12), strict=True):
        each["errors"]["test_forces_rmse"] = error
    (out / "results.json").write_text(json.dumps(again))
    assert "| 4 | 2 | 110.00 ± 14.14 |" in figures.draw_all(out)
    with pytest.raises(InputError, match=r"result\.json has another dynamics; choose another --out"):
        experiment.run([0], [4], sizes, settings, config, short._replace(mass=20.0), out)
    with pytest.raises(InputError, match="--train 6: the simulation has 5 to draw from"):
        experiment.run([0], [6], sizes, settings, config, short, out)


def test_command_without_results_ends_in_a_sentence(tmp_path, run_script):
    code, printed = run_script(FOLDER / "coarse_grained.py", "--table-only", "--out", str(tmp_path))
    assert code == 2
    assert printed.startswith("error: ") and "run the experiment without --table-only" in printed


def test_moving_average():
    figures = importlib.import_module("coarse_grained_figures")
    assert_allclose(figures.moving_average(np.array([1.0, 2.0, 6.0, 0.0]), 2), [1.5, 4.0, 3.0])
    assert_allclose(figures.moving_average(np.array([1.0, 2.0]), 5), [1.5])


def test_rigidities_are_sorted_by_the_distance_of_the_nearest_bead():
    figures = importlib.import_module("coarse_grained_figures")
    failure = {"nearest": [[2.7, 2.8], [0.5, 2.7], [0.6, 1.2]], "relative": [[0.9, 1.1], [0.1, 2.0], [0.3, 4.0]]}
    lines = figures.distance_table(failure)
    assert lines[2] == "| initial configuration | 2 | 0.91 | 1.00 | 1.09 |"
    assert lines[3] == "| unstable, 0 to 1 | 2 | 0.11 | 0.20 | 0.29 |"
    assert lines[4] == "| unstable, 1 to 1.5 | 1 | 4.00 | 4.00 | 4.00 |"
    assert lines[5] == "| unstable, 1.5 to 2 | 0 | - | - | - |"


def test_contacts_are_pairs_within_reach():
    figures = importlib.import_module("coarse_grained_figures")
    positions = np.array([[0.0, 0, 0], [2.4, 0, 0], [5.0, 0, 0]])
    assert_array_equal(figures.contacts(positions), [[0, 1]])
