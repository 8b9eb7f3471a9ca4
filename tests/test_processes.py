"""Several processes share one run: the samples of one process, a clear end when one is lost, and a resume."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import environment

from bnn_jax.checkpoint import load_arrays

SETTINGS = {
    "model.num_blocks": 1,
    "model.num_features": 4,
    "model.l_max": 0,
    "model.radial_hidden": [4],
    "model.std_hidden": [4],
    "sampler.convergence_steps": 60,
    "sampler.cycle_steps": 20,
    "sampler.log_every": 10,
}
LENGTH = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
SCRIPT = "import sys; from bnn_jax.cli import main; sys.exit(main())"
COMMAND = [sys.executable, "-c", SCRIPT, "fit", "ammonia"]
SLOW_REPORT = """
import importlib, time
load = importlib.import_module
def slowed(name, package=None):
    module = load(name, package)
    if name == "bnn_jax.cli.fit":
        write = module.write_run_report
        module.write_run_report = lambda *arguments: time.sleep(8) or write(*arguments)
    return module
importlib.import_module = slowed
"""
"""Longer than JAX waits at the end for a process that is late."""


def start(folder, index=0, count=1, *options, before=""):
    """One process of ``count``, as Open MPI's launcher would start it."""
    arguments = [
        *(before + part if part == SCRIPT else part for part in COMMAND),
        "--out",
        str(folder),
        "--preset",
        "tiny",
        "--valid",
        "8",
        "--samples",
        "3",
        *LENGTH,
        *options,
    ]
    launched = {}
    if count > 1:
        launched = {
            "OMPI_MCA_orte_hnp_uri": f"{(os.getpid() % 4000) * 4096}.0;tcp://127.0.0.1:1",
            "OMPI_COMM_WORLD_SIZE": str(count),
            "OMPI_COMM_WORLD_RANK": str(index),
            "OMPI_COMM_WORLD_LOCAL_RANK": str(index),
        }
        arguments.append("--distributed")
    variables = environment() | {"JAX_NUM_CPU_DEVICES": "1" if count > 1 else "2"} | launched
    return subprocess.Popen(arguments, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    code, _, err = finish(start(folder, 0, 1, "--chains", "2"))
    assert code == 0, err
    return folder


def assert_same_samples(run, other):
    ours, theirs = (load_arrays(folder / "posterior.safetensors") for folder in (run, other))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_two_processes_sample_what_one_does(alone, tmp_path):
    run = tmp_path / "run"
    both = [start(run, index, 2, "--chains", "2", before=SLOW_REPORT) for index in range(2)]
    (code, out, err), (other_code, other_out, other_err) = map(finish, both)
    assert (code, other_code) == (0, 0), err + other_err
    own, other_own = ([line for line in text.splitlines() if "Gloo" not in line] for text in (out, other_out))
    assert own[0].startswith("fitting") and other_own == []
    assert "Traceback" not in err + other_err
    assert_same_samples(run, alone)
    assert {path.name for path in alone.iterdir()} == {path.name for path in run.iterdir()}


@pytest.mark.slow
def test_a_lost_process_ends_the_others_and_the_run_resumes_in_one(alone, tmp_path):
    run = tmp_path / "run"
    both = [start(run, index, 2, "--chains", "2", "--set", "sampler.num_samples=3") for index in range(2)]
    deadline = time.monotonic() + 200
    while not list(run.glob("checkpoint-*")) and time.monotonic() < deadline and both[0].poll() is None:
        time.sleep(0.01)
    both[1].send_signal(signal.SIGKILL)
    code, _, err = finish(both[0])
    assert finish(both[1])[0] in (-signal.SIGKILL, 0)
    assert code in (0, 4)  # it may have been done just then
    if code == 4:
        sentence = err.splitlines()[-1]
        assert re.fullmatch(
            r"error: Another process of this run has ended \(.*\); start all of them again .*", sentence
        )
        assert "Traceback" not in err
        code, _, err = finish(start(run, 0, 1, "--chains", "2", "--resume"))
        assert code == 0 and "goes on from step" in err and "the same to rounding" in err
    assert_same_samples(run, alone)


def test_processes_that_the_chains_cannot_be_spread_over(tmp_path):
    both = [start(tmp_path / "run", index, 2, "--chains", "1") for index in range(2)]
    for code, _, err in map(finish, both):
        assert code == 2
        assert re.search(
            r"error: 1 chains of 1 devices each cannot be spread evenly over 2 devices of 2 processes;", err
        )
    assert not (tmp_path / "run").exists()


def test_without_a_launcher(tmp_path):
    code, _, err = finish(start(tmp_path / "run", 0, 1, "--distributed"))
    assert code == 2
    assert re.fullmatch(r"error: --distributed finds no other processes \(.*\); start .*\n", err)
    assert not (tmp_path / "run").exists()
