"""The calculator gives ASE what the posterior predicts, its forces are gradients, and an MD does not recompile."""

import dataclasses
import warnings

import ase
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.stress import voigt_6_to_full_3x3_stress
from posteriors import molecular_posterior
from systems import ammonia, rattled, slab, sodium_chloride, triclinic_crystal

from bnn_jax import BNNCalculator, InputError, Posterior
from bnn_jax.calculator import UncertainForcesWarning
from bnn_jax.following import Following
from bnn_jax.predict import build_predictor


@pytest.fixture(scope="module")
def posterior():
    return molecular_posterior(ammonia())


@pytest.fixture(scope="module")
def salt_posterior():
    return molecular_posterior(sodium_chloride(), num_samples=2)


def uncompiled(posterior: Posterior) -> Posterior:
    """The same samples in a posterior that has predicted nothing yet, nor another of its configuration."""
    build_predictor.cache_clear()
    return dataclasses.replace(posterior)


def num_compiled(calculator: BNNCalculator) -> int:
    return calculator.predictor.compiled._cache_size()


def test_results_are_the_posterior_predictive(posterior):
    atoms = rattled(ammonia())
    atoms.calc = BNNCalculator(posterior)
    expected = posterior.predict(atoms)
    # The two pad differently, and so round differently in single precision.
    assert atoms.get_potential_energy() == pytest.approx(expected.energy[0], rel=1e-6)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-5)
    for name in ("energy_std", "energy_std_aleatoric", "energy_std_epistemic"):
        value = atoms.calc.get_property(name, atoms)
        assert isinstance(value, float)
        assert value == pytest.approx(getattr(expected, name)[0], rel=1e-4)
    for name in ("forces_std", "forces_std_aleatoric", "forces_std_epistemic"):
        np.testing.assert_allclose(atoms.calc.get_property(name, atoms), getattr(expected, name), rtol=1e-3, atol=1e-5)
    assert atoms.calc.results["forces_std_epistemic"].max() > 1e-3


def test_atom_energies_add_up_and_hold_the_shifts(posterior):
    atoms = rattled(ammonia())
    atoms.calc = BNNCalculator(posterior)
    energies = atoms.get_potential_energies()
    assert energies.shape == (4,)
    assert energies.sum() == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    alone = posterior.predict([ase.Atoms("N"), ase.Atoms("H")])
    np.testing.assert_allclose(alone.atom_energies, posterior.statistics.shifts[[1, 0]], atol=1e-6)
    whole = posterior.predict([rattled(ammonia(), seed=seed) for seed in range(3)])
    np.testing.assert_allclose(whole.atom_energies.reshape(3, 4).sum(axis=1), whole.energy, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_forces_and_stress_are_derivatives_of_the_energy():
    crystal = rattled(triclinic_crystal(), std=0.1)
    posterior = molecular_posterior(triclinic_crystal(), num_samples=2, dtype=jnp.float64)
    crystal.calc = BNNCalculator(posterior)
    forces, stress = crystal.get_forces(), crystal.get_stress()
    assert np.abs(forces).max() > 1e-2 and np.abs(stress).max() > 1e-4
    np.testing.assert_allclose(forces, calculate_numerical_forces(crystal, eps=1e-4), atol=1e-6)
    np.testing.assert_allclose(stress, calculate_numerical_stress(crystal, eps=1e-5), atol=1e-7)
    full = posterior.predict(crystal).stress[0]
    np.testing.assert_allclose(voigt_6_to_full_3x3_stress(stress), full, atol=1e-10)


def test_single_precision_forces_are_close_to_finite_differences(posterior):
    atoms = rattled(ammonia())
    atoms.calc = BNNCalculator(posterior)
    numerical = calculate_numerical_forces(atoms, eps=1e-2)
    np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-2 * np.abs(numerical).max())


@pytest.mark.parametrize("system", [ammonia, slab])
def test_stress_needs_a_periodic_cell_with_a_volume(system):
    atoms = system()
    atoms.calc = BNNCalculator(molecular_posterior(system()))
    if system is slab:
        assert atoms.get_stress().shape == (6,) == atoms.calc.results["stress_std_epistemic"].shape
        atoms.cell[2] = 0.0
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_nothing_is_computed_twice_for_one_structure(posterior, monkeypatch):
    atoms = ammonia()
    atoms.calc = BNNCalculator(posterior)
    calls, original = [], Following.__call__
    monkeypatch.setattr(Following, "__call__", lambda *arguments: calls.append(1) or original(*arguments))
    atoms.get_forces()
    atoms.get_potential_energy()
    atoms.calc.get_property("forces_std", atoms)
    assert len(calls) == 1
    atoms.positions[0, 0] += 0.1
    atoms.get_forces()
    assert len(calls) == 2


def test_labels_that_a_structure_carries_do_not_matter(posterior):
    atoms, bare = ammonia(), ammonia()
    atoms.info |= {"energy": 1.0, "REF_energy": 2.0}
    atoms.calc, bare.calc = BNNCalculator(posterior), BNNCalculator(posterior)
    assert atoms.get_potential_energy() == bare.get_potential_energy()


def test_a_molecule_that_drifted_far_keeps_its_digits(posterior):
    here, far = rattled(ammonia()), rattled(ammonia())
    far.positions += 5e4
    here.calc, far.calc = BNNCalculator(posterior), BNNCalculator(posterior)
    np.testing.assert_allclose(far.get_forces(), here.get_forces(), atol=1e-4)


