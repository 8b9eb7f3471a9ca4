"""What an accelerator does with the package, in the minutes that there are, in order of value.

From the repository's root, on whatever device JAX has::

    python -m benchmarks.gpu --minutes 8 --out FOLDER

1. The tests marked ``gpu``: energies, forces, standard deviations and a step of the sampler against double precision.
2. Time of a step with 1 to 16 chains.
3. Energies and forces of 1 to 32 samples, from ethanol to 512 atoms of silicon.
4. What the card can do at best, to compare with what these programs need by XLA's count.
5. A plain e3nn-jax NequIP and, where PyTorch and it are installed, mir-group/nequip, in turn with this package.
6. The start of a run of preset ``paper`` on rMD17 ethanol.

``FOLDER/results.json`` is written anew after every part, and so is ``FOLDER/section.md``, a section for
``benchmarks/RESULTS.md``. When the time is over what is there stays, and the command ends.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the tests are a process of their own

import jax

from benchmarks.cases import PRESETS
from benchmarks.gpu import card, peers, predictions, steps, training
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.section import section
from benchmarks.timing import environment
from bnn_jax import InputError
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.config import PresetName

SHARES = {"tests": 0.25, "steps": 0.4, "predictions": 0.4, "peers": 0.4}
"""Of the time that is left when a part begins; the last part has what remains."""
GRACE_SECONDS = 5.0
"""For the last part, which heeds the clock itself, before the end by force."""
TRAINED = "paper"
"""The preset of the run, if it is among those asked for."""


class Results:
    """What has been found so far, in memory and in the folder."""

    def __init__(self, out: Path, about: dict[str, Any]) -> None:
        """Make the folder."""
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.found = out, about

    def add(self, part: str, value: Any) -> None:
        """Store a part, or what there is of it so far."""
        self.found[part] = value
        write_text_atomic(self.out / "results.json", json.dumps(self.found, indent=1))
        write_text_atomic(self.out / "section.md", section(self.found))


def run_tests(presets: list[PresetName], clock: Clock) -> dict[str, Any]:
    """The marked tests of these presets in a process of their own: their last line, and whether all passed."""
    seconds = clock.left()
    left_out = " or ".join(preset for preset in PRESETS if preset not in presets)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--import-mode=importlib", "-p", "no:cacheprovider"]
    # No type checks at run time, whose libraries may be absent; warnings are no errors, for the card's are unknown.
    command += ["-o", "addopts=", "-o", "filterwarnings=default", "-W", "ignore", "tests/test_accelerator.py"]
    command += ["-k", f"not ({left_out})"] if left_out else []
    try:
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"passed": None, "line": f"not finished within {seconds:.0f} s"}
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    return {"passed": done.returncode == 0, "line": done.stdout.strip().splitlines()[-1]}


def affordable_chains(records: list[dict[str, Any]], preset: str) -> int:
    """The most chains whose step takes at most twice as long as that of one, among those measured."""
    ms = {record["chains"]: record["ms_per_step"] for record in records if record["preset"] == preset}
    return max((chains for chains, value in ms.items() if 1 in ms and value <= 2 * ms[1]), default=1)


def run(presets: list[PresetName], data: Path | None, clock: Clock, results: Results) -> None:
    """All parts, each as far as its share of the time goes."""

    def collect(part: str, records: Any) -> list[Any]:
        found: list[Any] = []
        for record in records:
            found.append(record)
            results.add(part, found)
        return found

    def say(part: str) -> None:
        print(f"{part}: {clock.left():.0f} s left", file=sys.stderr, flush=True)

    say("tests")
    results.add("tests", run_tests(presets, clock.part(SHARES["tests"])))
    say("steps")
    timed = collect("steps", steps.measure(presets, clock.part(SHARES["steps"])))
    say("predictions")
    collect("predictions", predictions.measure(presets, clock.part(SHARES["predictions"])))
    say("card")
    results.add("card", card.measure())
    say("peers")
    collect("peers", peers.measure(presets, clock.part(SHARES["peers"])))
    preset: PresetName = TRAINED if TRAINED in presets else presets[0]
    say("training")
    try:
        collect("training", training.measure(preset, affordable_chains(timed, preset), data, clock))
    except InputError as error:
        print(f"No run on rMD17 ethanol: {error}", file=sys.stderr)


def end_at(clock: Clock, end: Callable[[], None]) -> None:
    """Call ``end`` when the time is over, whatever is being computed then."""

    def wait() -> None:
        time.sleep(clock.left())
        end()

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="that it takes, start and compilation included")
    parser.add_argument("--out", type=Path, required=True, help="folder of results.json and section.md")
    parser.add_argument(
        "--presets", nargs="+", choices=PRESETS, default=["paper", "small", "tiny"], help="in this order"
    )
    parser.add_argument("--data", type=Path, help="file of rMD17 ethanol; default: found beside, or downloaded")
    arguments = parser.parse_args()
    clock = Clock.of(60 * arguments.minutes)
    about = {
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
        "environment": environment(),
        "platform": jax.devices()[0].client.platform_version.replace("\n", " "),
        "num_devices": len(jax.devices()),
    }
    results = Results(arguments.out, about)

    def end() -> None:
        print(f"{arguments.out} has what was found.", file=sys.stderr, flush=True)
        os._exit(0)  # a compilation cannot be stopped otherwise

    end_at(Clock(clock.end + GRACE_SECONDS), end)
    run(arguments.presets, arguments.data, clock, results)
    end()


if __name__ == "__main__":
    main()
