"""A fault campaign: kills, full disks, damaged files, signals and memory limits, and what each of them costs.

From the repository's root, on Linux::

    python benchmarks/faults.py

Every trial drives the command line as a user does. What a run gives after its faults is compared, bit for bit, with
what the same run gives without: a sample that is missing is lost, one that differs is wrong. A trial also fails if a
traceback reaches the user, or the exit code is none that the command promises.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that `python benchmarks/faults.py` works too

from benchmarks.timing import machine
from bnn_jax.checkpoint import DamagedFileError, load_arrays

SETTINGS = {
    "model.num_blocks": 1,
    "model.num_features": 8,
    "model.std_hidden": "[8]",
    "sampler.convergence_steps": 1500,
    "sampler.cycle_steps": 250,
    "sampler.num_samples": 6,
    "sampler.num_chains": 2,
    "sampler.log_every": 50,
}
"""A run whose samples, and so its checkpoints, follow one another within a second."""
DATA = ("ammonia", "ammonia/test")
USER_ERROR, INTERRUPTED, TERMINATED = 2, 130, 143
DISK_BYTES = 80_000_000


class Outcome(NamedTuple):
    """A line of the table."""

    fault: str
    trials: int
    lost: int
    """Samples of the uninterrupted run that are missing in the end."""
    wrong: int
    """Samples, logs or metrics that differ, and damaged files that were taken for sound."""
    tracebacks: int
    exits: str
    """How often the faulted process ended with each exit code; negative ones are signals."""


class Done(NamedTuple):
    """An ended process."""

    code: int
    text: str


class Process(subprocess.Popen):
    """A process whose output goes to a file: a pipe that nobody reads would stop it when it is full."""

    def __init__(self, command: list[str], variables: dict[str, str]) -> None:
        self.output = tempfile.TemporaryFile("w+")
        super().__init__(command, env=variables, stdout=self.output, stderr=subprocess.STDOUT)


class Bench(NamedTuple):
    """Where the campaign works, and what an undisturbed run gives."""

    folder: Path
    variables: dict[str, str]
    reference: Path
    fit_seconds: float
    evaluate_seconds: float
    rng: random.Random


def fit_arguments(run: Path) -> list[str]:
    settings = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    return ["fit", DATA[0], "--preset", "tiny", "--test", DATA[1], "--out", str(run), "--resume", *settings]


def evaluate_arguments(run: Path, out: Path) -> list[str]:
    return ["evaluate", str(run), DATA[1], "--json", str(out / "scores.json"), "--plots", str(out / "plots")]


def start(arguments: list[str], variables: dict[str, str], limit: int | None = None) -> Process:
    command = [sys.executable, "-c", "import sys; from bnn_jax.cli import main; sys.exit(main())", *arguments]
    if limit is not None:
        command = ["sh", "-c", f'ulimit -v {limit // 1024}; exec "$@"', "sh", *command]
    return Process(command, variables)


def finish(process: Process) -> Done:
    code = process.wait()
    with process.output:
        process.output.seek(0)
        return Done(code, process.output.read())


def signalled(process: Process, seconds: float, number: int) -> Done:
    """The process, hit by a signal so many seconds after its start unless it has ended by then."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    if process.poll() is None:
        process.send_signal(number)
    return finish(process)


