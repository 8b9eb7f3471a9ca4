"""Replicas of one system in motion: jax-md's integrators under ``vmap``, with neighbours that are never out of date.

Lengths are in Angstrom, masses in atomic mass units, energies in eV, times in ``FEMTOSECOND``.

Of jax-md the integrators are taken. Its neighbour lists are not, for they know nearest images only; nor is its count of
degrees of freedom, 3N, where the centre of mass rests (and, without a cell, nothing rotates): ammonia would be a
third too hot under its Nose-Hoover chain.
"""

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bnn_jax.compose import Edges, Estimate, Search
from bnn_jax.compose.functions import moments, samples_fn
from bnn_jax.dynamics.settings import Settings
from bnn_jax.predict import Predictor
from bnn_jax.types import InputError, Params, PRNGKey
from bnn_jax.units import BOLTZMANN_EV_PER_KELVIN, GPA_PER_EV_PER_ANGSTROM3

FEMTOSECOND = 0.09822694788464063
"""In units of Angstrom (amu / eV)^(1/2)."""


class Replicas(NamedTuple):
    """The state of a simulation; every array has a leading axis of replicas."""

    integrator: Any
    """jax-md's state."""
    edges: Edges
    overflow: Bool[Array, " replica"]
    """Whether edges ever overflowed, after which nothing is right."""
    samples: Params | None
    """Where each replica has a sample of its own, its parameters."""


class Frame(NamedTuple):
    """What is recorded of each replica."""

    positions: Float[Array, "atom 3"]
    """In Angstrom; not wrapped into the cell."""
    velocities: Float[Array, "atom 3"]
    """In Angstrom / fs."""
    cell: Float[Array, "3 3"]
    estimate: Estimate
    """The posterior's, whatever moves the atoms."""
    potential_energy: Float[Array, ""]
    """That of the forces in use, above the atomic shifts, in eV."""
    kinetic_energy: Float[Array, ""]
    """In eV."""
    kelvin: Float[Array, ""]
    """Kinetic temperature, by the degrees of freedom that move."""


class Motion(NamedTuple):
    """A system that can move."""

    start: Callable[[PRNGKey, Array, Array], Replicas]
    """``start(rng_key, positions, cells) -> replicas`` with velocities of the temperature."""
    advance: Callable[[Replicas, int, int], tuple[Replicas, Frame]]
    """``advance(replicas, num_frames, stride)``: frames with leading axes [frame, replica], one every so many steps;
    both numbers are static."""
    searched: Callable[[Replicas], Replicas]
    """``searched(replicas)``: with neighbours found again, by another search than earlier ones perhaps."""


