"""How soon chains of each sampler setting give a good and converged posterior: a Markdown table.

From the repository's root::

    python -m benchmarks.convergence --preset small --steps 12000 --seeds 0 1 2

The data are rMD17 ethanol, from ``--data FOLDER`` as ``experiments/rmd17/run.py`` takes it, or found as there. Every
setting has the same network, batch size, number of chains and samples; of its steps a share of 0.68 comes before the
first sample, as in the preset ``small``. MLL and MAE are of force components of the test set in kcal/mol/Angstrom.
R-hat and effective sample size are medians over its energies and force components; an hour is one of all chains.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.cases import PRESETS
from benchmarks.timing import environment, head, row
from bnn_jax import Config, Dataset, InputError
from bnn_jax.evaluation import convergence_of, score
from bnn_jax.methods import sghmc
from bnn_jax.units import EV_PER_KCAL_PER_MOL

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments" / "rmd17"))

from run import default_folder, read_parts

NUM_TEST = 300
CONVERGENCE_SHARE = 0.68
SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {
        "mass": "diagonal",
        "step_size_first": 1e-2,
        "step_size_last": 1e-5,
        "cycle_step_size": 1e-3,
    },
    "larger steps": {
        "mass": "diagonal",
        "step_size_first": 2e-2,
        "step_size_last": 1e-4,
        "cycle_step_size": 5e-4,
    },
    "kronecker": {
        "mass": "kronecker",
        "step_size_first": 2e-2,
        "step_size_last": 1e-3,
        "cycle_step_size": 5e-4,
    },
}
"""Names and sampler settings; the steps come from the command line."""


def configured(preset: Any, setting: str, num_steps: int, num_chains: int, num_samples: int) -> Config:
    """A preset with the setting's sampler, of so many steps in all."""
    config = Config.preset(preset)
    cycle_steps = round((1 - CONVERGENCE_SHARE) * num_steps / (num_samples - 1))
    sampler = dataclasses.replace(
        config.sampler,
        num_chains=num_chains,
        num_samples=num_samples,
        convergence_steps=num_steps - cycle_steps * (num_samples - 1),
        cycle_steps=cycle_steps,
        **SETTINGS[setting],
    )
    return dataclasses.replace(config, sampler=sampler)


def measure(train: Dataset, test: Dataset, config: Config, seed: int) -> dict[str, float]:
    """Sample, predict and judge."""
    start = time.perf_counter()
    posterior = sghmc.fit(jax.random.key(seed), train, None, config, seed=seed, progress=True)
    seconds = time.perf_counter() - start
    predictive = posterior.predict(test)
    scores = score(predictive, test, posterior.num_samples)
    found = convergence_of(predictive, posterior.num_chains, posterior.statistics.labels)
    convergence = {name: float(np.nanmedian(values)) for name, values in found.items()}
    assert posterior.sampling is not None
    return {
        "forces_mll": scores["forces_mll"] + np.log(EV_PER_KCAL_PER_MOL),
        "forces_mae": scores["forces_mae"] / EV_PER_KCAL_PER_MOL,
        "energy_mae": scores["energy_mae"] / EV_PER_KCAL_PER_MOL,
        "rhat": convergence["rhat"],
        "ess": convergence["ess"],
        "ess_per_hour": 3600 * convergence["ess"] / seconds,
        "kinetic_temperature": float(np.mean(posterior.sampling.kinetic_temperature)),
        "seconds": seconds,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small", help="of the network and the batch size")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--steps", type=int, nargs="+", default=[12_000], help="of each chain, compilation apart")
    parser.add_argument("--chains", type=int, default=2)
    parser.add_argument("--samples", type=int, default=4, help="of each chain")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", type=Path, help="folder of train.xyz and test.xyz; default: download rMD17")
    options = parser.parse_args(arguments)
    parts = read_parts("ethanol", options.data or default_folder("ethanol"), num_test=NUM_TEST)
    columns = "MLL", "MAE", "energy MAE", "R-hat", "ESS", "ESS/h", "kinetic T", "s"
    print(head("setting", "steps", "seed", *columns), flush=True)
    for seed in options.seeds:
        for num_steps in options.steps:
            for setting in options.settings:
                config = configured(options.preset, setting, num_steps, options.chains, options.samples)
                found = measure(parts.train, parts.test, config, seed)
                figures = [f"{found[name]:.3f}" for name in list(found)[:-2]]
                last = f"{found['kinetic_temperature']:.2f}", f"{found['seconds']:.0f}"
                print(row(setting, num_steps, seed, *figures, *last), flush=True)
    print(f"\n{options.chains} chains of {options.samples} samples, preset {options.preset}. {environment()}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
