"""SGHMC steps of several chains, on one device and spread over several: a Markdown table.

From the repository's root::

    python -m benchmarks.chains

Each row is a process of its own, for the number of devices must be set before JAX starts: on a CPU the devices are made
by ``JAX_NUM_CPU_DEVICES``, on GPUs they are the first so many. All processes are built before the first is timed; then
they take turns, round by round, while the others wait. Ratios are medians of the rounds'. A row that asks for more GPUs
than there are is left out.
"""

import argparse
import os
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.cases import PRESETS, build_case, build_steps
from benchmarks.timing import environment, head, median_ratio, row, time_calls
from bnn_jax.config import PresetName


class Worker:
    """A process that has compiled its steps and times one call of them each time it is asked."""

    def __init__(self, preset: PresetName, num_chains: int, num_devices: int, num_steps: int) -> None:
        """Start it and wait until it has compiled."""
        variables = {
            "JAX_NUM_CPU_DEVICES": str(num_devices),
            "CUDA_VISIBLE_DEVICES": ",".join(str(device) for device in range(num_devices)),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the others need memory of the same device
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.chains", "--serve", preset, str(num_chains), str(num_steps)],
            env=os.environ | variables,
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.num_devices = int(self._answer())
        """Over which the chains are spread."""

    def time_call(self) -> float:
        """Wall time of one call, in ms."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"A process of the comparison failed with exit code {self.process.wait()}.")
        return line

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def serve(preset: PresetName, num_chains: int, num_steps: int) -> None:
    """Compile, write the number of devices in use, then for each line read the wall time of a call in ms."""
    chunk, arguments = build_steps(build_case(preset, num_chains), num_steps)
    call = partial(chunk, *arguments)
    time_calls(call, 2)
    print(chunk.sharding.mesh.size, flush=True)
    for _ in sys.stdin:
        print(*time_calls(call, 1), flush=True)


def compare(preset: PresetName, settings: list[tuple[int, int]], num_rounds: int, num_steps: int) -> list[str]:
    """Rows of the table for one preset.

    Args:
        preset: its name.
        settings: numbers of chains and devices of each row; ratios are to the first.
        num_rounds: how often each is timed.
        num_steps: of a call.
    """
    workers = {setting: Worker(preset, *setting, num_steps) for setting in settings}
    times: dict[tuple[int, int], list[float]] = {setting: [] for setting in settings}
    for _ in range(num_rounds):
        for (num_chains, num_devices), worker in workers.items():
            times[num_chains, num_devices].append(worker.time_call() / (num_chains * num_steps))
    rows = []
    for (num_chains, num_devices), worker in workers.items():
        worker.close()
        if worker.num_devices != num_devices:
            print(f"{num_chains} chains on {num_devices} devices are left out: they got fewer.", file=sys.stderr)
            continue
        values = times[num_chains, num_devices]
        ratio = median_ratio(values, times[settings[0]])
        figures = f"{num_chains * statistics.median(values):.2f}", f"{statistics.median(values):.3f}", f"{ratio:.2f}"
        rows.append(row(preset, num_chains, num_devices, *figures))
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["tiny", "small"])
    parser.add_argument("--chains", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="on one device")
    parser.add_argument("--devices", type=int, nargs="+", default=[2, 4, 8], help="for --spread chains")
    parser.add_argument("--spread", type=int, default=8, help="chains to spread, a multiple of all numbers of devices")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10, help="of a call")
    parser.add_argument("--serve", nargs=3, metavar=("PRESET", "CHAINS", "STEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        preset, num_chains, num_steps = arguments.serve
        return serve(preset, int(num_chains), int(num_steps))
    settings = [(num_chains, 1) for num_chains in arguments.chains]
    settings += [(arguments.spread, num_devices) for num_devices in arguments.devices]
    print(head("preset", "chains", "devices", "ms/step", "ms/chain/step", "ms/chain/step / first row"), flush=True)
    for preset in arguments.presets:
        print("\n".join(compare(preset, settings, arguments.rounds, arguments.steps)), flush=True)
    print(f"\nMedians of {arguments.rounds} rounds of {arguments.steps} steps. {environment()}")


if __name__ == "__main__":
    main()
