"""The loop around compiled chunks of steps: bounds, neighbours that overflow, files, and a run that survives a kill."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from bnn_jax.atoms.sources import Structures, load
from bnn_jax.checkpoint import load_arrays, load_tree, read_metadata, save_tree, tree_digest, write_text_atomic
from bnn_jax.compose import Estimate, neighbor_fn
from bnn_jax.dynamics.motion import Frame, Motion, Replicas, build_motion
from bnn_jax.dynamics.settings import Bounds, Settings
from bnn_jax.dynamics.trajectory import Trajectory, Watch
from bnn_jax.methods import Posterior
from bnn_jax.predict import Predictor
from bnn_jax.types import InputError, PRNGKey

STEPS_PER_CHUNK = 2_000
"""Steps between looks at the bounds and between checkpoints, at most."""
FIRST_HEADROOM = 0.25
"""Share of pairs of neighbours to keep free at first."""
MAX_HEADROOM = 10.0
"""Share of pairs to keep free beyond which atoms that are still nearer are said to collapse."""


class Place(NamedTuple):
    """Where a simulation stands after so many chunks."""

    replicas: Replicas
    num_frames: np.ndarray
    """Of each replica before it left its bounds; -1 while it has not."""


def simulate(
    posterior: Posterior | Predictor,
    start: Structures,
    settings: Settings | None = None,
    *,
    picoseconds: float,
    num_replicas: int = 1,
    bounds: Bounds | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Trajectory:
    """Molecular dynamics of replicas with the posterior's forces and, at every frame, its stds.

    Args:
        posterior: samples, or what :func:`bnn_jax.load_exported` reads.
        start: one structure or several of the same atoms in the same order, which replicas start from in turn.
        settings: ensemble, temperature, time step; Langevin at 300 K if none.
        picoseconds: of every replica, rounded up to whole frames.
        num_replicas: that move side by side; with ``forces: each`` replica k has sample k, and begins again after the
            last.
        bounds: that end a replica's trajectory; stds are the posterior's before any calibration.
        seed: of velocities and noise.
        out: folder for checkpoints and one extended XYZ file for each replica; nothing is written without one.
        resume: go on in ``out`` where an earlier call was stopped, bit for bit.
        progress: show a progress bar on a terminal.

    Returns:
        The frames; the start is not among them.

    Raises:
        InputError: jax-md is not installed, the structures, settings or bounds cannot be used, or ``out`` holds
            something else.
    """
    settings, bounds = settings or Settings(), bounds or Bounds()
    predictor = posterior.predictor
    dataset = load(start, use_labels=False)
    structures = dataset.to_atoms()
    _check_alike(structures)
    if num_replicas < 1:
        raise InputError(f"num_replicas is {num_replicas}; it must be at least 1.")
    if bounds.validated and predictor.validated is None:
        raise InputError(
            "The posterior has no validated range to stay in; fit with a validation set, or drop that bound."
        )
    schedule = _schedule(picoseconds, settings)
    described = {
        "settings": dataclasses.asdict(settings),
        "schedule": schedule._asdict(),
        "num_replicas": num_replicas,
        "bounds": dataclasses.asdict(bounds),
        "seed": seed,
        "structures": [str(each) for each in dataset.hashes()],
        "samples": tree_digest(predictor.samples),
    }
    folder = None if out is None else Folder(Path(out), described, resume)
    about = {} if folder is None else folder.about()
    runner = _Runner(predictor, structures[0], settings, about.get("headroom", FIRST_HEADROOM))
    replicas = runner.start(jax.random.key(seed), [structures[k % len(structures)] for k in range(num_replicas)])
    place, chunks = Place(replicas, np.full(num_replicas, -1)), []
    reasons = about.get("reasons", [""] * num_replicas)
    if folder is not None and about:
        place, chunks = folder.place(place), folder.chunks(about["num_chunks"])
    watch = Watch(bounds, structures[0])
    bar = tqdm(desc="md", unit="frame", delay=5, disable=None if progress else True, initial=len(chunks) *
               schedule.per_chunk, total=schedule.num_chunks * schedule.per_chunk)  # fmt: skip
    with bar:
        while len(chunks) < schedule.num_chunks and (place.num_frames < 0).any():
            replicas, frames = runner.advance(place.replicas, schedule.per_chunk, settings.stride)
            place, reasons = _judged(place, replicas, frames, watch, len(chunks) * schedule.per_chunk, reasons)
            chunks.append(frames)
            bar.update(schedule.per_chunk)
            if folder is not None:
                folder.save(len(chunks), frames, place, {"reasons": reasons, "headroom": runner.headroom})
    frames = jax.tree.map(lambda *parts: np.concatenate(parts)[: schedule.num_frames], *chunks)
    length = len(frames.kelvin)
    counts = np.minimum(np.where(place.num_frames < 0, length, place.num_frames), length)
    times = settings.timestep_fs * settings.stride * (1 + np.arange(length))
    trajectory = Trajectory(times, frames, counts, tuple(reasons))
    if folder is not None:
        trajectory.write(folder.path, structures[0])
    return trajectory


class Schedule(NamedTuple):
    """How many frames a simulation has, and how they are cut into compiled calls of one length."""

    num_frames: int
    num_chunks: int
    per_chunk: int
    """Frames; the last chunk may go beyond ``num_frames``, and what is beyond is dropped."""


def _schedule(picoseconds: float, settings: Settings) -> Schedule:
    if not 0 < picoseconds < float("inf"):
        raise InputError(f"picoseconds is {picoseconds}; it must be positive.")
    num_frames = math.ceil(1000 * picoseconds / (settings.timestep_fs * settings.stride) - 1e-9)
    num_chunks = math.ceil(num_frames / max(1, STEPS_PER_CHUNK // settings.stride))
    return Schedule(num_frames, num_chunks, math.ceil(num_frames / num_chunks))


def _check_alike(structures: Sequence[ase.Atoms]) -> None:
    first = structures[0]
    for i, atoms in enumerate(structures):
        if atoms.numbers.tolist() != first.numbers.tolist():
            raise InputError(
                f"Structure {i} has other atoms than structure 0; replicas must have the same, in one order."
            )
        if (atoms.pbc != first.pbc).any():
            raise InputError(f"Structure {i} is periodic in other directions than structure 0.")


class _Runner:
    """Motion of a system whose room for neighbours grows when it has to."""

    def __init__(self, predictor: Predictor, structure: ase.Atoms, settings: Settings, headroom: float):
        self.predictor, self.structure, self.settings = predictor, structure, settings
        self.headroom, self.motion = headroom, self._motion(headroom)

    def _motion(self, headroom: float) -> Motion:
        search = neighbor_fn(self.predictor, self.structure, self.settings.skin, headroom)
        return build_motion(self.predictor, self.structure, self.settings, search)

    def start(self, rng_key: PRNGKey, structures: Sequence[ase.Atoms]) -> Replicas:
        """Replicas at structures, with room for their neighbours.

        Raises:
            InputError: there are too many of them.
        """
        dtype = jax.tree.leaves(self.predictor.samples)[0].dtype
        positions = jnp.asarray(np.stack([atoms.positions for atoms in structures]), dtype)
        cells = jnp.asarray(np.stack([np.where(atoms.pbc.any(), atoms.cell.array, 0.0) for atoms in structures]), dtype)
        while True:
            replicas = self.motion.start(rng_key, positions, cells)
            if not replicas.overflow.any():
                return replicas
            if not self._has_grown():
                raise InputError("Atoms of the start have neighbours without end; do some lie on one another?")

    def advance(self, replicas: Replicas, num_frames: int, stride: int) -> tuple[Replicas, Frame]:
        """A chunk, made again with more room where neighbours overflowed; without end only of atoms that collapse."""
        while True:
            new, frames = self.motion.advance(replicas, num_frames, stride)
            if not new.overflow.any() or not self._has_grown():
                return new, jax.device_get(frames)
            replicas = self.motion.searched(replicas)

    def _has_grown(self) -> bool:
        if self.headroom > MAX_HEADROOM:
            return False
        self.headroom = 2 * self.headroom + 0.5
        self.motion = self._motion(self.headroom)
        return True


def _judged(
    place: Place, replicas: Replicas, frames: Frame, watch: Watch, first: int, reasons: list[str]
) -> tuple[Place, list[str]]:
    """After a chunk whose first frame has that number: who left the bounds, and replicas that can go on."""
    num_frames, reasons = place.num_frames.copy(), list(reasons)
    for k in np.flatnonzero(num_frames < 0):
        for i in range(len(frames.kelvin)):
            reason = watch(jax.tree.map(lambda values, i=i, k=k: values[i, k], frames))
            if reason:
                # The frame that is out of bounds is kept, for it is the one to look at, unless there is nothing in it.
                num_frames[k] = first + i + np.isfinite(frames.positions[i, k]).all()
                reasons[k] = f"after {first + i + 1} frames {reason}"
                break
    going_on = np.flatnonzero(num_frames < 0)
    if len(going_on):  # in the place of one that has ended moves a copy of another, which nobody looks at
        sources = np.where(num_frames < 0, np.arange(len(num_frames)), going_on[0])
        replicas = jax.tree.map(lambda values: values[sources], replicas)
    return Place(replicas, num_frames), reasons


class Folder:
    """Checkpoints of a simulation: a file of frames for each chunk, and the state after the last of them."""

    def __init__(self, path: Path, described: dict[str, Any], resume: bool):
        self.path = path
        about = path / "md.json"
        if about.exists() and not resume:
            raise InputError(f"{path} holds a simulation; go on with resume (--resume), or choose another folder.")
        if about.exists():
            found = json.loads(about.read_text())
            if different := sorted(key for key in described if found.get(key) != described[key]):
                raise InputError(
                    f"The simulation in {path} has other {', '.join(different)}; give the same or another folder."
                )
            return
        if path.exists() and any(path.iterdir()):
            raise InputError(f"{path} is not empty and holds no simulation; choose another folder.")
        path.mkdir(parents=True, exist_ok=True)
        write_text_atomic(about, json.dumps(described, indent=1))

    @property
    def _state(self) -> Path:
        return self.path / "state.safetensors"

    def _chunk(self, number: int) -> Path:
        return self.path / f"frames-{number:05d}.safetensors"

    def about(self) -> dict[str, Any]:
        """How far it is: ``num_chunks``, ``headroom``, ``reasons``; nothing yet without a state."""
        return json.loads(read_metadata(self._state)["about"]) if self._state.exists() else {}

    def chunks(self, number: int) -> list[Frame]:
        """The frames so far."""
        return [_frame_of(load_arrays(self._chunk(i))) for i in range(1, number + 1)]

    def place(self, like: Place) -> Place:
        """Where it stands."""
        return load_tree(self._state, like)

    def save(self, number: int, frames: Frame, place: Place, about: dict[str, Any]) -> None:
        """The frames of a chunk, then the state after it: a kill in between repeats the chunk."""
        save_tree(self._chunk(number), frames)
        save_tree(self._state, place, {"about": json.dumps(about | {"num_chunks": number})})


def _frame_of(arrays: dict[str, np.ndarray]) -> Frame:
    """What :func:`bnn_jax.checkpoint.save_tree` wrote of a frame; None is what it wrote nothing of."""
    estimate: dict[str, Any] = {name: arrays.get(f".estimate.{name}") for name in Estimate._fields}
    fields: dict[str, Any] = {name: arrays[f".{name}"] for name in Frame._fields if name != "estimate"}
    return Frame(**fields, estimate=Estimate(**estimate))
