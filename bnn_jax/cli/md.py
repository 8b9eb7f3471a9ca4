"""``bnn-jax md``: a posterior and a structure in, trajectories with error bars out."""

from pathlib import Path

import numpy as np

from bnn_jax.atoms.sources import load
from bnn_jax.cli.commands import Md
from bnn_jax.dynamics import Bounds, Settings, Trajectory, simulate
from bnn_jax.methods import load_predictor
from bnn_jax.report import save
from bnn_jax.report.trajectory_plot import trajectory_plot


def run(command: Md) -> None:
    """Simulate, write, draw, and say what became of the replicas.

    Raises:
        InputError: the run, the structures, an option or the folder cannot be used.
    """
    settings = Settings(
        ensemble=command.ensemble,
        kelvin=command.kelvin,
        timestep_fs=command.timestep_fs,
        friction_per_ps=command.friction_per_ps,
        thermostat_fs=command.thermostat_fs,
        pressure_gpa=command.pressure_gpa,
        barostat_fs=command.barostat_fs,
        forces=command.forces,
        stride=command.stride,
    )
    bounds = Bounds(
        forces_std=command.max_std,
        closest=command.closest,
        stretch=command.max_stretch,
        kelvin=command.max_kelvin,
        validated=command.within_validated,
    )
    predictor = load_predictor(command.run)
    found = simulate(
        predictor,
        load(command.start, use_labels=False),
        settings,
        picoseconds=command.ps,
        num_replicas=command.replicas,
        bounds=bounds,
        seed=command.seed,
        out=command.out,
        resume=command.resume,
    )
    picture = save(trajectory_plot(found, bounds), Path(command.out) / "md.png")
    print(summary(found, settings))
    print(f"{command.out}: a file of extended XYZ for each replica, and {picture.name}.")


def summary(found: Trajectory, settings: Settings) -> str:
    """What became of the replicas, in a few lines.

    Args:
        found: the trajectory.
        settings: it was made with.
    """
    frames, num_replicas = found.frames, len(found.reasons)
    counted = np.arange(len(found.times_fs))[:, None] < found.num_frames
    picoseconds = settings.stride * settings.timestep_fs * found.num_frames.sum() / 1000
    lines = [f"replica {k} ended {reason}." for k, reason in enumerate(found.reasons) if reason]
    if not counted.any():
        return "\n".join(lines)
    stds = frames.estimate.forces_std.max(axis=(-2, -1))[counted]
    lines.append(
        f"{num_replicas} replicas, {picoseconds:.4g} ps together: {frames.kelvin[counted].mean():.0f} K on average;"
        f" largest std of a force {np.median(stds):.3g} eV/Å in the median frame, {stds.max():.3g} at most."
    )
    if settings.ensemble == "nve":
        drifts = found.energy_drifts()
        lines.append(f"Drift of the total energy: {1000 * np.abs(drifts).max():.2g} meV an atom and ps at most.")
    beyond = frames.estimate.beyond_validated
    if beyond is not None and (number := int(beyond.any(axis=-1)[counted].sum())):
        lines.append(f"{number} of {counted.sum()} frames have atoms beyond the validated range (beyond_validated).")
    return "\n".join(lines)
