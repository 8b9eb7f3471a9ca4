"""Time per training step on the CPU: this package, mir-group/nequip (PyTorch) and a plain e3nn-jax NequIP.

From the repository's root::

    python -m benchmarks.peers.compare --nequip-python PATH

where PATH is the interpreter of an environment with PyTorch and nequip (``pip install torch nequip``); without it that
peer is left out. All see the same batches of displaced ethanol at the same hyper-parameters, in float32 and with all
cores. They take turns, round by round, so that what else the machine does meets them alike. The table is Markdown.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.peers import plain_e3nn, systems
from bnn_jax.config import ModelConfig

REPOSITORY = Path(__file__).parents[2]
WARM_UP_STEPS = 5


class Case(NamedTuple):
    """Hyper-parameters that vary; the others are the defaults of ``ModelConfig``."""

    l_max: int
    num_features: int
    num_blocks: int
    batch_size: int

    def config(self) -> ModelConfig:
        """The model's configuration for ethanol, where every atom has 8 neighbours within 5 Angstrom."""
        return ModelConfig(
            l_max=self.l_max,
            num_features=self.num_features,
            num_blocks=self.num_blocks,
            species=systems.SPECIES,
            avg_num_neighbors=8.0,
        )

    def __str__(self) -> str:
        return f"l_max {self.l_max}, {self.num_features} features, {self.num_blocks} blocks, batch {self.batch_size}"


CASES = (Case(1, 32, 3, 10), Case(2, 32, 3, 5), Case(2, 64, 4, 2))


class Runner(NamedTuple):
    """One implementation, built and warm."""

    time_steps: Callable[[int], list[float]]
    """Wall time in ms of each of so many steps."""
    num_parameters: int


class Unavailable(Exception):
    """An implementation cannot take part; the message says why."""


def time_steps(step: Callable[[], Any], num_steps: int) -> list[float]:
    """Wall time of each of ``num_steps`` steps, in ms; ``step`` returns the arrays to wait for."""
    times = []
    for _ in range(num_steps):
        start = time.perf_counter()
        jax.block_until_ready(step())
        times.append(1e3 * (time.perf_counter() - start))
    return times


def ours(case: Case) -> Runner:
    """One SGHMC step of the package: log posterior, its gradient, mass adaptation and the injected noise."""
    from bnn_jax import atoms, posterior
    from bnn_jax.config import SamplerConfig
    from bnn_jax.model.potential import nequip
    from bnn_jax.sampling import chain

    config = case.config()
    structures = systems.ethanol_structures(case.batch_size)
    packed = atoms.pack(atoms.Dataset.from_atoms(structures), config.cutoff, config.species, [0.0] * 3)
    indices = jnp.arange(case.batch_size)
    batch = jax.block_until_ready(atoms.gather_batch(packed, indices, *atoms.batch_size_needed(packed, indices)))
    potential = nequip(config)
    estimate = posterior.log_density_estimator(
        potential.apply, posterior.normal_log_prior, data_size=1000, stress_std=0.002
    )
    step = jax.jit(chain.build_step(posterior.value_and_grad_estimator(estimate), 1000, SamplerConfig()))
    params = potential.init(jax.random.key(0), batch.graph)
    return _jitted(lambda state: step(state, batch)[0], chain.init(jax.random.key(1), params), params)


def plain(case: Case) -> Runner:
    """One Adam step of the plain e3nn-jax NequIP on mean squared errors."""
    batch = systems.ethanol_batch(case.batch_size, case.config().cutoff)
    arrays = tuple(jnp.asarray(array, jnp.int32 if array.dtype.kind == "i" else jnp.float32) for array in batch)
    init, step = plain_e3nn.build_step(case.config(), batch.num_structures)
    state = init(jax.random.key(0))
    return _jitted(lambda state: step(state, arrays)[0], state, state[0])


def _jitted(step: Callable[[Any], Any], state: Any, params: Any) -> Runner:
    def advance() -> Any:
        nonlocal state
        state = step(state)
        return state

    time_steps(advance, WARM_UP_STEPS)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Runner(lambda num_steps: time_steps(advance, num_steps), num_parameters)


