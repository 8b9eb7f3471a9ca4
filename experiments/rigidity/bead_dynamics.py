"""Langevin dynamics of beads in a periodic cube, compiled as a whole: neighbours, network and integrator."""

from collections.abc import Callable
from typing import NamedTuple

import ase.units
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from liquid_structure import pair_distances
from tqdm import tqdm

import bnn_jax
from bnn_jax.rigidity import Network
from bnn_jax.types import AtomGraph

UNSTABLE = 2.0
"""Times the temperature of the bath: a hotter frame is taken for an instability."""
HEADROOM = 1.15
"""Room for pairs of neighbours, over those of the first frame."""


class Dynamics(NamedTuple):
    """How to integrate."""

    time_step_fs: float = 4.0
    temperature: float = 300.0
    """In K."""
    friction_per_ps: float = 5.0
    """Zero conserves the energy."""
    steps_a_frame: int = 25
    num_frames: int = 1000
    mass: float = 18.015
    """Of a bead, in u."""


class State(NamedTuple):
    """In the units of ASE: Angstrom, eV, u."""

    positions: Float[Array, "bead 3"]
    velocities: Float[Array, "bead 3"]
    forces: Float[Array, "bead 3"]
    energy: Float[Array, ""]
    step: Int[Array, ""]
    most_pairs: Int[Array, ""]
    """Pairs of neighbours that any step so far has had."""


class Trajectory(NamedTuple):
    """Frames after each ``steps_a_frame`` steps; the last one of an unstable trajectory is the first unstable."""

    positions: Float[np.ndarray, "frame bead 3"]
    energies: Float[np.ndarray, " frame"]
    """Potential energies, in eV."""
    temperatures: Float[np.ndarray, " frame"]
    """Of the kinetic energy, in K."""
    is_stable: bool


def graph_of(positions: Float[Array, "bead 3"], side: float, cutoff: float, capacity: int) -> tuple[AtomGraph, Array]:
    """The graph of beads in a cube whose half holds the cutoff, and its number of pairs of neighbours.

    Pairs beyond the capacity are left out: the caller must compare.

    Args:
        positions: in Angstrom, wrapped or not.
        side: of the cube.
        cutoff: less than half the side.
        capacity: pairs that there is room for.
    """
    num_beads = len(positions)
    first, second = np.triu_indices(num_beads, 1)
    vectors = positions[second] - positions[first]
    images = -jnp.rint(vectors / side)
    is_near = jnp.sum((vectors + side * images) ** 2, axis=1) < cutoff**2
    num_pairs = jnp.sum(is_near)
    (chosen,) = jnp.nonzero(is_near, size=capacity, fill_value=0)
    is_real = jnp.arange(capacity) < num_pairs
    # The last node and what joins it to itself are padding.
    ends = [jnp.where(is_real, jnp.asarray(end)[chosen], num_beads) for end in (second, first)]
    shifts = jnp.where(is_real[:, None], images[chosen], 0)
    count = jnp.minimum(num_pairs, capacity)
    graph = AtomGraph(
        nodes={
            "species": jnp.zeros(num_beads + 1, jnp.int32),
            "positions": jnp.concatenate([positions, jnp.zeros((1, 3), positions.dtype)]),
        },
        edges={"shifts": jnp.stack([shifts, -shifts], axis=1).reshape(-1, 3)},
        globals={"cell": jnp.stack([side * jnp.eye(3, dtype=positions.dtype), jnp.zeros((3, 3), positions.dtype)])},
        senders=jnp.stack(ends, axis=1).reshape(-1).astype(jnp.int32),
        receivers=jnp.stack(ends[::-1], axis=1).reshape(-1).astype(jnp.int32),
        n_node=jnp.array([num_beads, 1], jnp.int32),
        n_edge=jnp.array([2 * count, 2 * (capacity - count)], jnp.int32),
    )
    return graph, num_pairs


def build_energy_and_forces(network: Network, side: float, capacity: int) -> Callable:
    """``(positions) -> (energy, forces, number of pairs)`` of a network of one species.

    Raises:
        InputError: the cutoff is more than half the side, so that a bead may meet two images of another.
    """
    if 2 * network.cutoff >= side:
        raise bnn_jax.InputError(
            f"The cutoff of {network.cutoff:g} Å does not fit twice into a cube of {side:g} Å; take more beads."
        )

    def energy_and_forces(positions: Float[Array, "bead 3"]) -> tuple[Array, Array, Array]:
        graph, num_pairs = graph_of(positions, side, network.cutoff, capacity)
        prediction = network.apply(network.params, graph)
        return prediction.energy[0], prediction.forces[:-1], num_pairs

    return energy_and_forces


