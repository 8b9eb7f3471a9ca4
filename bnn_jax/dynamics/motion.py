"""Replicas of one system in motion, in compiled loops whose neighbours are never out of date."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from bnn_jax.compose import Edges, Estimate, Search, predict_fn, samples_fn
from bnn_jax.devices import sample_mesh
from bnn_jax.dynamics.integrators import FEMTOSECOND, build_integrator
from bnn_jax.dynamics.settings import Settings
from bnn_jax.predict import Predictor, spread
from bnn_jax.types import Params, Prediction, PRNGKey
from bnn_jax.units import BOLTZMANN_EV_PER_KELVIN


class Replicas(NamedTuple):
    """The state of a simulation; every array has a leading axis of replicas."""

    integrator: Any
    """jax-md's state."""
    cells: Float[Array, "replica 3 3"]
    """Of the start, in Angstrom; zero without periods."""
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
    """In Angstrom."""
    estimate: Estimate
    """The posterior's, before any calibration, whatever moves the atoms."""
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
    """Plan the motion of replicas of a structure; what it needs compiles when it is first called.

    Args:
        predictor: samples of the posterior.
        structure: says which atoms there are and which directions are periodic.
        settings: of the simulation.
        search: for neighbours, with a skin.

    Raises:
        InputError: jax-md is not installed, or the ensemble does not fit the structure.
    """
    at_edges, estimate_at = samples_fn(predictor, structure), predict_fn(predictor, structure)

    def predict(positions: Array, cell: Array, edges: Edges, samples: Params | None) -> Prediction:
        return at_edges(positions, cell, search.within_cutoff(positions, cell, edges), samples)

    integrator = build_integrator(predict, structure, settings)
    has_own = settings.forces == "each"
    each = functools.partial(_over_replicas, axis_of_samples=0 if has_own else None)

    def start(rng_key: PRNGKey, positions: Array, cells: Array) -> Replicas:
        edges = jax.vmap(search.find)(positions, cells)
        numbers = np.arange(len(positions)) % predictor.num_samples
        samples = jax.tree.map(lambda leaf: leaf[numbers][:, None], predictor.samples) if has_own else None
        keys = jax.random.split(rng_key, len(positions))
        states = each(integrator.init)(keys, positions, cells, edges, samples)
        return Replicas(states, cells, edges, overflow_of((positions, cells), edges), samples)

    def places(states: Any, cells: Array) -> tuple[Array, Array]:
        return states.position, jax.vmap(integrator.cell)(states, cells)

    def overflow_of(place: tuple[Array, Array], edges: Edges) -> Array:
        return jax.vmap(search.within_cutoff)(*place, edges).overflow

    def one_step(replicas: Replicas, _: None) -> tuple[Replicas, None]:
        """Made again with new neighbours if it went where a pair may be missing."""
        old, cells, edges, overflow, samples = replicas
        step = each(integrator.step)
        new = step(old, cells, edges, samples)
        gone_to = places(new, cells)

        def again() -> tuple[Any, Edges]:
            found = jax.vmap(search.find)(*gone_to)
            return step(old, cells, found, samples), found

        stale = jnp.any(jax.vmap(search.is_stale)(*gone_to, edges))
        states, edges = jax.lax.cond(stale, again, lambda: (new, edges))
        overflow |= overflow_of(places(states, cells), edges)
        return Replicas(states, cells, edges, overflow, samples), None

    def frame(state: Any, start: Array, edges: Edges, samples: Params | None) -> Frame:
        positions, cell = state.position, integrator.cell(state, start)
        edges = search.within_cutoff(positions, cell, edges)
        estimate = estimate_at(positions, cell, edges)
        kinetic = jnp.sum(state.momentum**2 / state.mass) / 2
        return Frame(
            positions=positions,
            velocities=state.momentum / state.mass * FEMTOSECOND,
            cell=cell,
            estimate=estimate,
            potential_energy=at_edges(positions, cell, edges, samples).energy[0, 0] if has_own else estimate.energy,
            kinetic_energy=kinetic,
            kelvin=2 * kinetic / (integrator.num_free * BOLTZMANN_EV_PER_KELVIN),
        )

    def advance(replicas: Replicas, num_frames: int, stride: int) -> tuple[Replicas, Frame]:
        """Each device has its share of the replicas, and its own searches for neighbours."""

        def to_next_frame(replicas: Replicas, _: None) -> tuple[Replicas, Frame]:
            replicas, _ = jax.lax.scan(one_step, replicas, length=stride)
            framed = each(frame)(replicas.integrator, replicas.cells, replicas.edges, replicas.samples)
            return replicas, framed

        def on_one_device(replicas: Replicas) -> tuple[Replicas, Frame]:
            return jax.lax.scan(to_next_frame, replicas, length=num_frames)

        mesh, own = sample_mesh(len(replicas.overflow)), PartitionSpec("sample")
        of_frames = PartitionSpec(None, "sample")
        each_its_own = jax.shard_map(
            on_one_device, mesh=mesh, in_specs=own, out_specs=(own, of_frames), check_vma=False
        )
        return each_its_own(replicas)

    def searched(replicas: Replicas) -> Replicas:
        place = places(replicas.integrator, replicas.cells)
        edges = jax.vmap(search.find)(*place)
        return replicas._replace(edges=edges, overflow=overflow_of(place, edges))

    compiled = _quiet(jax.jit(advance, static_argnums=(1, 2)))

    def advance_spread(replicas: Replicas, num_frames: int, stride: int) -> tuple[Replicas, Frame]:
        return compiled(spread(replicas), num_frames, stride)  # wherever they were, so that it compiles once

    return Motion(_quiet(jax.jit(start)), advance_spread, jax.jit(searched))


def _over_replicas(fn: Callable, axis_of_samples: int | None) -> Callable:
    """``vmap`` of a function whose last argument is samples, which replicas may share."""
    return lambda *arguments: jax.vmap(fn, in_axes=(*[0] * (len(arguments) - 1), axis_of_samples))(*arguments)


def _quiet(fn: Callable) -> Callable:
    """Without the warning that jax-md's sums, which ask for float64, give where JAX has none."""

    @functools.wraps(fn)
    def call(*arguments: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Explicitly requested dtype float64", UserWarning)
            return fn(*arguments)

    return call
