"""Cold compile time, operations and memory of the SGHMC step and of the predictor: a Markdown table.

From the repository's root::

    python -m benchmarks.compile_and_memory

Each row comes from a process of its own without a compilation cache. FLOPs are of the program as traced, for XLA's
backends hide some in library calls; they are a batch's for one step, or for the samples that a device computes
together (one on a CPU), for the body of a loop counts once. Bytes and memory are of the compiled program, as XLA's cost
and memory analyses state them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks.cases import PRESETS, build_case, build_predictions, build_steps
from benchmarks.timing import environment, head, row

NUM_SAMPLES = 8
PROGRAMS = ("step", "predictor")


def analyse(preset: str, program: str) -> dict[str, Any]:
    """Trace and compile one program; times in s, memory in bytes."""
    case = build_case(preset)
    batch_size = case.config.sampler.batch_size
    # A chunk of one step: XLA counts the body of a loop of unknown length once.
    if program == "step":
        chunk, arguments = build_steps(case, 1)
        jitted = chunk.jitted
    else:
        jitted, arguments = build_predictions(case, NUM_SAMPLES, batch_size)
    start = time.perf_counter()
    lowered = jitted.lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    finished = time.perf_counter()
    memory = compiled.memory_analysis()
    return {
        "batch_size": batch_size,
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(case.params(1))),
        "trace_s": traced - start,
        "compile_s": finished - traced,
        "flops": lowered.cost_analysis()["flops"],
        "bytes_accessed": compiled.cost_analysis()["bytes accessed"],
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
    }


def in_fresh_process(preset: str, program: str) -> dict[str, Any]:
    """:func:`analyse` in a process that has compiled nothing and reads no cache."""
    variables = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compile_and_memory", "--analyse", preset, program],
        env=variables | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--analyse", nargs=2, metavar=("PRESET", "PROGRAM"), help="print one row's figures as JSON")
    arguments = parser.parse_args()
    if arguments.analyse:
        print(json.dumps(analyse(*arguments.analyse)))
        return
    columns = ("trace, s", "compile, s", "GFLOP", "GB accessed", "arguments, MB", "outputs, MB", "temporary, MB")
    print(head("program", "preset", "batch", "parameters", *columns))
    for preset in arguments.presets:
        for program in PROGRAMS:
            found = in_fresh_process(preset, program)
            times = [f"{found[name]:.1f}" for name in ("trace_s", "compile_s")]
            work = [f"{found[name] / 1e9:.3g}" for name in ("flops", "bytes_accessed")]
            memory = [f"{found[name] / 1e6:.1f}" for name in ("argument_bytes", "output_bytes", "temp_bytes")]
            name = program if program == "step" else f"predictor, {NUM_SAMPLES} samples"
            print(row(name, preset, found["batch_size"], f"{found['num_parameters']:,}", *times, *work, *memory))
            sys.stdout.flush()
    print(f"\n{environment()}")


if __name__ == "__main__":
    main()
