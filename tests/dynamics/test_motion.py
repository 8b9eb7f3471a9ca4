"""Motion under springs, whose energies, temperatures and fluctuations are known."""

import ase.build
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems
from springs import springs

from bnn_jax import InputError
from bnn_jax.compose import energy_fn, forces_fn, neighbor_fn
from bnn_jax.dynamics.integrators import FEMTOSECOND
from bnn_jax.dynamics.motion import build_motion
from bnn_jax.dynamics.settings import Settings
from bnn_jax.units import BOLTZMANN_EV_PER_KELVIN, GPA_PER_EV_PER_ANGSTROM3

WATER = systems.water()
CRYSTAL = ase.build.bulk("Ar", "fcc", a=1.6, cubic=True)  # nearest neighbours at 1.13, a cell narrower than the cutoff


def motion_of(atoms, settings, scales=(1.0, 1.0, 1.0), **options):
    predictor = springs(atoms, **options)
    motion = build_motion(predictor, atoms, settings, neighbor_fn(predictor, atoms, settings.skin, headroom=1.0))
    positions = jnp.asarray(np.stack([scale * atoms.positions for scale in scales]))
    cells = jnp.asarray(np.stack([scale * np.where(atoms.pbc.any(), atoms.cell.array, 0) for scale in scales]))
    return predictor, motion, motion.start(jax.random.key(1), positions, cells)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("atoms", "forces"), [(WATER, "each"), (CRYSTAL, "mean")], ids=["molecule", "crystal"])
def test_energy_and_what_moves_as_a_whole_are_conserved(atoms, forces):
    settings = Settings(ensemble="nve", kelvin=300.0, timestep_fs=0.1, forces=forces, skin=0.2)
    predictor, motion, replicas = motion_of(atoms, settings)
    replicas, frames = motion.advance(replicas, 20, 20)
    totals = frames.potential_energy + frames.kinetic_energy
    assert (np.ptp(totals, axis=0) < 2e-3 * np.ptp(frames.kinetic_energy, axis=0)).all()
    assert not replicas.overflow.any() and np.ptp(frames.kinetic_energy[:, 0]) > 0.01
    momenta = np.einsum("a,fraj->frj", atoms.get_masses(), frames.velocities)
    np.testing.assert_allclose(momenta, 0, atol=1e-10)
    if not atoms.pbc.any():
        arms = frames.positions - np.average(frames.positions, axis=2, weights=atoms.get_masses())[:, :, None]
        angular = np.einsum("a,fraj->frj", atoms.get_masses(), np.cross(arms, frames.velocities))
        np.testing.assert_allclose(angular, 0, atol=1e-4)  # not to rounding: a finite step turns the whole a little
    of_sample = [energy_fn(predictor, atoms, "mean" if forces == "mean" else k % 2) for k in range(3)]
    expected = [fn(frames.positions[-1, k]) for k, fn in enumerate(of_sample)]
    np.testing.assert_allclose(frames.potential_energy[-1], expected, rtol=1e-9)
    np.testing.assert_allclose(frames.estimate.energy[-1, 0], energy_fn(predictor, atoms)(frames.positions[-1, 0]))


@pytest.mark.usefixtures("x64")
def test_a_step_is_velocity_verlet_whatever_the_skin():
    settings = [Settings(ensemble="nve", kelvin=3000.0, timestep_fs=0.5, skin=skin) for skin in (1e-6, 0.1, 3.0)]
    found = []
    for each in settings:
        predictor, motion, replicas = motion_of(WATER, each, (1.0,))
        start = replicas.integrator.position[0], replicas.integrator.momentum[0]
        found.append(motion.advance(replicas, 10, 1)[1])
    for other in found[1:]:
        np.testing.assert_allclose(other.positions, found[0].positions, rtol=1e-9, atol=1e-9)
    forces, mass = forces_fn(predictor, WATER), WATER.get_masses()[:, None]
    positions, momenta = (np.asarray(each) for each in start)
    time_step = 0.5 * FEMTOSECOND
    for i in range(10):
        momenta = momenta + time_step / 2 * forces(positions)
        positions = positions + time_step * momenta / mass
        momenta = momenta + time_step / 2 * forces(positions)
        np.testing.assert_allclose(
            found[0].positions[i, 0], positions, rtol=1e-5, atol=1e-6
        )  # jax-md's step is float32