def build_steps(energy_and_forces: Callable, dynamics: Dynamics, num_frames: int) -> Callable:
    """Several frames in one compiled call: ``(state, key) -> (state, (positions, energies, kinetic energies))``.

    The splitting is BAOAB (Leimkuhler and Matthews 2013, doi:10.1093/amrx/abs010); without friction it is velocity
    Verlet.
    """
    time_step = dynamics.time_step_fs * ase.units.fs
    kept = float(np.exp(-dynamics.friction_per_ps * dynamics.time_step_fs / 1000))
    noise = float(np.sqrt((1 - kept**2) * ase.units.kB * dynamics.temperature / dynamics.mass))

    def step(state: State, key: Array) -> State:
        velocities = state.velocities + time_step / 2 / dynamics.mass * state.forces
        positions = state.positions + time_step / 2 * velocities
        random = jax.random.normal(jax.random.fold_in(key, state.step), positions.shape, positions.dtype)
        velocities = kept * velocities + noise * random
        positions = positions + time_step / 2 * velocities
        energy, forces, num_pairs = energy_and_forces(positions)
        velocities = velocities + time_step / 2 / dynamics.mass * forces
        most = jnp.maximum(state.most_pairs, num_pairs)
        return State(positions, velocities, forces, energy, state.step + 1, most)

    @jax.jit
    def frames(state: State, key: Array) -> tuple[State, tuple[Array, Array, Array]]:
        def frame(state: State, _: None) -> tuple[State, tuple[Array, Array, Array]]:
            state = jax.lax.fori_loop(0, dynamics.steps_a_frame, lambda _, state: step(state, key), state)
            kinetic = dynamics.mass / 2 * jnp.sum(state.velocities**2)
            return state, (state.positions, state.energy, kinetic)

        return jax.lax.scan(frame, state, None, num_frames)

    return frames


def run(
    network: Network,
    positions: Float[np.ndarray, "bead 3"],
    side: float,
    dynamics: Dynamics,
    seed: int,
    frames_a_call: int = 20,
    limit: float = UNSTABLE,
) -> Trajectory:
    """A trajectory, which ends early where it becomes unstable.

    Args:
        network: of one species.
        positions: to start from, in Angstrom.
        side: of the cube.
        dynamics: how to integrate.
        seed: of velocities and noise.
        frames_a_call: after so many frames neighbours and temperatures are looked at.
        limit: times the temperature of the bath that ends the trajectory.

    Raises:
        InputError: the cutoff is more than half the side.
    """
    key = jax.random.key(seed)
    normal = np.random.default_rng(seed).normal(size=positions.shape)
    velocities = (normal - normal.mean(axis=0)) * np.sqrt(ase.units.kB * dynamics.temperature / dynamics.mass)
    capacity = int(HEADROOM * (pair_distances(positions, side) < network.cutoff).sum()) + 1
    start = jnp.asarray(positions, jnp.float32)
    state = _started(network, start, jnp.asarray(velocities, jnp.float32), side, capacity)
    compiled = _compiled(network, side, dynamics, frames_a_call, capacity)
    found: list[tuple[np.ndarray, ...]] = []
    with tqdm(total=dynamics.num_frames, desc="dynamics", unit="frame", delay=5, disable=None) as bar:
        while (num_found := sum(len(part[0]) for part in found)) < dynamics.num_frames:
            new, part = compiled(state, key)
            if new.most_pairs > capacity:  # some were left out: once more, with more room
                capacity = int(HEADROOM * int(new.most_pairs)) + 1
                compiled = _compiled(network, side, dynamics, frames_a_call, capacity)
                continue
            state = new
            kept = min(frames_a_call, dynamics.num_frames - num_found)
            found.append(tuple(np.asarray(values)[:kept] for values in part))
            bar.update(kept)
            if first_hot(_temperatures(found[-1][2], positions), limit * dynamics.temperature) is not None:
                break
    frames, energies, kinetic = (np.concatenate(values) for values in zip(*found, strict=True))
    temperatures = _temperatures(kinetic, positions)
    first = first_hot(temperatures, limit * dynamics.temperature)
    end = None if first is None else first + 1
    return Trajectory(frames[:end], energies[:end], temperatures[:end], first is None)


def first_hot(temperatures: Float[np.ndarray, " frame"], limit: float) -> int | None:
    """The first frame that is hotter, or not finite."""
    is_hot = ~(temperatures < limit)
    return int(np.argmax(is_hot)) if is_hot.any() else None


def _temperatures(kinetic: Float[np.ndarray, " frame"], positions: np.ndarray) -> Float[np.ndarray, " frame"]:
    return kinetic / (1.5 * len(positions) * ase.units.kB)


def _started(network: Network, positions: Array, velocities: Array, side: float, capacity: int) -> State:
    zero = jnp.zeros((), jnp.int32)
    energy, forces, num_pairs = jax.jit(build_energy_and_forces(network, side, capacity))(positions)
    return State(positions, velocities, forces, energy, zero, num_pairs.astype(jnp.int32))


def _compiled(network: Network, side: float, dynamics: Dynamics, num_frames: int, capacity: int) -> Callable:
    return build_steps(build_energy_and_forces(network, side, capacity), dynamics, num_frames)