def prepare(folder: Path, seed: int) -> Bench:
    """Run undisturbed, twice so that the second finds everything compiled, and take the times."""
    inherited = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}  # set by JAX here
    variables = inherited | {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    for name in ("warm", "reference"):
        begin = time.monotonic()
        done = finish(start(fit_arguments(folder / name), variables))
        fit_seconds = time.monotonic() - begin
        if done.code:
            raise SystemExit(f"The undisturbed run failed:\n{done.text}")
    begin = time.monotonic()
    (folder / "scores").mkdir()
    done = finish(start(evaluate_arguments(folder / "reference", folder / "scores"), variables))
    if done.code:
        raise SystemExit(f"The undisturbed evaluation failed:\n{done.text}")
    evaluate_seconds = time.monotonic() - begin
    return Bench(folder, variables, folder / "reference", fit_seconds, evaluate_seconds, random.Random(seed))


def compare(bench: Bench, run: Path) -> tuple[int, int]:
    """Samples that the run lacks, and samples, log and metrics in which it differs."""
    file = "posterior.safetensors"
    wanted = load_arrays(bench.reference / file)
    num_samples = len(next(iter(wanted.values())))
    if not (run / file).exists():
        return num_samples, 0
    found = load_arrays(run / file)
    lost = num_samples - len(next(iter(found.values())))
    if lost:
        return lost, 0
    wrong = sum(any((found[name][i] != wanted[name][i]).any() for name in wanted) for i in range(num_samples))
    wrong += (run / "log.jsonl").read_bytes() != (bench.reference / "log.jsonl").read_bytes()
    scores = [json.loads((folder / "metrics.json").read_text()) for folder in (run, bench.reference)]
    for each in scores:
        del each["seconds"]
    return 0, wrong + (scores[0] != scores[1])


def settle(bench: Bench, run: Path, done: list[Done]) -> tuple[int, int]:
    """Let the run go on to its end, compare it and remove it; an end in error joins ``done``."""
    last = finish(start(fit_arguments(run), bench.variables))
    done += [last] if last.code else []
    differences = compare(bench, run)
    shutil.rmtree(run)
    return differences


def summarise(fault: str, done: list[Done], differences: list[tuple[int, int]], allowed: set[int]) -> Outcome:
    lost, wrong = (sum(counts) for counts in zip(*differences, strict=True))
    codes = [each.code for each in done]
    tracebacks = sum("Traceback" in each.text for each in done)
    for each in done:
        wrong += each.code not in allowed
        if each.code not in allowed or "Traceback" in each.text:
            print(f"{fault}: exit code {each.code} after\n{each.text[-2000:]}", file=sys.stderr)
    exits = ", ".join(f"{codes.count(code)}x {code}" for code in sorted(set(codes)))
    return Outcome(fault, len(done), lost, wrong, tracebacks, exits)


def signals_on_fit(bench: Bench, name: str, number: int, trials: int, allowed: set[int]) -> Outcome:
    """Signals at random moments, each process continuing the one before, until so many have hit; then to the end."""
    done, differences, hits = [], [], 0
    while hits < trials:
        run = bench.folder / f"{name.split()[0]}-{len(differences)}"
        finished = False
        while hits < trials and not finished:
            process = start(fit_arguments(run), bench.variables)
            # From the moment when Python itself has started, whose own traceback nobody can hold back.
            done.append(signalled(process, bench.rng.uniform(0.3, bench.fit_seconds), number))
            finished = done[-1].code == 0
            hits += not finished
        differences.append(settle(bench, run, done))
    return summarise(f"{name} during fit", done, differences, {0, *allowed})


def kills_on_evaluate(bench: Bench, trials: int) -> Outcome:
    """The figures are those of an undisturbed evaluation, or absent; the run is as it was."""
    done, wrong = [], 0
    wanted = json.loads((bench.folder / "scores" / "scores.json").read_text())
    before = {path: path.read_bytes() for path in bench.reference.glob("*.*")}
    while sum(each.code == -signal.SIGKILL for each in done) < trials:
        out = bench.folder / "evaluate"
        out.mkdir()
        process = start(evaluate_arguments(bench.reference, out), bench.variables)
        done.append(signalled(process, bench.rng.uniform(0.3, 1.0) * bench.evaluate_seconds, signal.SIGKILL))
        if (out / "scores.json").exists():
            found = json.loads((out / "scores.json").read_text())
            wrong += any(found[key] != value for key, value in wanted.items() if key != "seconds")
        shutil.rmtree(out)
    wrong += sum(path.read_bytes() != content for path, content in before.items())
    return summarise("kill -9 during evaluate", done, [(0, wrong)], {0, -signal.SIGKILL})


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of some megabytes, where this user may mount one; None elsewhere."""
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], capture_output=True
    )
    try:
        yield disk if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(disk)], check=True)


def full_disk(bench: Bench, trials: int) -> Outcome:
    """The disk fills up at a random moment; room is made, and the run goes on."""
    done, differences = [], []
    with small_disk(bench.folder) as disk:
        if disk is None:
            return Outcome("full disk (not tried: this user cannot mount one)", 0, 0, 0, 0, "")
        for trial in range(trials):
            run, filler = disk / f"run-{trial}", disk / "filler"
            process = start(fit_arguments(run), bench.variables)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(bench.rng.uniform(0.2, 0.9) * bench.fit_seconds)
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as handle:
                while handle.write(bytes(10_000)):
                    pass
            done.append(finish(process))
            filler.unlink()
            differences.append(settle(bench, run, done))
    return summarise("full disk during fit", done, differences, {0, USER_ERROR})


def half_done(bench: Bench, run: Path) -> list[Path]:
    """A run killed after its second sample, and its checkpoints, newest first."""
    process = start(fit_arguments(run), bench.variables)
    while process.poll() is None and len(list(run.glob("checkpoint-*"))) < 2:
        time.sleep(0.01)
    process.kill()
    finish(process)
    return sorted(run.glob("checkpoint-*"), key=lambda path: -int(re.findall(r"\d+", path.name)[-1]))


def damaged_files(bench: Bench, name: str, damage: Callable[[bytes], bytes], trials: int) -> Outcome:
    """Copies of a checkpoint, damaged and read: none may be taken for sound."""
    sound = max(bench.reference.glob("checkpoint-*"), key=lambda path: int(re.findall(r"\d+", path.name)[-1]))
    content, copy, wrong = sound.read_bytes(), bench.folder / "copy.safetensors", 0
    for _ in range(trials):
        copy.write_bytes(damage(content))
        with contextlib.suppress(DamagedFileError):
            load_arrays(copy)
            wrong += copy.read_bytes() != content
    return Outcome(f"{name} of a checkpoint, read back ({len(content)} bytes)", trials, 0, wrong, 0, "")


def damaged_newest(bench: Bench, name: str, damage: Callable[[bytes], bytes], trials: int) -> Outcome:
    """A killed run whose newest checkpoint is damaged goes on from the one before, says so, and loses nothing."""
    done, differences = [], []
    for trial in range(trials):
        run = bench.folder / f"damaged-{trial}"
        newest, *_ = half_done(bench, run)
        newest.write_bytes(damage(newest.read_bytes()))
        done.append(finish(start(fit_arguments(run), bench.variables)))
        differences.append((0, "Falling back to the checkpoint before it" not in done[-1].text))
        differences.append(compare(bench, run))
        shutil.rmtree(run)
    return summarise(f"{name} of the newest checkpoint, fit --resume", done, differences, {0})


def memory_limits(bench: Bench, limits: list[int]) -> Outcome:
    """Address space too small for Python, for JAX, for XLA, for the run, and enough; then to the end without limit."""
    done, differences = [], []
    for limit in limits:
        run = bench.folder / f"memory-{limit}"
        done.append(finish(start(fit_arguments(run), bench.variables, limit)))
        differences.append(settle(bench, run, done))
    return summarise("memory limit during fit", done, differences, {0, USER_ERROR})


def flip(rng: random.Random) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)

    return damage


def truncate(rng: random.Random) -> Callable[[bytes], bytes]:
    return lambda content: content[: rng.randrange(len(content))]


def campaign(folder: Path, scale: float = 1.0, seed: int = 0, only: str = "") -> Iterator[Outcome]:
    """Every fault, or those with a word in their name, as often as the scale says (1 for 50 kills)."""
    bench = prepare(folder, seed)
    rng, size = bench.rng, max(path.stat().st_size for path in bench.reference.glob("checkpoint-*"))

    def times(count: int) -> int:
        return max(1, round(scale * count))

    limits = [int(gigabytes * 1e9) for gigabytes in np.geomspace(0.5, 16, times(8))]
    sigterm, sigint = {TERMINATED, -signal.SIGTERM}, {INTERRUPTED, -signal.SIGINT}
    faults: dict[str, Callable[[], Outcome]] = {
        "kill fit": lambda: signals_on_fit(bench, "kill -9", signal.SIGKILL, times(40), {-signal.SIGKILL}),
        "kill evaluate": lambda: kills_on_evaluate(bench, times(10)),
        "SIGTERM": lambda: signals_on_fit(bench, "SIGTERM", signal.SIGTERM, times(10), sigterm),
        "SIGINT": lambda: signals_on_fit(bench, "SIGINT (Ctrl-C)", signal.SIGINT, times(5), sigint),
        "disk": lambda: full_disk(bench, times(5)),
        "truncation, file": lambda: damaged_files(bench, "truncation", truncate(rng), times(size // 10)),
        "flip, file": lambda: damaged_files(bench, "flipped bit", flip(rng), times(5_000)),
        "truncation, run": lambda: damaged_newest(bench, "truncation", truncate(rng), times(3)),
        "flip, run": lambda: damaged_newest(bench, "flipped bit", flip(rng), times(3)),
        "memory": lambda: memory_limits(bench, limits),
    }
    for name, fault in faults.items():
        if only in name:
            yield fault()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the trials")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places of the faults")
    parser.add_argument("--only", default="", help="faults with this in their name: kill, SIG, disk, file, run, memory")
    options = parser.parse_args()
    print("| fault | trials | samples lost | wrong | tracebacks | exit codes |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for outcome in campaign(Path(folder), options.scale, options.seed, options.only):
            print(f"| {' | '.join(str(value) for value in outcome)} |", flush=True)
    print(f"\nSeed {options.seed}. {machine()}")


if __name__ == "__main__":
    main()
