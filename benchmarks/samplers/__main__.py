"""Small changes to the sampler, other samplers and other methods at equal gradients: Markdown tables.

From the repository's root, with a folder of labelled files as ``shared/data`` has them::

    python -m benchmarks.samplers --data FOLDER --out samplers.jsonl

Each setting takes ``chains x steps`` gradients of minibatches of one size, of one network, on one draw of the data; the
tuning of mclmc, three runs of which validation chooses one, is not counted, as the reference's is not. A pass through
a shallow ensemble counts as one gradient. A seed is one of data, start and noise, the same for all settings. What is
done is kept in the file, and a campaign that was stopped goes on. Figures are of structures that no setting has seen
or was chosen on: forces in meV/Angstrom, energies in meV, MLL and CRPS of force components, shift and factor of another
run's forces (:mod:`bnn_jax.verdict.reproducible`), R-hat and effective sample size as medians over energies and force
components; seconds, with compilation, are in the file. Numbers are means over seeds and, after ±, their
standard deviation over seeds.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks.samplers import noise, steps
from benchmarks.timing import environment, head, row
from bnn_jax import Config, Dataset, Posterior, load
from bnn_jax.config.presets import PresetName
from bnn_jax.evaluation import convergence_of, score
from bnn_jax.methods import names, registry, sghmc
from bnn_jax.sampling import amsgrad, chain
from bnn_jax.verdict.reproducible import halves

NUM_TEST = 100
MANY = 4
"""Times as many chains, of as many times fewer steps."""
LENGTHS = (0.03, 0.1, 0.3)
"""Of mclmc's steps, in units of the root of the dimension."""
CHANGES: dict[str, Callable[[Config], dict[str, Any]]] = {
    "reference": lambda _: {},
    "heated": lambda _: {"warm_start_fraction": steps.WARM_SHARE, "warm_start_temperature": 0.0},
    "tempered": lambda _: {"temperature": 0.1},
    "cyclical": lambda config: {"cycle_step_size": 4 * config.sampler.cycle_step_size},
    "many short chains": lambda _: {},  # its chains and steps are changed before
}
"""Fields of the sampler that a setting changes."""
VARIANTS = {"noise counted as heat": steps.HEAT_COUNTING, "mass learnt again": steps.RELEARNING}
METHODS = tuple(name for name in ("ensemble", "shallow", "ivon") if name in names())
SETTINGS = (*CHANGES, *VARIANTS, "mclmc", *METHODS)
SCORES = "forces_mll", "forces_crps", "forces_mae", "forces_coverage_68", "forces_coverage_95", "energy_mae"


class Parts(NamedTuple):
    """Data of a run."""

    train: Dataset
    valid: Dataset
    inside: Dataset
    """In the domain of the training set."""
    outside: Dataset | None


class System(NamedTuple):
    """What is learnt, and by which network and reference."""

    preset: PresetName
    num_steps: int
    """Of each chain of the reference."""
    parts_fn: Callable[[Path, int], Parts]


def ammonia(folder: Path, seed: int) -> Parts:
    """Geometries of the training set, and those of the package's test set, which lie beyond them."""
    del folder
    return Parts(*load("ammonia").split(train=50, valid=8, test=20, seed=seed), load("ammonia/test"))


def ethanol(folder: Path, seed: int) -> Parts:
    """rMD17 at one temperature."""
    return Parts(*_drawn(folder / "rmd17/ethanol", "train", seed), _some(folder / "rmd17/ethanol", "test", seed), None)


def bpa(folder: Path, seed: int) -> Parts:
    """3BPA at 300 K and, outside, at 1200 K."""
    inside, outside = (_some(folder / "3bpa", name, seed) for name in ("test_300K", "test_1200K_from_mixedT"))
    return Parts(*_drawn(folder / "3bpa", "train_300K", seed), inside, outside)


SYSTEMS = {
    "ammonia": System("quick", 10_000, ammonia),
    "ethanol": System("small", 6_000, ethanol),
    "3bpa": System("small", 6_000, bpa),
}


def _drawn(folder: Path, name: str, seed: int) -> tuple[Dataset, ...]:
    return load(folder / f"{name}.xyz.gz").split(train=200, valid=20, seed=seed)


def _some(folder: Path, name: str, seed: int) -> Dataset:
    data = load(folder / f"{name}.xyz.gz")
    return data.split(test=min(NUM_TEST, len(data)), seed=seed)[0]


