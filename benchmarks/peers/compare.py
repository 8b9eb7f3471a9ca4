"""Training steps and predictions: this package, mir-group/nequip (PyTorch) and a plain e3nn-jax NequIP.

From the repository's root::

    python -m benchmarks.peers.compare --nequip-python PATH

where PATH is the interpreter of an environment with PyTorch and nequip (``pip install torch nequip``); without it that
peer is left out. ``--nequip-compile`` adds nequip's compile mode, which takes minutes to compile each case. All see the
same batches of displaced molecules or crystals at the same hyper-parameters, in float32, on JAX's and PyTorch's default
devices and with all cores. They take turns, round by round, so that what else the machine does meets them alike. The
table is Markdown.

A training step of this package is one of SGHMC, of the others one of Adam on energies and forces. Predictions are
energies and forces, with this package also the standard deviations, of one sample of the weights.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.peers import plain_e3nn, systems
from benchmarks.timing import environment, head, median_ratio, row, time_calls
from bnn_jax import atoms, posterior
from bnn_jax.config import ModelConfig, SamplerConfig
from bnn_jax.model import nequip
from bnn_jax.sampling import chain

REPOSITORY = Path(__file__).parents[2]
WARM_UP_CALLS = 5
TASKS = {"step": "training step", "predict": "energies and forces"}
REFERENCE = "bnn_jax"


class Case(NamedTuple):
    """The system and the hyper-parameters that vary; the others are the defaults of ``ModelConfig``."""

    l_max: int
    num_features: int
    num_blocks: int
    batch_size: int
    system: str = "ethanol"

    def config(self) -> ModelConfig:
        """The model's configuration."""
        config = ModelConfig(l_max=self.l_max, num_features=self.num_features, num_blocks=self.num_blocks)
        batch = systems.displaced_batch(self.batch_size, config.cutoff, self.system)
        return dataclasses.replace(
            config, species=systems.species_of(self.system), avg_num_neighbors=batch.avg_num_neighbors
        )

    def __str__(self) -> str:
        model = f"l_max {self.l_max}, {self.num_features} features, {self.num_blocks} blocks, batch {self.batch_size}"
        return model if self.system == "ethanol" else f"{self.system}, {model}"


CASES = (
    Case(1, 32, 3, 10),
    Case(2, 32, 3, 5),
    Case(2, 64, 4, 2),
    Case(1, 16, 3, 10),
    Case(1, 64, 3, 10),
    Case(2, 16, 3, 5),
    Case(2, 64, 3, 5),
    Case(1, 32, 3, 5, "biphenyl"),
    Case(2, 32, 3, 5, "biphenyl"),
    Case(1, 32, 3, 2, "silicon 64"),
    Case(2, 32, 3, 2, "silicon 64"),
    Case(1, 32, 3, 2, "silicon 512"),
    Case(2, 16, 3, 2, "silicon 512"),
    Case(2, 32, 3, 1, "silicon 512"),
)
DEFAULT_CASES = (0, 1, 2, 7, 9)
"""Those of a few minutes."""


class Runner(NamedTuple):
    """One implementation of one task, built and warm."""

    time_calls: Callable[[int], list[float]]
    """Wall time in ms of each of so many calls."""
    num_parameters: int


Builder = Callable[[Case, str], Runner]
"""From a case and a task of :data:`TASKS`."""


class Unavailable(Exception):
    """An implementation cannot take part; the message says why."""


def ours(case: Case, task: str) -> Runner:
    """This package: an SGHMC step (log posterior, its gradient, mass, noise), or one sample's prediction."""
    config = case.config()
    dataset = atoms.Dataset.from_atoms(systems.displaced_structures(case.batch_size, case.system))
    packed = atoms.pack(dataset, config.cutoff, config.species, [0.0] * len(config.species))
    indices = jnp.arange(case.batch_size)
    batch = jax.block_until_ready(atoms.gather_batch(packed, indices, *atoms.batch_size_needed(packed, indices)))
    potential = nequip(config)
    params = potential.init(jax.random.key(0), batch.graph)
    if task == "predict":
        predict = jax.jit(lambda params, graph: potential.apply(params, graph)._replace(features=None))
        return _runner(lambda: predict(params, batch.graph), params)
    estimate = posterior.log_density_estimator(
        potential.apply, posterior.normal_log_prior, data_size=1000, stress_std=0.002
    )
    step = jax.jit(chain.build_step(posterior.value_and_grad_estimator(estimate), 1000, SamplerConfig()))
    return _runner(_advance(lambda state: step(state, batch)[0], chain.init(jax.random.key(1), params)), params)


def plain(case: Case, task: str) -> Runner:
    """The plain e3nn-jax NequIP: an Adam step on mean squared errors, or a prediction."""
    config = case.config()
    batch = jax.device_put(systems.displaced_batch(case.batch_size, config.cutoff, case.system).single_precision())
    if task == "predict":
        init, predict = plain_e3nn.build_predict(config)
        params, jitted = init(jax.random.key(0)), jax.jit(predict)
        return _runner(lambda: jitted(params, batch), params)
    init, step = plain_e3nn.build_step(config)
    state = init(jax.random.key(0))
    return _runner(_advance(lambda state: step(state, batch)[0], state), state[0])


