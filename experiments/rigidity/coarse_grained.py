"""Prediction rigidities of coarse-grained water, after figures 8 and 9 of Chong et al., Faraday Discuss. (2024).

From the repository's root::

    python experiments/rigidity/coarse_grained.py

A killed run continues when it is started again; what is finished is not computed twice. Several processes may share
--out if each has --seeds of its own and the reference simulation is finished.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# XLA runs the small arrays of one network on one core.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")

import all_atom
import ase.units
import bead_dynamics
import coarse_grained_figures as figures
import numpy as np
from bead_rigidity import force_rigidity
from liquid_structure import nearest_distances, order_distribution, pair_correlation, pair_distances
from pieces import environment, run_command, stored

import bnn_jax
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.rigidity import RigidityModel

CONFIG = {
    # Energies have no labels; the mean of a normal likelihood of forces is the mean force that is sought.
    "method": "mean_variance",
    "model": {
        "cutoff": 6.0,
        "num_blocks": 2,
        "num_features": 16,
        "l_max": 1,
        "parity": False,
        "radial_hidden": [16],
        "std_hidden": [16],
    },
    "trainer": {"batch_size": 2, "num_steps": 2000, "log_every": 200, "patience": 5},
}
ZETA = 1e-3
"""Of the Hessian, relative. It decides little: of a network trained on two configurations the relative rigidity of the
trajectory is 0.9962 from 1e-6 to 1e-2."""
FIRST_SHELL = 3.5
"""In Angstrom: neighbours of the order parameter, up to the first minimum of the oxygens' g(r)."""
DISCARDED_PS = 8.0
"""Of each trajectory, before g(r) and the order parameters."""
R_BINS, ORDER_BINS = 100, 60
ORDER_EDGES = np.linspace(*figures.ORDER_RANGE, ORDER_BINS + 1)
CONSERVATION = bead_dynamics.Dynamics(friction_per_ps=0.0, steps_a_frame=5, num_frames=400)
PROVOCATION = bead_dynamics.Dynamics(steps_a_frame=1, num_frames=2000)
PROVOCATION_LIMIT = 8.0
"""Times the temperature of the bath: by then beads have met that never meet in the data."""
PROVOKING_TIME_STEPS_FS = (8.0, 16.0, 20.0, 24.0, 28.0, 32.0, 40.0, 48.0)


class Sizes(NamedTuple):
    """Of the parts of the reference simulation, in time order: training, validation, test."""

    train: int = 4000
    """Configurations to draw training sets from."""
    valid: int = 300
    test: int = 500

    @property
    def total(self) -> int:
        """Frames that the reference simulation needs."""
        return sum(self)


class Reference(NamedTuple):
    """The all-atom simulation, cut into parts."""

    beads: all_atom.Beads
    sizes: Sizes

    def part(self, name: str) -> bnn_jax.Dataset:
        """``train``, ``valid`` or ``test``."""
        first = sum(self.sizes[: self.sizes._fields.index(name)])
        frames = slice(first, first + getattr(self.sizes, name))
        return all_atom.as_dataset(self.beads.positions[frames], self.beads.forces[frames], self.beads.side)


def draw(pool: bnn_jax.Dataset, num_train: int, seed: int) -> bnn_jax.Dataset:
    """A training set at random; with one seed the larger ones contain the smaller."""
    return pool.take(np.random.default_rng(seed).permutation(len(pool))[:num_train])


def structure(frames: np.ndarray, side: float) -> dict[str, list[float]]:
    """g(r) and the distribution of the order parameter."""
    edges = np.linspace(0, side / 2, R_BINS + 1)
    return {
        "pair_correlation": pair_correlation(frames, side, edges).tolist(),
        "order": order_distribution(frames, side, FIRST_SHELL, ORDER_EDGES).tolist(),
    }


