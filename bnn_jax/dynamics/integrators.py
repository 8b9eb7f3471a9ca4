"""jax-md's integrators for one replica, with velocities of the temperature and degrees of freedom that are counted.

Lengths are in Angstrom, masses in atomic mass units, energies in eV, times in ``FEMTOSECOND``.

Of jax-md the integrators are taken. Its neighbour lists are not, for they know nearest images only; nor is its count of
degrees of freedom, 3N, where the centre of mass rests (and, without a cell, nothing rotates): ammonia would be a
third too hot under its Nose-Hoover chain. Positions are Cartesian at constant pressure too, for with fractional ones
jax-md adds the stretch of the cell (Tuckerman et al. 2006, eq. 3.14) to coordinates that have it already.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bnn_jax.compose import Edges, SystemFn
from bnn_jax.dynamics.settings import Settings
from bnn_jax.types import InputError, Params, PRNGKey
from bnn_jax.units import BOLTZMANN_EV_PER_KELVIN, GPA_PER_EV_PER_ANGSTROM3

FEMTOSECOND = 0.09822694788464063
"""In units of Angstrom (amu / eV)^(1/2)."""
_THERMOSTATS = {"nose-hoover": "chain", "npt": "thermostat"}
"""Where jax-md's states keep the chain that counts degrees of freedom."""


class Integrator(NamedTuple):
    """Of one replica; samples are those of :func:`bnn_jax.compose.samples_fn`."""

    init: Callable[[PRNGKey, Array, Array, Edges, Params | None], Any]
    """``init(rng_key, positions, cell, edges, samples) -> state`` of jax-md."""
    step: Callable[[Any, Array, Edges, Params | None], Any]
    """``step(state, cell, edges, samples) -> state``; the cell is that of the start."""
    cell: Callable[[Any, Array], Array]
    """``cell(state, start) -> cell``: the present one, given that of the start."""
    num_free: int
    """Degrees of freedom that move."""


class Whole(NamedTuple):
    """What the atoms do as a whole."""

    rests: bool
    """The centre of mass does not move."""
    is_still: bool
    """Nor does the whole rotate."""


def build_integrator(predict: SystemFn, structure: ase.Atoms, settings: Settings) -> Integrator:
    """The integrator of an ensemble, moved by the mean over samples.

    Args:
        predict: from :func:`bnn_jax.compose.samples_fn`.
        structure: says which atoms there are and which directions are periodic.
        settings: of the simulation.

    Raises:
        InputError: jax-md is not installed, or the atoms have no motion of their own.
    """
    begin, step = _of_jax_md(predict, settings)
    rests = settings.ensemble != "langevin"  # whose noise moves everything
    whole = Whole(rests, rests and not structure.pbc.any())
    num_free, masses = _degrees_of_freedom(structure, whole), structure.get_masses()
    is_npt, thermostat = settings.ensemble == "npt", _THERMOSTATS.get(settings.ensemble)

    def init(rng_key: PRNGKey, positions: Array, cell: Array, edges: Edges, samples: Params | None) -> Any:
        mass = jnp.asarray(masses, positions.dtype)
        given = {
            "mass": mass,
            "momenta": _momenta(jax.random.fold_in(rng_key, 1), positions, mass, settings.kelvin, whole),
            "edges": edges,
            "samples": samples,
        }
        state = begin(rng_key, positions, **given, **({"box": cell.T} if is_npt else {"cell": cell}))
        if thermostat is None:
            return state
        return state.set(**{thermostat: getattr(state, thermostat).set(degrees_of_freedom=num_free)})

    def one_step(state: Any, cell: Array, edges: Edges, samples: Params | None) -> Any:
        return step(state, edges=edges, samples=samples, **({} if is_npt else {"cell": cell}))

    def cell_of(state: Any, start: Array) -> Array:
        return _jax_md("simulate").npt_box(state).T if is_npt else start

    return Integrator(init, one_step, cell_of, num_free)


def _jax_md(module: str) -> Any:
    try:
        return importlib.import_module(f"jax_md.{module}")
    except ImportError as error:
        raise InputError("Molecular dynamics needs jax-md; pip install 'bnn_jax[md]'.") from error


def _of_jax_md(predict: SystemFn, settings: Settings) -> tuple[Callable, Callable]:
    """Its two functions of the ensemble."""
    simulate, (_, shift) = _jax_md("simulate"), _jax_md("space").free()
    thermal, timestep = settings.kelvin * BOLTZMANN_EV_PER_KELVIN, settings.timestep_fs * FEMTOSECOND
    tau = settings.thermostat_fs * FEMTOSECOND

    def forces(position: Array, *, cell: Array, edges: Edges, samples: Params | None, **_: Any) -> Array:
        return predict(position, cell, edges, samples).forces.mean(axis=0)

    def energy(
        position: Array, *, box: Array, edges: Edges, samples: Params | None, perturbation=1.0, **_: Any
    ) -> Array:
        return predict(perturbation * position, perturbation * box.T, edges, samples).energy.mean(axis=0)[0]

    if settings.ensemble == "nve":
        init, step = simulate.nve(forces, shift, timestep)
        return lambda key, place, **rest: init(key, place, thermal, **rest), step
    if settings.ensemble == "langevin":
        friction = settings.friction_per_ps / (1000 * FEMTOSECOND)
        return simulate.nvt_langevin(forces, shift, timestep, thermal, friction)
    if settings.ensemble == "nose-hoover":
        return simulate.nvt_nose_hoover(forces, shift, timestep, thermal, tau=tau)
    barostat = {"tau": settings.barostat_fs * FEMTOSECOND}
    pressure = settings.pressure_gpa / GPA_PER_EV_PER_ANGSTROM3
    return simulate.npt_nose_hoover(energy, shift, timestep, pressure, thermal, barostat, {"tau": tau})


def _degrees_of_freedom(structure: ase.Atoms, whole: Whole) -> int:
    positions = structure.positions - structure.get_center_of_mass()
    rotations = np.linalg.matrix_rank(np.cross(np.eye(3)[:, None], positions).reshape(3, -1), tol=1e-3)
    number = 3 * len(structure) - 3 * whole.rests - int(rotations) * whole.is_still
    if number < 1:
        raise InputError(f"{len(structure)} atoms have no motion of their own; take langevin, or more atoms.")
    return number


def _momenta(
    rng_key: PRNGKey, positions: Float[Array, "atom 3"], mass: Float[Array, " atom"], kelvin: float, whole: Whole
) -> Float[Array, "atom 3"]:
    """Of the temperature, less those of the whole where it rests."""
    noise = jax.random.normal(rng_key, positions.shape, positions.dtype)
    momenta = jnp.sqrt(mass * kelvin * BOLTZMANN_EV_PER_KELVIN)[:, None] * noise
    if whole.rests:
        momenta -= mass[:, None] * momenta.sum(axis=0) / mass.sum()
    if not whole.is_still:
        return momenta
    arms = positions - mass @ positions / mass.sum()
    squares = jnp.sum(arms**2, axis=-1)[:, None, None] * jnp.eye(3) - arms[:, :, None] * arms[:, None, :]
    inertia, angular = jnp.einsum("a,aij->ij", mass, squares), jnp.sum(jnp.cross(arms, momenta), axis=0)
    velocity = jnp.linalg.pinv(inertia, rtol=1e-4) @ angular  # atoms on a line do not turn about it
    return momenta - mass[:, None] * jnp.cross(velocity, arms)