@pytest.mark.parametrize("ensemble", ["langevin", "nose-hoover"])
def test_the_temperature_and_its_fluctuation(ensemble):
    """Kinetic energies of n degrees of freedom: mean n kT / 2, variance n (kT)^2 / 2."""
    atoms = systems.ammonia()
    settings = Settings(ensemble=ensemble, kelvin=400.0, timestep_fs=0.4, friction_per_ps=100.0, thermostat_fs=20.0)
    _, motion, replicas = motion_of(atoms, settings, [1.0] * 16)
    replicas, _ = motion.advance(replicas, 20, 50)
    _, frames = motion.advance(replicas, 100, 50)
    number = 12 if ensemble == "langevin" else 6
    thermal = 400.0 * BOLTZMANN_EV_PER_KELVIN
    means = frames.kinetic_energy.mean(axis=0) / thermal
    # Replicas are independent, whatever the correlation along each.
    assert abs(means.mean() - number / 2) < 4 * means.std(ddof=1) / 4
    squares = np.var(frames.kinetic_energy / thermal - number / 2, axis=0) + (means - number / 2) ** 2
    assert abs(squares.mean() - number / 2) < 4 * squares.std(ddof=1) / 4
    assert means.std(ddof=1) / 4 < 0.15 and squares.std(ddof=1) / 4 < 0.4
    np.testing.assert_allclose(frames.kelvin, 2 * frames.kinetic_energy / (number * BOLTZMANN_EV_PER_KELVIN), rtol=1e-5)


def test_what_cannot_move_is_refused():
    atom = systems.isolated_atom()
    with pytest.raises(InputError, match="1 atoms have no motion of their own"):
        build_motion(springs(atom), atom, Settings(ensemble="nve"), neighbor_fn(springs(atom), atom))


def test_volumes_of_a_gas_without_forces_have_the_law_of_its_pressure():
    """Of N atoms whose centre of mass rests: a gamma law of shape N, in units of kT / p."""
    gas, kelvin, number = ase.build.bulk("Ar", "fcc", a=6.0, cubic=True) * (2, 2, 2), 300.0, 32
    unit = gas.get_volume() / number
    settings = Settings(
        ensemble="npt", kelvin=kelvin, timestep_fs=1.0, thermostat_fs=20.0, barostat_fs=50.0, skin=0.05,
        pressure_gpa=kelvin * BOLTZMANN_EV_PER_KELVIN / unit * GPA_PER_EV_PER_ANGSTROM3,
    )  # fmt: skip
    # From volumes of that law: atoms that never meet forget theirs slowly.
    scales = np.cbrt(np.random.default_rng(0).gamma(number, size=48) / number)
    _, motion, replicas = motion_of(gas, settings, scales, stiffness=(0.0,), cutoff=4.3)
    replicas, frames = motion.advance(replicas, 150, 20)
    assert not replicas.overflow.any()
    volumes = np.linalg.det(np.asarray(frames.cell, float)) / unit
    means, squares = volumes.mean(axis=0), ((volumes - number) ** 2).mean(axis=0)
    for found in (means, squares):
        error = found.std(ddof=1) / len(scales) ** 0.5  # replicas are independent
        assert abs(found.mean() - number) < 4 * error and error < 0.05 * number


def test_a_crystal_has_the_volume_of_its_pressure():
    """At low temperature that where minus the derivative of the energy by the volume is the pressure."""
    crystal, options = ase.build.bulk("Ar", "fcc", a=2**0.5, cubic=True), {"stiffness": (400.0,), "cutoff": 1.3}
    energy = jax.jit(energy_fn(springs(crystal, **options), crystal, headroom=1.0))
    volume, scaled = 0.97 * crystal.get_volume(), crystal.get_scaled_positions()
    high, low = (float(energy(side * scaled, side * np.eye(3))) for side in np.cbrt([volume + 0.01, volume - 0.01]))
    settings = Settings(
        ensemble="npt", kelvin=1.0, timestep_fs=0.2, thermostat_fs=10.0, barostat_fs=300.0, skin=0.3,
        pressure_gpa=(low - high) / 0.02 * GPA_PER_EV_PER_ANGSTROM3,
    )  # fmt: skip
    _, motion, replicas = motion_of(crystal, settings, (1.0, 1.0), **options)
    replicas, _ = motion.advance(replicas, 50, 100)
    replicas, frames = motion.advance(replicas, 100, 20)
    volumes = np.linalg.det(np.asarray(frames.cell, float))
    np.testing.assert_allclose(volumes.mean(axis=0), volume, rtol=3e-3)