def _advance(step: Callable[[Any], Any], state: Any) -> Callable[[], Any]:
    """Each call takes one step further."""

    def advance() -> Any:
        nonlocal state
        state = step(state)
        return state

    return advance


def _runner(call: Callable[[], Any], params: Any) -> Runner:
    time_calls(call, WARM_UP_CALLS)
    return Runner(partial(time_calls, call), sum(leaf.size for leaf in jax.tree.leaves(params)))


class NequIPProcess:
    """The PyTorch peer behind a pipe; the same process serves all cases."""

    def __init__(self, interpreter: str, mode: str, type_embedding: int | None) -> None:
        """Start it.

        Args:
            interpreter: of an environment with PyTorch and nequip.
            mode: ``eager`` or ``compile``.
            type_embedding: width of the species embedding; None for nequip's own.
        """
        self.mode, self.type_embedding = mode, type_embedding
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

    def build(self, case: Case, task: str) -> Runner:
        """An Adam step of nequip on mean squared errors, or a prediction."""
        config = dataclasses.asdict(case.config())
        if self.type_embedding is not None:
            config["type_embed_num_features"] = self.type_embedding
        about = {"task": task, "system": case.system, "batch_size": case.batch_size, "mode": self.mode}
        built = self.ask({"build": {"config": config} | about})
        self.versions = built["versions"]
        return Runner(lambda n: self.ask({"time": task, "num_calls": n})["times_ms"], built["num_parameters"])

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        self.process.wait(timeout=60)


class Times(NamedTuple):
    """What one implementation took for one case."""

    name: str
    num_parameters: int
    ms: dict[str, list[float]]
    """Of each task it took part in, by rounds."""


def compare(case: Case, builders: dict[str, Builder], num_rounds: int, num_calls: int) -> list[Times]:
    """Time all in turn, ``num_rounds`` times ``num_calls`` calls each; who cannot take part is left out."""
    runners: dict[tuple[str, str], Runner] = {}
    for name, build in builders.items():
        for task, description in TASKS.items():
            try:
                runners[name, task] = build(case, task)
            except Unavailable as error:
                print(f"{name}, {description}, is left out of {case}: {error}", file=sys.stderr)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runners}
    for _ in range(num_rounds):
        for key, runner in runners.items():
            times[key].append(statistics.median(runner.time_calls(num_calls)))
    return [
        Times(
            name,
            next(runner.num_parameters for (who, _), runner in runners.items() if who == name),
            {task: values for (who, task), values in times.items() if who == name},
        )
        for name in dict.fromkeys(name for name, _ in runners)
    ]


def rows(case: Case, found: list[Times]) -> list[str]:
    """The case's rows of the table; ratios are to this package."""
    ours = next(times.ms for times in found if times.name == REFERENCE)

    def figures(ms: dict[str, list[float]], task: str) -> list[str]:
        if task not in ms:
            return ["", ""]
        return [f"{statistics.median(ms[task]):.2f}", f"{median_ratio(ms[task], ours[task]):.2f}"]

    return [
        row(case, name, f"{num_parameters:,}", *(figure for task in TASKS for figure in figures(ms, task)))
        for name, num_parameters, ms in found
    ]


COLUMNS = (
    "case",
    "implementation",
    "parameters",
    *(name for task in TASKS.values() for name in (f"{task}, ms", f"/ {REFERENCE}")),
)


def main() -> None:
    """Command line."""
    listed = "".join(f"\n  {index:2}  {case}" for index, case in enumerate(CASES))
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nCases:{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nequip-python", help="interpreter of an environment with PyTorch and nequip")
    parser.add_argument("--nequip-compile", action="store_true", help="also time nequip's compile mode")
    parser.add_argument("--nequip-type-embedding", type=int, help="width of nequip's species embedding")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20, help="calls of each implementation and task in a round")
    parser.add_argument("--cases", type=int, nargs="+", default=DEFAULT_CASES, help="indices of the cases")
    arguments = parser.parse_args()

    processes: list[NequIPProcess] = []
    builders: dict[str, Builder] = {REFERENCE: ours, "plain e3nn-jax": plain}
    if arguments.nequip_python is None:
        print("nequip is left out: no --nequip-python was given.", file=sys.stderr)
    else:
        try:
            for mode in ("eager", "compile") if arguments.nequip_compile else ("eager",):
                processes.append(NequIPProcess(arguments.nequip_python, mode, arguments.nequip_type_embedding))
                builders[f"nequip ({mode})"] = processes[-1].build
        except Unavailable as error:
            print(f"nequip is left out: {error}.", file=sys.stderr)

    print(head(*COLUMNS), flush=True)
    for index in arguments.cases:
        found = compare(CASES[index], builders, arguments.rounds, arguments.calls)
        print("\n".join(rows(CASES[index], found)), flush=True)
    versions = {name: value for process in processes for name, value in process.versions.items()}
    print(f"\nMedians of {arguments.rounds} rounds of {arguments.calls} calls. {environment(versions)}")
    for process in processes:
        process.close()


if __name__ == "__main__":
    main()
