"""What motion costs: the calculator on top of the compiled function, and replicas in one call beside runs of ASE.

From the repository's root::

    python -m benchmarks.motion overhead
    python -m benchmarks.motion replicas --picoseconds 5

``overhead``: a step of a calculator whose atoms have moved, beside a call of the compiled function with positions and
edges on the device and all results fetched; they take turns. ``replicas``: steps a second of 16 replicas of ammonia in
one compiled call, and of ASE's Langevin dynamics with the calculator; drift of the energy an atom and picosecond,
kinetic temperatures and their fluctuation beside what the ensemble has.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

# XLA runs small arrays on one core: each core is a device. The choice must precede JAX.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count()))

import ase
import jax
import jax.numpy as jnp
import numpy as np
from ase import units
from ase.md.langevin import Langevin

from benchmarks.cases import build_case
from benchmarks.peers.systems import displaced_structures
from benchmarks.timing import environment, head, paired, row
from bnn_jax import BNNCalculator, Config, Posterior, fit, load
from bnn_jax.compose import samples_fn
from bnn_jax.compose.edges import build_search
from bnn_jax.config import PresetName
from bnn_jax.dynamics import Settings, simulate

SYSTEMS = ("biphenyl", "silicon 512")
NUM_SAMPLES = 16
NUM_ROUNDS = 50
STEP = 0.005
"""Angstrom by which atoms move between calls, as in a molecular dynamics."""
NUM_REPLICAS = 16
SHORT = 0.05
"""Picoseconds of a run that does little but compile."""


def overhead(presets: Sequence[PresetName]) -> str:
    """A table: ms of the pure function, of a step of the calculator, and medians of the differences."""
    lines = [head("system", "preset", "pure function, ms", "calculator, ms", "on top, ms")]
    for system in SYSTEMS:
        for preset in presets:
            case = build_case(preset, system=system, num_structures=4)
            posterior = Posterior(case.config, case.statistics, case.params(NUM_SAMPLES), 1, 0)
            times = paired(turns(posterior, displaced_structures(1, system)[0]), NUM_ROUNDS)
            pure, whole = np.array(times["pure"]), np.array(times["calculator"])
            lines.append(row(system, preset, *(f"{np.median(each):.2f}" for each in (pure, whole, whole - pure))))
    return "\n".join(lines)


def turns(posterior: Posterior, atoms: ase.Atoms) -> dict[str, Callable[[], Any]]:
    """Both fetch every sample's energy, forces and stds."""
    rng, moving = np.random.default_rng(0), ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    moving.calc = BNNCalculator(posterior)

    def step() -> np.ndarray:
        moving.positions += STEP * rng.normal(size=moving.positions.shape)
        return moving.get_forces()

    place = jnp.asarray(moving.positions, jnp.float32), jnp.asarray(moving.cell.array, jnp.float32)
    edges = jax.jit(build_search(moving.positions, moving.cell.array, moving.pbc, posterior.predictor.cutoff).find)(
        *place
    )
    pure = jax.jit(samples_fn(posterior.predictor, moving))
    return {"pure": lambda: jax.device_get(pure(*place, edges)), "calculator": step}


def replicas(picoseconds: float) -> str:
    """Tables of speed and of the ensembles."""
    train, valid = load("ammonia").split(train=70, valid=8, seed=0)
    posterior = fit(train, valid, Config.preset("quick"), seed=0, progress=False)
    start = valid.to_atoms()[0]
    lines = [head("ensemble", "steps a second", "of ASE", "ratio", "drift, meV/atom/ps", "mean T", "var(T) / expected")]
    for ensemble in ("nve", "langevin", "nose-hoover"):
        settings = Settings(ensemble=ensemble, kelvin=300.0, timestep_fs=0.5, stride=20)
        options: dict[str, Any] = {"num_replicas": NUM_REPLICAS, "progress": False}
        seconds = []
        for length in (SHORT, SHORT, picoseconds):
            begin = time.perf_counter()
            found = simulate(posterior, start, settings, picoseconds=length, **options)
            seconds.append(time.perf_counter() - begin)
        # The difference, for both compile, which no step of ASE's is charged with either.
        num_steps = NUM_REPLICAS * (picoseconds - SHORT) * 1000 / settings.timestep_fs
        speed = num_steps / (seconds[2] - seconds[1])
        of_ase = speed_of_ase(posterior, start, settings)
        drift = 1000 * np.abs(found.energy_drifts()).max()
        kelvin = found.frames.kelvin[len(found.times_fs) // 10 :]
        number = 3 * len(start) - (0 if ensemble == "langevin" else 6)
        ratio = float(kelvin.var() / (2 * 300.0**2 / number))
        error = float(kelvin.mean(axis=0).std(ddof=1) / NUM_REPLICAS**0.5)
        lines.append(
            row(
                ensemble,
                f"{speed:,.0f}",
                f"{of_ase:,.0f}",
                f"{speed / of_ase:.0f}",
                f"{drift:.2g}" if ensemble == "nve" else "-",
                f"{kelvin.mean():.1f} ± {error:.1f} K" if ensemble != "nve" else "-",
                f"{ratio:.2f}" if ensemble != "nve" else "-",
            )
        )
    return "\n".join(lines)


def speed_of_ase(posterior: Posterior, start: ase.Atoms, settings: Settings, num_steps: int = 300) -> float:
    """Steps a second of one run; sixteen, one after another, have no more."""
    atoms = start.copy()
    atoms.calc = BNNCalculator(posterior)
    friction = settings.friction_per_ps / (1000 * units.fs)
    dynamics = Langevin(
        atoms, settings.timestep_fs * units.fs, temperature_K=settings.kelvin, friction=friction, fixcm=False
    )
    dynamics.run(20)
    begin = time.perf_counter()
    dynamics.run(num_steps)
    return num_steps / (time.perf_counter() - begin)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "replicas"))
    parser.add_argument("--presets", nargs="+", default=["quick"])
    parser.add_argument("--picoseconds", type=float, default=5.0)
    options = parser.parse_args()
    print(overhead(options.presets) if options.what == "overhead" else replicas(options.picoseconds))
    print("\n" + environment())


if __name__ == "__main__":
    main()