class NequIPProcess:
    """The PyTorch peer behind a pipe; the same process serves all cases."""

    def __init__(self, interpreter: str) -> None:
        try:
            self.process = subprocess.Popen(
                [interpreter, "-m", "benchmarks.peers.nequip_step", "--serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=REPOSITORY,
            )
        except OSError as error:
            raise Unavailable(f"{interpreter} cannot be run ({error.strerror})") from error
        self.versions: dict[str, str] = {}

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request, wait for its answer.

        Raises:
            Unavailable: the peer failed or is gone.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "it ended; are PyTorch and nequip installed there?"}
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer

    def runner(self, case: Case, compile_mode: str, type_embedding: int | None) -> Runner:
        """One Adam step of nequip on mean squared errors."""
        config = dataclasses.asdict(case.config())
        if type_embedding is not None:
            config["type_embed_num_features"] = type_embedding
        built = self.ask({"build": config, "batch_size": case.batch_size, "compile_mode": compile_mode})
        self.versions = built["versions"]
        return Runner(lambda num_steps: self.ask({"steps": num_steps})["times_ms"], built["num_parameters"])

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        self.process.wait(timeout=60)


def compare(case: Case, builders: dict[str, Callable[[Case], Runner]], num_rounds: int, num_steps: int) -> list[str]:
    """Rows of the table for one case: all implementations in turn, ``num_rounds`` times ``num_steps`` steps each."""
    runners: dict[str, Runner] = {}
    times: dict[str, list[float]] = {}
    for name, build in builders.items():
        try:
            runners[name], times[name] = build(case), []
        except Unavailable as error:
            print(f"{name} is left out of {case}: {error}", file=sys.stderr)
    for _ in range(num_rounds):
        for name, runner in runners.items():
            times[name] += runner.time_steps(num_steps)
    medians = {name: statistics.median(values) for name, values in times.items()}
    reference = medians.get("bnn_jax", math.nan)
    return [
        f"| {case} | {name} | {runners[name].num_parameters:,} | {medians[name]:.1f} | {min(times[name]):.1f}"
        f" | {len(times[name])} | {medians[name] / reference:.2f} |"
        for name in runners
    ]


def environment(processes: list[NequIPProcess]) -> str:
    """Hardware and versions in one line."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    packages = {name: version(name) for name in ("jax", "flax", "e3nn-jax")}
    for process in processes:
        packages |= process.versions
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    listed = ", ".join(f"{name} {number}" for name, number in packages.items())
    return f"{cpu}, {os.cpu_count()} cores, load average {load}; Python {platform.python_version()}, {listed}."


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nequip-python", help="interpreter of an environment with PyTorch and nequip")
    parser.add_argument("--nequip-compile", action="store_true", help="also time nequip's torch.compile mode")
    parser.add_argument("--nequip-type-embedding", type=int, help="width of nequip's species embedding")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps of each implementation in a round")
    parser.add_argument("--cases", type=int, nargs="+", default=list(range(len(CASES))), help="indices of the cases")
    arguments = parser.parse_args()

    processes: list[NequIPProcess] = []
    builders: dict[str, Callable[[Case], Runner]] = {"bnn_jax": ours, "plain e3nn-jax": plain}
    if arguments.nequip_python is None:
        print("nequip is left out: no --nequip-python was given.", file=sys.stderr)
    else:
        try:
            for mode in ("eager", "compile") if arguments.nequip_compile else ("eager",):
                processes.append(NequIPProcess(arguments.nequip_python))
                builders[f"nequip ({mode})"] = partial(
                    processes[-1].runner, compile_mode=mode, type_embedding=arguments.nequip_type_embedding
                )
        except Unavailable as error:
            print(f"nequip is left out: {error}.", file=sys.stderr)

    print("| case | implementation | parameters | median ms/step | min ms/step | n | median / bnn_jax |")
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    for index in arguments.cases:
        print("\n".join(compare(CASES[index], builders, arguments.rounds, arguments.steps)), flush=True)
    print(f"\n{environment(processes)}")
    for process in processes:
        process.close()


if __name__ == "__main__":
    main()