def reference_structure(reference: Reference, num_frames: int, path: Path) -> dict[str, Any]:
    """g(r) and order parameters of the reference, and of a tenth of it, as a measure of what chance does.

    Args:
        reference: the simulation.
        num_frames: of the trajectories that will be compared to it.
        path: of the stored answer.
    """
    if path.exists():
        return json.loads(path.read_text())
    positions, side = reference.beads.positions.astype(np.float64), reference.beads.side
    # Blocks as long as a trajectory: how far a perfect model would be from the whole.
    length = min(num_frames, len(positions) // 2)
    blocks = [positions[i : i + length] for i in range(0, len(positions) - length + 1, length)][:4]
    found = {
        "side": side,
        "all": structure(positions, side),
        "blocks": [structure(block, side) for block in blocks],
        "forces_rms": float(np.sqrt(np.mean(np.square(reference.beads.forces)))),
        "closest": float(min(pair_distances(frame, side).min() for frame in positions)),
    }
    write_text_atomic(path, json.dumps(found))
    return found


def run_network(
    num_train: int,
    seed: int,
    reference: Reference,
    config: bnn_jax.Config,
    dynamics: bead_dynamics.Dynamics,
    out: Path,
) -> dict[str, Any]:
    """Train a network, run dynamics with it and judge both; what is stored is read.

    Args:
        num_train: configurations to train on.
        seed: of the training set, the network and the dynamics.
        reference: where they come from.
        config: of the network.
        dynamics: to run.
        out: folder of the experiment.

    Raises:
        InputError: the folder holds another run.
    """
    folder = folder_of(out, num_train, seed)
    known = {
        "num_train": num_train,
        "seed": seed,
        "config": config.to_dict(),
        "dynamics": dynamics._asdict(),
        "sizes": reference.sizes._asdict(),
        "zeta": ZETA,
    }
    path = folder / "result.json"
    if (found := stored(path, known)) is not None:
        return found
    print(f"{num_train} configurations, seed {seed}", flush=True)
    train = draw(reference.part("train"), num_train, seed)
    posterior, fit_seconds = timed(
        bnn_jax.fit, train, reference.part("valid"), config, seed, folder / "fit", resume=True
    )
    kept = folder / "trajectory.npz"
    trajectory, dynamics_seconds = timed(stored_trajectory, kept, posterior, reference, dynamics, seed)
    rigidity, rigidity_seconds = timed(force_rigidity, posterior.network(), train, ZETA)
    found = known | {
        "seconds": {"fit": fit_seconds, "dynamics": dynamics_seconds, "rigidity": rigidity_seconds},
        "environment": environment(),
        "errors": errors(posterior, reference),
        "rigidity": rigidities(rigidity, reference, trajectory),
        "trajectory": describe(trajectory, reference.beads.side, dynamics),
        "conservation": conservation(posterior, trajectory, reference.beads.side, seed),
    }
    write_text_atomic(path, json.dumps(found))
    return found


def folder_of(out: Path, num_train: int, seed: int) -> Path:
    """Of one network."""
    return out / f"train-{num_train}-seed-{seed}"


def timed(function: Any, *arguments: Any, **options: Any) -> tuple[Any, float]:
    """A result and the seconds that it took."""
    start = time.perf_counter()
    return function(*arguments, **options), time.perf_counter() - start


def errors(posterior: bnn_jax.Posterior, reference: Reference) -> dict[str, float]:
    """Root mean square errors of force components, in eV/Angstrom, and of zero for comparison."""
    found = {}
    for name in ("valid", "test"):
        part = reference.part(name)
        found[f"{name}_forces_rmse"] = float(np.sqrt(np.mean((posterior.predict(part).forces - part.forces) ** 2)))
    return found | {"test_forces_rms": float(np.sqrt(np.mean(reference.part("test").forces ** 2)))}


def stored_trajectory(
    path: Path, posterior: bnn_jax.Posterior, reference: Reference, dynamics: bead_dynamics.Dynamics, seed: int
) -> bead_dynamics.Trajectory:
    """The trajectory from the first test configuration, computed unless it is stored.

    Raises:
        InputError: another one is stored.
    """
    settings = json.dumps(dynamics._asdict() | {"seed": seed})
    if not path.exists():
        start = reference.beads.positions[-reference.sizes.test].astype(np.float64)
        found = bead_dynamics.run(posterior.network(), start, reference.beads.side, dynamics, seed)
        all_atom.save_arrays(path, found._asdict() | {"settings": settings})
    with np.load(path) as arrays:
        if arrays["settings"] != settings:
            raise bnn_jax.InputError(f"{path} holds another trajectory; choose another --out.")
        return bead_dynamics.Trajectory(**{name: arrays[name] for name in bead_dynamics.Trajectory._fields})


def finite(positions: np.ndarray) -> np.ndarray:
    """Frames without NaN, which the last of an unstable trajectory may have."""
    return positions[np.isfinite(positions).all(axis=(1, 2))]


def rigidities(rigidity: RigidityModel, reference: Reference, trajectory: bead_dynamics.Trajectory) -> dict[str, Any]:
    """Of the energy a bead, of the test set and relative to it along a trajectory."""
    test = rigidity.energies(reference.part("test"), per_atom=True)
    frames = all_atom.as_dataset(finite(trajectory.positions), None, reference.beads.side)
    along = rigidity.energies(frames, per_atom=True)
    return {
        "zeta": rigidity.zeta,
        "test_mean": float(test.mean()),
        "test_relative": (test / test.mean()).tolist(),
        "relative": (along / test.mean()).tolist(),
    }


def describe(trajectory: bead_dynamics.Trajectory, side: float, dynamics: bead_dynamics.Dynamics) -> dict[str, Any]:
    """Stability, temperature and structure."""
    frames = finite(trajectory.positions).astype(np.float64)
    discarded = min(round(DISCARDED_PS * 1000 / dynamics.steps_a_frame / dynamics.time_step_fs), len(frames) // 2)
    return {
        "is_stable": bool(trajectory.is_stable),
        "num_frames": len(frames),
        "temperature": float(trajectory.temperatures[discarded:].mean()),
        "closest": float(min(pair_distances(frame, side).min() for frame in frames)),
        **structure(frames[discarded:], side),
    }


def conservation(
    posterior: bnn_jax.Posterior, trajectory: bead_dynamics.Trajectory, side: float, seed: int
) -> dict[str, float]:
    """How well a short trajectory without a bath conserves the energy."""
    frame = finite(trajectory.positions)[-1 if trajectory.is_stable else 0]
    found = bead_dynamics.run(posterior.network(), frame.astype(np.float64), side, CONSERVATION, seed)
    kinetic = found.temperatures * 1.5 * len(frame) * ase.units.kB
    total = found.energies + kinetic
    picoseconds = np.arange(len(total)) * CONSERVATION.steps_a_frame * CONSERVATION.time_step_fs / 1000
    return {
        "picoseconds": float(len(total) * CONSERVATION.steps_a_frame * CONSERVATION.time_step_fs / 1000),
        "drift_mev_per_bead_per_ps": float(1000 * np.polyfit(picoseconds, total, 1)[0] / len(frame)),
        "total_std_over_kinetic_std": float(total.std() / kinetic.std()),
    }


def failure(num_train: int, seed: int, reference: Reference, found: dict[str, Any], out: Path) -> dict[str, Any]:
    """Figure 9: rigidities of beads in the first frame of one network's trajectory, and in the unstable ones.

    A stable trajectory is repeated with longer and longer time steps until one is unstable, which is followed up to
    :data:`PROVOCATION_LIMIT`.

    Args:
        num_train: of the network.
        seed: of the network.
        reference: the simulation.
        found: what :func:`run_network` did.
        out: folder of the experiment.
    """
    path = out / "failure.json"
    if path.exists():
        answer = json.loads(path.read_text())
        if (answer["num_train"], answer["seed"]) == (num_train, seed):
            return answer
    folder = folder_of(out, num_train, seed)
    posterior = bnn_jax.Posterior.load(folder / "fit")
    dynamics = bead_dynamics.Dynamics(**found["dynamics"])
    trajectory = stored_trajectory(folder / "trajectory.npz", posterior, reference, dynamics, seed)
    side, attempts = reference.beads.side, []
    start = reference.beads.positions[-reference.sizes.test].astype(np.float64)
    if trajectory.is_stable:
        for time_step in PROVOKING_TIME_STEPS_FS:
            dynamics = PROVOCATION._replace(time_step_fs=time_step)
            trajectory = bead_dynamics.run(posterior.network(), start, side, dynamics, seed, 200, PROVOCATION_LIMIT)
            attempts.append({"time_step_fs": time_step, "is_stable": bool(trajectory.is_stable)})
            if not trajectory.is_stable:
                break
    frames = finite(trajectory.positions).astype(np.float64)
    hot = bead_dynamics.first_hot(trajectory.temperatures, bead_dynamics.UNSTABLE * dynamics.temperature)
    shown = np.concatenate([start[None], frames[-1:] if hot is None else frames[min(hot, len(frames) - 1) :]])
    rigidity = force_rigidity(posterior.network(), draw(reference.part("train"), num_train, seed), ZETA)
    beads = rigidity.atoms(all_atom.as_dataset(shown, None, side)).reshape(len(shown), -1)
    answer = {
        "num_train": num_train,
        "seed": seed,
        "attempts": attempts,
        "is_stable": bool(trajectory.is_stable),
        "time_step_fs": dynamics.time_step_fs,
        "picoseconds": len(frames) * dynamics.steps_a_frame * dynamics.time_step_fs / 1000,
        "temperature": float(trajectory.temperatures[len(frames) - 1]),
        "side": side,
        "positions": shown[[0, -1]].tolist(),
        "nearest": [nearest_distances(frame, side).tolist() for frame in shown],
        "relative": (beads / beads[0].mean()).tolist(),
    }
    write_text_atomic(path, json.dumps(answer))
    return answer


def run(
    seeds: Sequence[int],
    train_sizes: Sequence[int],
    sizes: Sizes,
    settings: all_atom.Settings,
    config: bnn_jax.Config,
    dynamics: bead_dynamics.Dynamics,
    out: Path,
) -> str:
    """Everything, with figures and table at the end.

    Raises:
        InputError: OpenMM is missing, the folder holds another run, or more configurations are asked for than there
            are.
    """
    if max(train_sizes) > sizes.train:
        raise bnn_jax.InputError(f"--train {max(train_sizes)}: the simulation has {sizes.train} to draw from.")
    beads = all_atom.simulate(out / "reference", settings)
    reference = Reference(beads, sizes)
    described = reference_structure(reference, dynamics.num_frames, out / "reference.json")
    results = [
        run_network(num_train, seed, reference, config, dynamics, out) for num_train in train_sizes for seed in seeds
    ]
    unstable = [result for result in results if not result["trajectory"]["is_stable"]]
    usual = sorted(train_sizes)[-2:][0]  # the paper's is the second largest too
    chosen = (unstable or [result for result in results if result["num_train"] == usual])[0]
    failed = failure(chosen["num_train"], chosen["seed"], reference, chosen, out)
    write_text_atomic(
        out / "results.json",
        json.dumps({"settings": settings._asdict(), "reference": described, "networks": results, "failure": failed}),
    )
    return figures.draw_all(out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument(
        "--train", type=int, nargs="+", default=[2, 10, 50, 100, 1000, 4000], help="sizes of training sets"
    )
    parser.add_argument("--pool", type=int, default=Sizes().train, help="configurations to draw training sets from")
    parser.add_argument("--valid", type=int, default=Sizes().valid, help="configurations to validate on")
    parser.add_argument("--test", type=int, default=Sizes().test, help="configurations to test on")
    parser.add_argument("--molecules", type=int, default=128)
    parser.add_argument("--steps", type=int, default=CONFIG["trainer"]["num_steps"], help="of training, at most")
    parser.add_argument("--frames", type=int, default=800, help="of each trajectory, a tenth of a picosecond each")
    parser.add_argument("--seed", type=int, default=0, help="of the all-atom simulation")
    parser.add_argument("--out", type=Path, default=Path("runs") / "rigidity-coarse_grained")
    parser.add_argument("--table-only", action="store_true", help="figures and table again, from the results in --out")
    options = parser.parse_args(arguments)
    if options.table_only:
        print(figures.draw_all(options.out))
        return
    sizes = Sizes(options.pool, options.valid, options.test)
    settings = all_atom.Settings(options.molecules, sizes.total, seed=options.seed)
    trainer = CONFIG["trainer"] | {"num_steps": options.steps}
    config = bnn_jax.Config.from_dict(CONFIG | {"trainer": trainer})
    dynamics = bead_dynamics.Dynamics(num_frames=options.frames, mass=round(all_atom.BEAD_MASS, 3))
    print(run(options.seeds, options.train, sizes, settings, config, dynamics, options.out))


if __name__ == "__main__":
    run_command(main)