def test_unknown_element_is_one_sentence(posterior):
    atoms = ase.Atoms("NO", positions=[[0, 0, 0], [1.2, 0, 0]])
    atoms.calc = BNNCalculator(posterior)
    with pytest.raises(InputError, match=r"holds O, which the potential does not know \(it knows H, N\)"):
        atoms.get_potential_energy()


def test_large_stds_are_named_with_their_atoms(posterior):
    atoms = rattled(ammonia())
    atoms.calc = BNNCalculator(posterior)
    atoms.get_forces()
    largest = atoms.calc.results["forces_std"].max(axis=1)
    threshold = float(np.sort(largest)[-2:].mean())  # one atom is above
    atoms.calc = BNNCalculator(posterior, forces_std_threshold=threshold)
    worst = int(np.argmax(largest))
    with pytest.warns(
        UncertainForcesWarning, match=rf"exceeds .* at atoms {worst} \({largest[worst]:.3g}\)\.$"
    ) as seen:
        warnings.filterwarnings("ignore", "Setting the shape on a NumPy array", DeprecationWarning, r"ase\.")
        atoms.get_forces()
        atoms.get_potential_energy()
    assert len(seen) == 1
    atoms.calc = BNNCalculator(posterior, forces_std_threshold=2 * float(largest.max()))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncertainForcesWarning)
        atoms.get_forces()


def test_a_std_that_is_no_number_is_large(posterior):
    calculator = BNNCalculator(posterior, forces_std_threshold=1.0)
    with pytest.warns(UncertainForcesWarning) as seen:
        calculator._warn_of_large_stds(np.array([0.5, 3.0, np.nan]))
    assert [str(each.message).endswith("exceeds 1 eV/Å at atoms 2 (nan), 1 (3).") for each in seen] == [True]


def hot_md(atoms, steps, temperature_kelvin=300.0, timestep=0.2):
    """Total energies of a short NVE trajectory."""
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature_kelvin)[:, None]
    atoms.set_momenta(spread * np.random.default_rng(1).normal(size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, timestep=timestep * units.fs)
    energies = []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(steps)
    return np.array(energies)


def test_molecular_dynamics_compiles_once_and_conserves_energy(posterior):
    atoms = rattled(ammonia())
    atoms.calc = BNNCalculator(uncompiled(posterior))
    energies = hot_md(atoms, 150)
    kinetic = 1.5 * len(atoms) * units.kB * 300.0
    assert atoms.get_kinetic_energy() > 0.0
    assert np.ptp(energies) < 0.05 * kinetic
    assert num_compiled(atoms.calc) == 1


def test_changing_neighbour_counts_of_a_crystal_do_not_recompile(salt_posterior):
    atoms = sodium_chloride()
    atoms.calc = BNNCalculator(uncompiled(salt_posterior))
    counts = set()
    for seed in range(12):
        atoms.positions = rattled(sodium_chloride(), std=0.25, seed=seed).positions
        atoms.set_cell(sodium_chloride().cell * (1 - 0.004 * seed), scale_atoms=True)
        atoms.get_forces()
        counts.add(len(ase.neighborlist.neighbor_list("i", atoms, salt_posterior.config.model.cutoff)))
    assert len(counts) > 6  # else the test shows nothing
    assert num_compiled(atoms.calc) <= 2


def test_sizes_only_grow(salt_posterior):
    atoms = sodium_chloride()
    atoms.calc = BNNCalculator(uncompiled(salt_posterior))
    atoms.get_forces()
    wide = sodium_chloride()
    wide.set_cell(wide.cell * 1.6, scale_atoms=True)
    dense = sodium_chloride()
    dense.set_cell(dense.cell * 0.8, scale_atoms=True)
    for system, compiled in ((wide, 1), (dense, 2), (atoms, 2), (wide, 2)):
        atoms.calc.get_property("forces", system)
        assert num_compiled(atoms.calc) == compiled


def test_calculators_of_one_posterior_share_what_is_compiled(posterior):
    posterior = uncompiled(posterior)
    copies = [posterior, dataclasses.replace(posterior), dataclasses.replace(posterior, seed=1)]
    calculators = [BNNCalculator(each) for each in copies]
    for calculator in calculators:
        calculator.get_property("forces", rattled(ammonia()))
    assert [num_compiled(calculator) for calculator in calculators] == [1, 1, 1]
    assert len({id(calculator.predictor.compiled) for calculator in calculators}) == 1


def test_relaxation_and_files_work_as_with_any_calculator(posterior, tmp_path):
    atoms = rattled(ammonia())
    atoms.calc = BNNCalculator(posterior)
    before = atoms.get_potential_energy()
    with BFGS(atoms, logfile=None, trajectory=str(tmp_path / "relax.traj")) as optimizer:
        optimizer.run(fmax=0.05, steps=15)
    assert atoms.get_potential_energy() < before
    assert ase.io.read(tmp_path / "relax.traj").get_potential_energy() == pytest.approx(atoms.get_potential_energy())
    ase.io.write(tmp_path / "last.xyz", atoms)
    np.testing.assert_allclose(ase.io.read(tmp_path / "last.xyz").get_forces(), atoms.get_forces(), atol=1e-7)


@pytest.mark.usefixtures("x64")
def test_samples_of_double_precision_are_used_as_such():
    posterior = molecular_posterior(ammonia(), num_samples=2, dtype=jnp.float64)
    atoms = rattled(ammonia())
    atoms.calc = BNNCalculator(posterior)
    forces = atoms.get_forces()
    assert np.abs(forces.sum(axis=0)).max() < 1e-12
    assert jax.tree.leaves(posterior.samples)[0].dtype == jnp.float64