def build_motion(predictor: Predictor, structure: ase.Atoms, settings: Settings, search: Search) -> Motion:
    """Compile nothing yet, but plan the motion of replicas of a structure.

    Args:
        predictor: samples of the posterior.
        structure: says which atoms there are and which directions are periodic.
        settings: of the simulation.
        search: for neighbours, with a skin.

    Raises:
        InputError: jax-md is not installed, or the ensemble does not fit the structure.
    """
    jax_md = _jax_md()
    masses = np.asarray(structure.get_masses())
    predict = samples_fn(predictor, structure)
    has_own = settings.forces == "each"
    num_free = _degrees_of_freedom(structure, settings)
    own_cell = jnp.asarray(np.where(structure.pbc.any(), structure.cell.array, 0.0))
    is_npt = settings.ensemble == "npt"

    def energy_of(positions: Array, cell: Array, edges: Edges, samples: Params | None) -> Array:
        return predict(positions, cell, edges, samples).energy.mean(axis=0)[0]

    def forces(position: Array, *, cell: Array, edges: Edges, samples: Params | None, **_: Any) -> Array:
        return predict(position, cell, edges, samples).forces.mean(axis=0)

    def energy(position: Array, *, box: Array, edges: Edges, samples: Params | None, perturbation: Any = 1.0, **_: Any):
        cell = perturbation * box.T
        return energy_of(perturbation * jax_md.space.transform(box, position), cell, edges, samples)

    init, step = _integrator(jax_md, settings, forces, energy, own_cell)

    def cartesian(state: Any) -> tuple[Array, Array]:
        if not is_npt:
            return state.position, own_cell.astype(state.position.dtype)
        box = jax_md.simulate.npt_box(state)
        return jax_md.space.raw_transform(box, state.position), box.T

    def begin(rng_key: PRNGKey, positions: Array, cell: Array, edges: Edges, samples: Params | None) -> Any:
        mass = jnp.asarray(masses, positions.dtype)
        momenta = _momenta(rng_key, positions, mass, settings, bool(structure.pbc.any()))
        place = positions @ jnp.linalg.inv(cell) if is_npt else positions
        extra = {"box": cell.T} if is_npt else {"cell": cell}
        state = init(rng_key, place, mass=mass, momenta=momenta, edges=edges, samples=samples, **extra)
        for name in ("chain", "thermostat"):
            if hasattr(state, name):
                chain = getattr(state, name).set(degrees_of_freedom=num_free)
                state = state.set(**{name: chain})
        return state

    def one_step(state: Any, edges: Edges, samples: Params | None) -> Any:
        extra = {} if is_npt else {"cell": cartesian(state)[1]}
        return step(state, edges=edges, samples=samples, **extra)

    every = jax.vmap(one_step, in_axes=(0, 0, 0 if has_own else None))

    def start(rng_key: PRNGKey, positions: Array, cells: Array) -> Replicas:
        positions, cells = jnp.asarray(positions), jnp.asarray(cells)
        edges = jax.vmap(search.find)(positions, cells)
        samples = None
        if has_own:
            numbers = np.arange(len(positions)) % predictor.num_samples
            samples = jax.tree.map(lambda leaf: leaf[numbers][:, None], predictor.samples)
        keys = jax.random.split(rng_key, len(positions))
        axes = (0, 0, 0, 0, 0 if has_own else None)
        states = jax.vmap(begin, in_axes=axes)(keys, positions, cells, edges, samples)
        return Replicas(states, edges, edges.overflow, samples)

    def advanced(replicas: Replicas, _: None) -> tuple[Replicas, None]:
        """One step; made again with new neighbours if it went where a pair may be missing."""
        new = every(replicas.integrator, replicas.edges, replicas.samples)
        places = jax.vmap(cartesian)(new)

        def again() -> tuple[Any, Edges]:
            edges = jax.vmap(search.find)(*places)
            return every(replicas.integrator, edges, replicas.samples), edges

        stale = jnp.any(jax.vmap(search.is_stale)(*places, replicas.edges))
        state, edges = jax.lax.cond(stale, again, lambda: (new, replicas.edges))
        return Replicas(state, edges, replicas.overflow | edges.overflow, replicas.samples), None

    def frame(state: Any, edges: Edges, samples: Params | None) -> Frame:
        positions, cell = cartesian(state)
        prediction = predict(positions, cell, edges)
        estimate = moments(prediction, *(label in predictor.statistics.labels for label in ("energy", "forces")))
        kinetic = jnp.sum(state.momentum**2 / state.mass) / 2
        return Frame(
            positions=positions,
            velocities=state.momentum / state.mass * FEMTOSECOND,
            cell=cell,
            estimate=estimate,
            potential_energy=estimate.energy if samples is None else energy_of(positions, cell, edges, samples),
            kinetic_energy=kinetic,
            kelvin=2 * kinetic / (num_free * BOLTZMANN_EV_PER_KELVIN),
        )

    def advance(replicas: Replicas, num_frames: int, stride: int) -> tuple[Replicas, Frame]:
        def to_next_frame(replicas: Replicas, _: None) -> tuple[Replicas, Frame]:
            replicas, _ = jax.lax.scan(advanced, replicas, length=stride)
            framed = jax.vmap(frame, in_axes=(0, 0, 0 if has_own else None))
            return replicas, framed(replicas.integrator, replicas.edges, replicas.samples)

        return jax.lax.scan(to_next_frame, replicas, length=num_frames)

    def searched(replicas: Replicas) -> Replicas:
        edges = jax.vmap(search.find)(*jax.vmap(cartesian)(replicas.integrator))
        return replicas._replace(edges=edges, overflow=edges.overflow)

    return Motion(_quiet(jax.jit(start)), _quiet(jax.jit(advance, static_argnums=(1, 2))), jax.jit(searched))


