"""Promises 3, 5 and 8 of a whole run: resume bit for bit, independent chains, divergence stops at a checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.testing import assert_allclose, assert_array_equal

from bnn_jax.atoms import Dataset
from bnn_jax.checkpoint import is_leftover
from bnn_jax.config import Config
from bnn_jax.methods import Posterior, recorder, sghmc
from bnn_jax.types import InputError
from tests import systems

SAMPLER = {
    "convergence_steps": 12,
    "cycle_steps": 6,
    "num_samples": 3,
    "num_chains": 2,
    "batch_size": 2,
    "log_every": 5,
    "step_size_first": 1e-3,
}
# The least of a network: what is tested is all around it, and every run traces it anew.
MODEL = {"num_blocks": 1, "num_features": 2, "l_max": 0, "cutoff": 3.0, "num_bessel": 2, "radial_hidden": []}
MODEL |= {"std_hidden": []}
LOG_STEPS = [5, 10, 12, 15, 18, 20, 24]


def config_of(**sampler) -> Config:
    return Config.from_dict({"model": MODEL, "sampler": SAMPLER | sampler})


def train_set(seed: int = 0) -> Dataset:
    return Dataset.from_atoms(
        [*systems.labelled_series(systems.water(), 3, seed=seed), *systems.labelled_series(systems.ammonia(), 2)]
    )


def run(out: Path | None = None, config: Config | None = None, seed: int = 0, **options) -> Posterior:
    return sghmc.fit(
        jax.random.key(seed),
        options.pop("train", train_set()),
        Dataset.from_atoms(systems.labelled_series(systems.water(), 2, seed=9)),
        config or config_of(),
        seed=seed,
        out=out,
        progress=False,
        **options,
    )


def leaves(posterior: Posterior) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(posterior.samples)]


def assert_same_samples(first: Posterior, second: Posterior) -> None:
    for one, other in zip(leaves(first), leaves(second), strict=True):
        assert_array_equal(one, other)


def log_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if not is_leftover(file)}


COMPILED = {}


@pytest.fixture(autouse=True, scope="module")
def compile_once() -> Iterator[None]:
    """Runs that differ in nothing that is compiled share it: a resumed run takes the chunk of the one before."""
    build, watch = sghmc.build_chains, sghmc.watch

    def shared_build(rng_key, packed, config, *devices):
        key = (str(jax.random.key_data(rng_key)), config, devices, packed.positions.shape, packed.senders.shape)
        if key not in COMPILED:
            COMPILED[key] = build(rng_key, packed, config, *devices)
        return COMPILED[key]

    def shared_watch(valid, config, statistics, figures_fn):
        key = valid.fingerprint(), config.model, figures_fn
        if key not in COMPILED:
            COMPILED[key] = watch(valid, config, statistics, figures_fn)
        return COMPILED[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sghmc, "build_chains", shared_build)
        patched.setattr(sghmc, "watch", shared_watch)
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Posterior, Path]:
    path = tmp_path_factory.mktemp("run") / "whole"
    return run(path), path


@pytest.fixture(autouse=True)
def checkpoint_at_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)


class Killed(BaseException):
    """Stands for a signal: no handler of exceptions sees it."""


def killed(calls: int, function: Callable, *, after: bool) -> Callable:
    """``function``, but the given call of it is the last thing that happens, done or not."""
    count = 0

    def wrapper(*args, **keys):
        nonlocal count
        count += 1
        if count == calls and not after:
            raise Killed
        result = function(*args, **keys)
        if count == calls:
            raise Killed
        return result

    return wrapper


def test_run_holds_what_was_asked_for(uninterrupted: tuple[Posterior, Path]) -> None:
    posterior, path = uninterrupted
    assert posterior.num_samples == 6 and posterior.num_chains == 2
    rows = log_rows(path)
    assert [row["step"] for row in rows] == LOG_STEPS
    assert rows[-1]["num_samples"] == 3
    assert all(np.isfinite(value) for row in rows for value in row.values())
    for leaf in leaves(posterior):
        assert np.isfinite(leaf).all()
        assert len(np.unique(leaf.reshape(6, -1), axis=0)) == 6  # samples of two chains, none twice
    posterior.save(path)
    assert_same_samples(Posterior.load(path), posterior)
    (path / "posterior.safetensors").unlink()


@pytest.mark.parametrize(
    ("function", "calls", "after"),
    [
        ("save_checkpoint", 1, False),  # before anything was saved
        ("save_checkpoint", 1, True),
        ("save_checkpoint", 4, False),
        ("save_checkpoint", 6, True),
        ("append_jsonl", 3, True),  # the log is ahead of the checkpoint
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    function: str,
    calls: int,
    after: bool,
    uninterrupted: tuple[Posterior, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(recorder, function, killed(calls, getattr(recorder, function), after=after))
        with pytest.raises(Killed):
            run(tmp_path)
    assert not (tmp_path / "posterior.safetensors").exists()
    assert_same_samples(run(tmp_path, resume=True), uninterrupted[0])
    for one, other in zip(log_rows(tmp_path), log_rows(uninterrupted[1]), strict=True):
        assert one == other


@pytest.mark.slow
def test_killed_by_a_signal_and_resumed_in_another_process(
    uninterrupted: tuple[Posterior, Path], tmp_path: Path
) -> None:
    path = tmp_path / "run"
    command = "import sys, pathlib; from tests.methods import test_sghmc as t; t.recorder.CHECKPOINT_SECONDS = 0.0; "
    command += "t.run(pathlib.Path(sys.argv[1]))"
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", command, str(path)], cwd=root)
    try:
        while process.poll() is None and not list(path.glob("checkpoint-*")):
            time.sleep(0.001)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    assert_same_samples(run(path, resume=True), uninterrupted[0])


def test_resuming_a_finished_run_changes_nothing(uninterrupted: tuple[Posterior, Path]) -> None:
    posterior, path = uninterrupted
    before = contents(path)
    assert_same_samples(run(path, resume=True), posterior)
    assert contents(path) == before


def test_rows_of_the_log_do_not_change_the_samples(uninterrupted: tuple[Posterior, Path]) -> None:
    assert_same_samples(run(config=config_of(log_every=7)), uninterrupted[0])


def test_validation_set_does_not_change_the_samples(uninterrupted: tuple[Posterior, Path]) -> None:
    without = sghmc.fit(jax.random.key(0), train_set(), None, config_of(), progress=False)
    assert_same_samples(without, uninterrupted[0])


def test_a_chain_alone_equals_the_first_of_several(uninterrupted: tuple[Posterior, Path]) -> None:
    """Keys and minibatches of a chain do not depend on how many run beside it."""
    alone = run(config=config_of(num_chains=1))
    for one, several in zip(leaves(alone), leaves(uninterrupted[0]), strict=True):
        # 24 steps of float32, in which a step's rounding (1e-7) grows little at these step sizes
        assert_allclose(one, several[:3], rtol=1e-3, atol=1e-4)
        assert np.abs(several[3:] - several[:3]).max() > 1e-3


def test_another_seed_gives_other_samples(uninterrupted: tuple[Posterior, Path]) -> None:
    other = run(seed=1)
    assert all((one != two).any() for one, two in zip(leaves(other), leaves(uninterrupted[0]), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"train": train_set(seed=5)},
            "was sampled on other training data; give the same data or choose another --out",
        ),
        ({"seed": 1}, "has another seed or configuration; leave them out to resume, or choose another --out"),
        ({"config": config_of(alpha=0.2)}, "has another seed or configuration; leave them out to resume"),
    ],
)
def test_another_run_is_not_continued(options: dict, message: str, uninterrupted: tuple[Posterior, Path]) -> None:
    path = uninterrupted[1]
    before = contents(path)
    with pytest.raises(InputError, match=message) as error:
        run(path, resume=True, **options)
    assert str(path) in str(error.value)
    assert contents(path) == before


def test_a_folder_in_use_is_not_overwritten(uninterrupted: tuple[Posterior, Path]) -> None:
    with pytest.raises(InputError, match="already holds files; continue its run with --resume or choose another --out"):
        run(uninterrupted[1])


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ({"num_samples": 0}, r"sampler.num_samples is 0; it must be at least 1"),
        ({"cycle_step_size": 0.0}, r"sampler.cycle_step_size is 0.0; it must be positive"),
        ({"step_size_first": float("nan")}, r"sampler.step_size_first is nan; it must be positive"),
        ({"batch_size": 6}, r"sampler.batch_size is 6 and the training set has 5 structures; lower it"),
    ],
)
def test_settings_that_cannot_work_are_refused(sampler: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(config=config_of(**sampler))


def test_data_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match="The training set has no energy and no forces; give labelled structures"):
        run(train=Dataset.from_atoms([systems.water(), systems.ammonia()]))
    with pytest.raises(InputError, match="Structure 0 of the valid set holds O, which no training structure has"):
        run(train=Dataset.from_atoms(systems.labelled_series(systems.ammonia(), 5)))


def test_energies_alone_and_forces_alone_are_enough() -> None:
    for name in ("energy", "forces"):
        train = systems.labelled_series(systems.water(), 4)
        for atoms in train:
            atoms.calc = SinglePointCalculator(atoms, **{name: atoms.calc.results[name]})
        posterior = run(train=Dataset.from_atoms(train), config=config_of(num_chains=1, num_samples=1))
        assert all(np.isfinite(leaf).all() for leaf in leaves(posterior))


@pytest.mark.parametrize(
    ("available", "what"), [(10**6, "the compilation of the network"), (2 * 10**9, "a step of this")]
)
def test_a_run_that_does_not_fit_the_memory_makes_no_folder(
    available: int, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnn_jax.memory.available_memory", lambda: available)
    monkeypatch.setattr(sghmc, "peak_bytes", lambda _: 3 * 10**9)
    with pytest.raises(InputError, match=f"{what}.* needs .*; lower sampler.batch_size, sampler.num_chains or"):
        run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_does_not_fit_the_disk_starts_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnn_jax.checkpoint.files.free_disk", lambda _: 2**20)
    with pytest.raises(InputError, match=r"The checkpoints of this run need .*, whose disk has 1 MiB left"):
        run(tmp_path / "run")
    monkeypatch.undo()
    assert run(tmp_path / "run", resume=True).num_samples == 6


def cut_short(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(recorder, "save_checkpoint", killed(3, recorder.save_checkpoint, after=True))
        with pytest.raises(Killed):
            run(path)


def test_a_resumed_run_says_whether_it_is_the_same_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cut_short(tmp_path, monkeypatch)
    step = max(int(path.stem.split("-")[1]) for path in tmp_path.glob("checkpoint-*.safetensors"))
    with caplog.at_level("INFO"):
        run(tmp_path, resume=True)
    assert f"goes on from step {step}: as if it had not stopped, the same bit for bit." in caplog.text


def test_a_run_resumed_elsewhere_says_that_it_is_the_same_to_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cut_short(tmp_path, monkeypatch)
    record = json.loads((tmp_path / "run.json").read_text())
    number = record["environment"]["num_devices"]
    record["environment"]["num_devices"] = number + 7
    (tmp_path / "run.json").write_text(json.dumps(record))
    with caplog.at_level("INFO"):
        run(tmp_path, resume=True)
    assert f"the same to rounding (num_devices {number} instead of {number + 7})" in caplog.text


def test_an_interrupt_between_rows_is_saved_and_changes_nothing(
    uninterrupted: tuple[Posterior, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is of the last turn, in the midst of a row of the log."""
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 1e9)
    drive = sghmc.drive

    def interrupted(*arguments):
        for turn in drive(*arguments):
            if turn.row is None and int(turn.progress.step) > 5:
                signal.raise_signal(signal.SIGINT)
            yield turn

    with monkeypatch.context() as patched:
        patched.setattr(sghmc, "drive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert int(checkpoint.stem.split("-")[1]) not in LOG_STEPS
    assert_same_samples(run(tmp_path, resume=True), uninterrupted[0])
    assert log_rows(tmp_path) == log_rows(uninterrupted[1])