def configured(preset: PresetName, setting: str, num_chains: int, num_steps: int) -> Config:
    """A preset with so many chains of so many steps, shared out as its own, or with as many gradients of a setting."""
    config = Config.preset(preset)
    total = num_chains * num_steps
    if setting == "many short chains":
        num_chains, num_steps = MANY * num_chains, num_steps // MANY
    old = config.sampler
    gaps = old.num_samples - 1
    cycle_steps = max(round(num_steps * old.cycle_steps / (old.convergence_steps + gaps * old.cycle_steps)), 1)
    sampler = dataclasses.replace(
        old, num_chains=num_chains, cycle_steps=cycle_steps, convergence_steps=num_steps - gaps * cycle_steps
    )
    ensemble = dataclasses.replace(config.ensemble, num_members=num_chains)
    config = dataclasses.replace(config, sampler=sampler, ensemble=ensemble)
    if setting in METHODS:
        config = dataclasses.replace(config, method=setting)
        trainer = dataclasses.replace(config.trainer, num_steps=total // registry.num_networks(setting, config))
        return dataclasses.replace(config, trainer=trainer)
    sampler = dataclasses.replace(sampler, **CHANGES.get(setting, lambda _: {})(config))
    return dataclasses.replace(config, sampler=sampler)


def fitted(parts: Parts, config: Config, setting: str, seed: int) -> tuple[Posterior, dict[str, float]]:
    """The posterior of a setting, and what it tells of itself."""
    if setting == "mclmc":
        return best_mclmc(parts, config, seed)
    start = time.perf_counter()
    if setting in VARIANTS:
        posterior, states = steps.sample(parts.train, config, seed, VARIANTS[setting])
        told = replaced(states, config, len(parts.train)) if setting == "noise counted as heat" else {}
    else:
        fit: Any = registry.get(config.method).fit
        valid = parts.valid if setting in METHODS else None
        posterior, told = fit(jax.random.key(seed), parts.train, valid, config, seed=seed, progress=False), {}
    seconds = time.perf_counter() - start
    if posterior.sampling is not None:
        told |= {"kinetic_temperature": float(np.mean(posterior.sampling.kinetic_temperature))}
    return posterior, told | {"seconds": seconds}


def best_mclmc(parts: Parts, config: Config, seed: int) -> tuple[Posterior, dict[str, float]]:
    """The run whose length of a step gives the best log likelihood of the validation set's forces; its seconds alone.

    Raises:
        DivergenceError: with each length every chain diverged.
    """
    found = []
    for length in LENGTHS:
        start, variant = time.perf_counter(), steps.mclmc_variant(length, config.posterior.prior_std)
        try:
            posterior, _ = steps.sample(parts.train, config, seed, variant)
        except sghmc.DivergenceError:
            continue
        told = {"length": length, "seconds": time.perf_counter() - start}
        likelihood = score(posterior.predict(parts.valid), parts.valid, posterior.num_samples)["forces_mll"]
        found.append((likelihood, posterior, told))
    if not found:
        raise sghmc.DivergenceError("all chains of all lengths diverged")
    return max(found, key=lambda one: one[0])[1:]


def replaced(states: chain.ChainState, config: Config, data_size: int) -> dict[str, float]:
    """The part of the noise to inject at the peak of the cycles that the minibatch's own replaces, over coordinates."""
    sampler, learnt = config.sampler, steps.learnt_by(states)
    masses = jax.vmap(lambda mass: amsgrad.inverse_mass(mass, sampler.beta, sampler.stability))(learnt.mass)
    variances = jax.vmap(noise.variance)(learnt.noise)
    peak = jnp.float32(sampler.cycle_step_size)
    share = np.asarray(noise.shares(variances, masses, peak, sampler.temperature, data_size))
    return {"noise_replaced": float(np.minimum(share, 1).mean()), "noise_share_median": float(np.median(share))}


def figures(posterior: Posterior, parts: Parts, config: Config) -> dict[str, float]:
    """Of the test sets."""
    found = {}
    for where, test in (("in", parts.inside), ("out", parts.outside)):
        if test is not None:
            predictive = posterior.predict(test)
            scores = score(predictive, test, posterior.num_samples)
            found |= {f"{name}_{where}": scores[name] for name in SCORES}
    predictive = posterior.predict(parts.inside)
    is_sampled = posterior.sampling is not None
    num_networks = posterior.num_chains if is_sampled else registry.num_networks(config.method, config)
    if num_networks > 1:
        forces = predictive.forces_samples
        stds = np.broadcast_to(predictive.forces_std_samples[..., None], forces.shape)
        both = halves(forces.reshape(len(forces), -1), stds.reshape(len(forces), -1), num_networks)
        found |= {"shift": both.shift, "factor": both.factor}
    if is_sampled:
        mixing = convergence_of(predictive, posterior.num_chains, posterior.statistics.labels)
        rhat, ess = (float(np.nanmedian(mixing[name])) for name in ("rhat", "ess"))
        found |= {"rhat": rhat, "ess": ess, "num_chains": posterior.num_chains}
    return found


def run(system: str, setting: str, seed: int, folder: Path, num_chains: int, num_steps: int) -> dict[str, Any]:
    """One row of the file."""
    what = {"system": system, "setting": setting, "seed": seed, "chains": num_chains, "steps": num_steps}
    parts = SYSTEMS[system].parts_fn(folder, seed)
    config = configured(SYSTEMS[system].preset, setting, num_chains, num_steps)
    try:
        posterior, told = fitted(parts, config, setting, seed)
    except sghmc.DivergenceError as error:
        return what | {"diverged": str(error)[:100]}
    return what | told | figures(posterior, parts, config)


COLUMNS: dict[str, tuple[str, float, int]] = {
    "MLL": ("forces_mll_in", 1, 2),
    "CRPS": ("forces_crps_in", 1e3, 1),
    "MAE": ("forces_mae_in", 1e3, 1),
    "68 %": ("forces_coverage_68_in", 1, 2),
    "95 %": ("forces_coverage_95_in", 1, 2),
    "energy MAE": ("energy_mae_in", 1e3, 1),
    "MLL, out": ("forces_mll_out", 1, 2),
    "CRPS, out": ("forces_crps_out", 1e3, 1),
    "MAE, out": ("forces_mae_out", 1e3, 1),
    "68 %, out": ("forces_coverage_68_out", 1, 2),
    "95 %, out": ("forces_coverage_95_out", 1, 2),
    "energy MAE, out": ("energy_mae_out", 1e3, 1),
    "shift": ("shift", 1, 2),
    "factor": ("factor", 1, 2),
    "R-hat": ("rhat", 1, 2),
    "ESS": ("ess", 1, 1),
    "kinetic T": ("kinetic_temperature", 1, 2),
}
"""Heads of the tables; names in the file, factors and decimals."""


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a table for each system and number of steps."""
    tables = []
    for system, num_chains, num_steps in dict.fromkeys((one["system"], one["chains"], one["steps"]) for one in rows):
        some = [one for one in rows if (one["system"], one["chains"], one["steps"]) == (system, num_chains, num_steps)]
        lines = [f"{system}, {num_chains} chains of {num_steps} steps\n", head("setting", "runs", *COLUMNS)]
        for setting in dict.fromkeys(one["setting"] for one in some):
            sound = [one for one in some if one["setting"] == setting and "diverged" not in one]
            count = sum(one["setting"] == setting for one in some)
            cells = (cell([one.get(name, np.nan) for one in sound], *shown) for name, *shown in COLUMNS.values())
            lines.append(row(setting, count if count == len(sound) else f"{len(sound)} of {count}", *cells))
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def cell(values: Sequence[float], factor: float, decimals: int) -> str:
    """Mean and, of several, standard deviation; a dash where there is none."""
    known = factor * np.array([value for value in values if np.isfinite(value)])
    spread = f" ± {known.std(ddof=1):.{decimals}f}" if len(known) > 1 else ""
    return f"{known.mean():.{decimals}f}{spread}" if len(known) else "–"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled files")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, to be continued")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--chains", type=int, default=4)
    default = ", ".join(f"{system.num_steps} for {name}" for name, system in SYSTEMS.items())
    parser.add_argument("--steps", type=int, help=f"of each chain; default: {default}")
    options = parser.parse_args(arguments)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    keys = "system", "setting", "seed", "chains", "steps"
    done = {tuple(one[key] for key in keys) for one in rows}
    wanted = [
        (system, setting, seed, options.chains, options.steps or SYSTEMS[system].num_steps)
        for system in options.systems
        for seed in options.seeds
        for setting in options.settings
    ]
    for system, setting, seed, num_chains, num_steps in tqdm([one for one in wanted if one not in done]):
        rows.append(run(system, setting, seed, options.data, num_chains, num_steps))
        with options.out.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    print(report(rows))
    print("\n" + environment())


if __name__ == "__main__":
    main()