def _quiet(fn: Callable) -> Callable:
    """Without the warning that jax-md's sums, which ask for float64, give where JAX has none."""

    @functools.wraps(fn)
    def call(*arguments: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Explicitly requested dtype float64", UserWarning)
            return fn(*arguments)

    return call


def _jax_md() -> Any:
    try:
        importlib.import_module("jax_md.simulate")
    except ImportError as error:
        raise InputError("Molecular dynamics needs jax-md; pip install 'bnn_jax[md]'.") from error
    return importlib.import_module("jax_md")


def _integrator(
    jax_md: Any, settings: Settings, forces: Callable, energy: Callable, own_cell: Array
) -> tuple[Callable, Callable]:
    """jax-md's two functions of the ensemble."""
    simulate, thermal = jax_md.simulate, settings.kelvin * BOLTZMANN_EV_PER_KELVIN
    timestep = settings.timestep_fs * FEMTOSECOND
    _, shift = jax_md.space.free()
    if settings.ensemble == "nve":
        init, step = simulate.nve(forces, shift, timestep)
        return lambda key, place, **rest: init(key, place, thermal, **rest), step
    if settings.ensemble == "langevin":
        friction = settings.friction_per_ps / (1000 * FEMTOSECOND)
        return simulate.nvt_langevin(forces, shift, timestep, thermal, friction)
    tau = settings.thermostat_fs * FEMTOSECOND
    if settings.ensemble == "nose-hoover":
        return simulate.nvt_nose_hoover(forces, shift, timestep, thermal, tau=tau)
    _, shift = jax_md.space.periodic_general(own_cell.T, fractional_coordinates=True, wrapped=False)
    return simulate.npt_nose_hoover(
        energy,
        shift,
        timestep,
        settings.pressure_gpa / GPA_PER_EV_PER_ANGSTROM3,
        thermal,
        barostat_kwargs={"tau": settings.barostat_fs * FEMTOSECOND},
        thermostat_kwargs={"tau": tau},
    )


def _rests(structure: ase.Atoms, settings: Settings) -> tuple[bool, bool]:
    """Whether the centre of mass rests, and whether the whole does not rotate."""
    rests = settings.ensemble != "langevin"  # whose noise moves everything
    return rests, rests and not structure.pbc.any()


def _degrees_of_freedom(structure: ase.Atoms, settings: Settings) -> int:
    rests, is_still = _rests(structure, settings)
    positions = structure.positions - structure.get_center_of_mass()
    rotations = np.linalg.matrix_rank(np.cross(np.eye(3)[:, None], positions).reshape(3, -1), tol=1e-3)
    number = 3 * len(structure) - 3 * rests - int(rotations) * is_still
    if number < 1:
        raise InputError(f"{len(structure)} atoms have no motion of their own; take langevin, or more atoms.")
    return number


def _momenta(
    rng_key: PRNGKey, positions: Float[Array, "atom 3"], mass: Float[Array, " atom"], settings: Settings, has_cell: bool
) -> Float[Array, "atom 3"]:
    """Of the temperature; without those of the whole where these would be conserved."""
    thermal = settings.kelvin * BOLTZMANN_EV_PER_KELVIN
    noise = jax.random.normal(jax.random.fold_in(rng_key, 1), positions.shape, positions.dtype)
    momenta = jnp.sqrt(mass * thermal)[:, None] * noise
    if settings.ensemble == "langevin":
        return momenta
    momenta -= mass[:, None] * momenta.sum(axis=0) / mass.sum()
    if has_cell:
        return momenta
    # What rotates: the angular velocity that the angular momentum has under the inertia of the whole.
    arms = positions - mass @ positions / mass.sum()
    inertia = jnp.einsum(
        "a,aij->ij", mass, jnp.sum(arms**2, axis=-1)[:, None, None] * jnp.eye(3) - arms[:, :, None] * arms[:, None, :]
    )
    angular = jnp.sum(jnp.cross(arms, momenta), axis=0)
    return momenta - mass[:, None] * jnp.cross(jnp.linalg.pinv(inertia, rtol=1e-4) @ angular, arms)
