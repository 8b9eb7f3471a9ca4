"""The commands do what their help says, refuse bad input in one sentence, and survive a kill."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from commands import MODEL, SAMPLER, SETTINGS, contents, environment, write_ammonia

import bnn_jax
from bnn_jax.checkpoint import load_arrays, read_jsonl
from bnn_jax.cli import main
from bnn_jax.comparison import campaign, measure
from bnn_jax.config.presets import PRESETS
from bnn_jax.units import EV_PER_KCAL_PER_MOL

SCRIPT = """
import sys, time
from bnn_jax.methods import recorder
append = recorder.append_jsonl
recorder.append_jsonl = lambda *arguments: (append(*arguments), time.sleep(0.5))
from bnn_jax.cli import main
sys.exit(main())
"""
"""The command in a process of its own, slowed so that a signal meets it at work."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    return write_ammonia(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def run(files, tmp_path_factory) -> Path:
    """A finished run with a test set."""
    out = tmp_path_factory.mktemp("runs") / "first"
    arguments = ["fit", files["train"], "--out", str(out), "--valid", "4", "--test", files["test"], "--seed", "3"]
    assert main([*arguments, *SETTINGS]) == 0
    return out


def test_fit_leaves_posterior_diagnostics_metrics_and_plots(run):
    names = set(contents(run))
    assert {"posterior.safetensors", "config.yaml", "run.json", "log.jsonl", "diagnostics.json"} <= names
    assert {"metrics.json", "plots/training.png", "plots/rhat.png", "plots/test/forces_parity.png"} <= names
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["units"]["energy"] == "eV" and metrics["num_structures"] == 3
    diagnostics = json.loads((run / "diagnostics.json").read_text())
    assert diagnostics["num_quantities"] == 4 * (1 + 12)
    record = json.loads((run / "run.json").read_text())
    assert (record["seed"], record["metadata"]["num_train"], record["metadata"]["num_valid"]) == (3, 16, 4)
    sampler = yaml.safe_load((run / "config.yaml").read_text())["sampler"]
    assert {key: sampler[key] for key in SAMPLER} == SAMPLER
    assert bnn_jax.Posterior.load(run).num_samples == 4


def test_evaluate_prints_a_table_and_writes_strict_json(run, files, tmp_path, capsys):
    path, plots = tmp_path / "scores.json", tmp_path / "plots"
    assert main(["evaluate", str(run), files["test"], "--json", str(path), "--plots", str(plots)]) == 0
    scores = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    expected = bnn_jax.evaluate(bnn_jax.Posterior.load(run), bnn_jax.load(files["test"]))
    for key, value in expected.items():
        if key == "seconds":
            assert scores[key] > 0
        elif math.isnan(value):
            assert scores[key] is None
        else:
            assert scores[key] == pytest.approx(value, rel=1e-6)
    needed = "energy_mae energy_rmse energy_mll forces_mae forces_rmse forces_mll forces_auroc forces_nece units"
    assert set(needed.split()) <= set(scores)
    assert (plots / "forces_parity.png").stat().st_size > 1000
    table = capsys.readouterr().out
    ev, kcal = re.search(r"^forces MAE +(\S+) +(\S+)$", table, re.MULTILINE).groups()
    assert float(kcal) * EV_PER_KCAL_PER_MOL == pytest.approx(float(ev), rel=2e-3)
    row = re.search(r"^energy MLL +(\S+) +(\S+) +(\S+) +(\S+)$", table, re.MULTILINE).groups()
    assert [float(value) for value in row[:2]] == pytest.approx(
        [expected["energy_mll"], expected["energy_mll_aleatoric"]], rel=1e-3
    )
    if abs(float(row[0])) < 1000:  # else four digits do not show the shift
        shift = math.log(EV_PER_KCAL_PER_MOL)
        assert float(row[2]) - float(row[0]) == pytest.approx(
            shift, abs=2e-3 * max(abs(float(row[0])), abs(float(row[2])))
        )


def test_predict_writes_means_and_stds(run, files, tmp_path):
    out = tmp_path / "out.xyz"
    assert main(["predict", str(run), files["test"], str(out)]) == 0
    structures = bnn_jax.load(files["test"])
    predictive = bnn_jax.Posterior.load(run).predict(structures)
    frames = ase.io.read(out, ":")
    assert len(frames) == 3
    np.testing.assert_allclose([frame.get_potential_energy() for frame in frames], predictive.energy, rtol=1e-9)
    np.testing.assert_allclose(np.concatenate([f.get_forces() for f in frames]), predictive.forces, atol=1e-7)
    for name in ("energy_std", "energy_std_aleatoric", "energy_std_epistemic"):
        np.testing.assert_allclose([frame.info[name] for frame in frames], getattr(predictive, name), rtol=1e-6)
    for name in ("forces_std", "forces_std_aleatoric", "forces_std_epistemic"):
        written = np.concatenate([frame.arrays[name] for frame in frames])
        np.testing.assert_allclose(written, getattr(predictive, name), atol=1e-7)
    again = bnn_jax.load(out)  # our own reader takes it too
    np.testing.assert_allclose(again.energy, predictive.energy, rtol=1e-9)


def test_predict_does_not_overwrite_unless_told(run, files, tmp_path, capsys):
    out = tmp_path / "out.xyz"
    out.write_text("precious")
    assert main(["predict", str(run), files["test"], str(out)]) == 2
    assert "out.xyz exists already; give --overwrite" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert main(["predict", str(run), files["test"], str(out), "--overwrite"]) == 0
    assert len(ase.io.read(out, ":")) == 3


def test_a_finished_run_is_not_overwritten(run, files, capsys):
    before = contents(run)
    assert main(["fit", files["train"], "--out", str(run)]) == 2
    assert "already holds files; continue its run with --resume" in capsys.readouterr().err
    assert contents(run) == before


def test_evaluate_tells_of_each_family(run, files, tmp_path, capsys):
    frames = ase.io.read(files["test"], ":")
    for atoms, name in zip(frames, ("bent", "flat", "bent"), strict=True):
        atoms.info["config_type"] = name
    test, path = tmp_path / "test.xyz", tmp_path / "scores.json"
    ase.io.write(test, frames)
    assert main(["evaluate", str(run), str(test), "--families", "config_type", "--json", str(path)]) == 0
    found = json.loads(path.read_text())["families"]
    expected = bnn_jax.evaluate(bnn_jax.Posterior.load(run), bnn_jax.load(test).take(np.array([0, 2])))
    assert list(found) == ["bent", "flat"] and found["bent"]["num_structures"] == 2
    assert found["bent"]["forces_rms_z"] == pytest.approx(expected["forces_rms_z"], rel=1e-4)
    row = re.search(r"^bent +(\S+) +(\S+) +(\S+) +(\S+) +\S+ +\S+ +(\S+)", capsys.readouterr().out, re.MULTILINE)
    assert row is not None and row[1] == "2"
    assert [float(row[i]) for i in (3, 5)] == pytest.approx(
        [found["bent"]["energy_mae"], found["bent"]["forces_mae"]], rel=1e-3
    )
    assert main(["evaluate", str(run), files["test"], "--families", "kind"]) == 2
    assert "no structure has the entry 'kind'" in capsys.readouterr().err


def test_evaluate_on_what_is_no_run(files, tmp_path, capsys):
    assert main(["evaluate", str(tmp_path), files["test"]]) == 2
    assert "holds no posterior.safetensors" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "nowhere"), files["test"]]) == 2
    assert "There is no file" in capsys.readouterr().err


def test_resume_of_a_finished_run_makes_what_is_missing_and_only_that(run, files, capsys):
    before = contents(run)
    (run / "metrics.json").unlink()
    (run / "plots" / "rhat.png").unlink()
    assert main(["fit", files["train"], "--out", str(run), "--resume"]) == 0
    assert "first has finished; only what is missing of its report is made." in capsys.readouterr().out
    after = contents(run)
    differ = {name for name in before if before[name] != after.get(name)}
    assert "plots/rhat.png" not in after  # diagnostics.json, written after it, is there
    assert all(name in ("metrics.json", "plots/rhat.png") or name.startswith("plots/test/") for name in differ)
    old, new = (json.loads(files["metrics.json"]) for files in (before, after))
    assert old.pop("units") == new.pop("units")
    assert {**old, "seconds": 0} == pytest.approx({**new, "seconds": 0}, nan_ok=True)
    (run / "plots" / "rhat.png").write_bytes(before["plots/rhat.png"])


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--seed", "4"], r"--seed 4 would change .*first, begun with 3; leave it out"),
        (["--valid", "5"], r"--valid 5 would change .*first, begun with 4; leave it out"),
        (["--energy-key", "E"], r"--energy-key E would change .*first, begun without it; leave it out"),
        (["--samples", "3"], r"sampler\.num_samples is 4 in .*first and the options make it 3; leave them out"),
        (["--preset", "tiny"], r"model\.num_blocks is 1 in .*first and the options make it 2"),
    ],
)
def test_resume_refuses_flags_that_would_change_the_run(run, files, capsys, flags, sentence):
    before = contents(run)
    assert main(["fit", files["train"], "--out", str(run), "--resume", *flags]) == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert contents(run) == before


def test_resume_with_more_samples_and_chains_extends_the_run(run, files, tmp_path, capsys):
    extended, planned = tmp_path / "extended", tmp_path / "planned"
    shutil.copytree(run, extended)
    assert main(["fit", files["train"], "--out", str(extended), "--resume", "--samples", "5", "--chains", "2"]) == 0
    said = capsys.readouterr().out
    assert f"extending {extended}: train 16" in said and f"{extended}: 10 samples in posterior.safetensors" in said
    anew = ["fit", files["train"], "--out", str(planned), "--valid", "4", "--test", files["test"], "--seed", "3"]
    more = ["--set", "sampler.chains_at_once=1", "--samples", "5", "--chains", "2"]
    assert main([*anew, *SETTINGS, *more]) == 0
    one, other = contents(extended), contents(planned)
    assert one["posterior.safetensors"] == other["posterior.safetensors"]
    assert one["diagnostics.json"] == other["diagnostics.json"]
    assert json.loads(one["metrics.json"])["num_samples"] == 10
    assert {name for name in one if name.endswith(".png")} == {name for name in other if name.endswith(".png")}
    capsys.readouterr()
    assert main(["fit", files["train"], "--out", str(extended), "--resume"]) == 0
    assert "extended has finished" in capsys.readouterr().out


def test_resume_takes_the_same_flags_again(run, files):
    flags = ["--seed", "3", "--valid", "4", "--samples", "4", *SETTINGS]
    assert main(["fit", files["train"], "--out", str(run), "--resume", *flags]) == 0


def test_resume_refuses_other_data(run, files, capsys):
    assert main(["fit", "ammonia", "--out", str(run), "--resume"]) == 2
    assert "was sampled on other training data" in capsys.readouterr().err
    assert main(["fit", files["test"], "--out", str(run), "--resume"]) == 2


def test_divergence_has_its_own_exit_code(files, tmp_path, capsys):
    arguments = ["fit", files["train"], "--out", str(tmp_path / "run"), "--valid", "4", "--seed", "3", *SETTINGS]
    assert main([*arguments, "--set", "sampler.step_size_first=1e30"]) == 3
    told, error = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"Chain 0 diverged at step \d+: .*; its last sound state is that of step 0, .*stopped there\.", told
    )
    assert re.fullmatch(r"error: Chain 0 diverged at step \d+: .*\.", error)
    assert not (tmp_path / "run" / "posterior.safetensors").exists()


def test_interrupt_says_how_to_go_on(files, tmp_path, capsys, monkeypatch):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("bnn_jax.api.fit", interrupted)
    assert main(["fit", files["train"], "--out", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "interrupted; continue the run with --resume.\n"


@pytest.mark.parametrize("arguments", [[], ["fti"], ["fit", "x.xyz"], ["fit", "x.xyz", "--out", "y", "--reusme"]])
def test_wrong_arguments_exit_with_two(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bnn-jax {bnn_jax.__version__}\n"
    for command in ([], ["fit"], ["evaluate"], ["predict"], ["demo"], ["data"], ["data", "show"]):
        assert main([*command, "--help"]) == 0
        assert "usage: bnn-jax" in capsys.readouterr().out


def test_data_commands(capsys):
    assert main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"^ammonia +78 +with the package$", listed, re.MULTILINE) and "rmd17/aspirin" in listed
    assert main(["data", "show", "rmd17/aspirin"]) == 0
    shown = capsys.readouterr().out
    assert "Christensen" in shown and "md5:" in shown and "kcal/mol" in shown
    assert main(["data", "fetch", "ammonia"]) == 0
    assert "shipped with the package" in capsys.readouterr().out
    assert main(["data", "show", "amonia"]) == 2
    assert "nearest known name is 'ammonia'" in capsys.readouterr().err


def test_demo_fits_shows_and_continues(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", {"model": MODEL, "sampler": SAMPLER})
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "train 70, valid 8, test 200 structures" in printed and "forces AUROC" in printed
    assert (out / "plots" / "umbrella_inversion.png").stat().st_size > 1000
    before = contents(out)
    assert main(["demo", "--out", str(out)]) == 0
    assert "holds a demo already" in capsys.readouterr().out
    assert contents(out) == before


def test_help_does_not_wait_for_jax():
    script = (
        "import sys; from bnn_jax.cli import main; code = main(['fit', '--help']); "
        "sys.exit(code or any(name in sys.modules for name in ('jax', 'ase', 'matplotlib')))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_closes_the_pipe_sees_no_traceback():
    script = "import sys; from bnn_jax.cli import main; sys.exit(main())"
    command = f"{sys.executable} -c '{script}' data list | head -n 1"
    done = subprocess.run(command, shell=True, env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "name", "")


def test_console_script_reports_bad_input_without_a_traceback(tmp_path):
    script = "import sys; from bnn_jax.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "fit", "absent.xyz", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: 'absent\.xyz' is no file [^\n]*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_killed_run_resumes_to_the_same_samples_and_log(run, files, tmp_path):
    """SIGKILL after the first checkpoint, then --resume: all as if nothing had happened."""
    whole, killed = run, tmp_path / "killed"
    arguments = ["fit", files["train"], "--out", str(killed), "--valid", "4", "--seed", "3", *SETTINGS]
    command = [sys.executable, "-c", SCRIPT, *arguments]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(killed.glob("checkpoint-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(np.random.default_rng().uniform(0.0, 0.3))  # any moment will do, so no two runs need be alike
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert not (killed / "posterior.safetensors").exists()
    assert len(read_jsonl(killed / "log.jsonl")) < len(read_jsonl(whole / "log.jsonl"))

    assert main(["fit", files["train"], "--out", str(killed), "--resume"]) == 0
    expected = load_arrays(whole / "posterior.safetensors")
    resumed = load_arrays(killed / "posterior.safetensors")
    assert expected.keys() == resumed.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(resumed[name], array)
    assert read_jsonl(killed / "log.jsonl") == read_jsonl(whole / "log.jsonl")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12345 bytes."),
        ImportError("libgfortran.so.5: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_runs_out_is_one_sentence(error, files, tmp_path, capsys, monkeypatch):
    def exhausted(*_arguments, **_options):
        raise error

    monkeypatch.setattr("bnn_jax.api.fit", exhausted)
    assert main(["fit", files["train"], "--out", str(tmp_path / "run")]) == 2
    assert re.fullmatch(r"error: The memory does not suffice; [^\n]*\.\n", capsys.readouterr().err)


def test_what_nobody_expected_is_not_hidden(files, tmp_path, monkeypatch):
    def broken(*_arguments, **_options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("bnn_jax.api.fit", broken)
    with pytest.raises(OSError, match="Input/output error"):
        main(["fit", files["train"], "--out", str(tmp_path / "run")])


def test_sigterm_saves_and_says_how_to_go_on(files, tmp_path):
    """In a process of its own, once it samples."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "fit", files["train"], "--out", str(run), "--valid", "4", *SETTINGS],
        env=environment() | {"TF_CPP_MIN_LOG_LEVEL": "3"},  # which the command sets where nothing imported JAX before
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    while process.poll() is None and not (run / "log.jsonl").exists():
        time.sleep(0.05)
    process.terminate()
    _, text = process.communicate()
    assert (process.returncode, text) == (143, "terminated; continue the run with --resume.\n")
    (checkpoint,) = run.glob("checkpoint-*.safetensors")
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"]
    assert int(checkpoint.stem.split("-")[1]) >= last > 0


@pytest.mark.parametrize("method", ["ensemble", "mixture"])
def test_a_method_that_trains_from_fit_to_predict(method, files, tmp_path, capsys):
    """Its report has no R-hat, its predictions what it knows; ranked atoms carry their score."""
    out = tmp_path / "run"
    trainer = ["--set", "trainer.num_steps=6", "--set", "trainer.log_every=3", "--set", "ensemble.num_members=2"]
    assert main(["fit", files["train"], "--out", str(out), "--method", method, *trainer, *SETTINGS]) == 0
    assert "R-hat" not in capsys.readouterr().out
    assert main(["evaluate", str(out), files["test"]]) == 0
    assert "forces MAE" in capsys.readouterr().out
    assert main(["predict", str(out), files["test"], str(tmp_path / "out.xyz")]) == 0
    frame = ase.io.read(tmp_path / "out.xyz")
    assert np.isfinite(frame.arrays["forces_std"]).all() == (method == "ensemble")
    assert ("score" in frame.arrays) == (method == "mixture")


def test_compare_leaves_a_page_and_goes_on(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(campaign, "measure", lambda *arguments: measure(*arguments, 20))  # bootstrap samples
    out = tmp_path / "comparison"
    arguments = [
        "compare",
        files["train"],
        "--methods",
        "mean_variance",
        "evidential",
        "--valid",
        "5",
        "--out",
        str(out),
    ]
    assert main([*arguments, "--in-domain", "5", "--test", f"more={files['test']}", *SETTINGS]) == 0
    printed = capsys.readouterr()
    assert "1 of 2: mean_variance, seed 0.\n2 of 2: evidential, seed 0.\n" in printed.err
    assert printed.out.count("| evidential |") == 2 and "Force components, more:" in printed.out
    page = (out / "comparison.html").read_text()
    assert "Components of the forces of N" in page and "of 5 structures" in page
    before = contents(out)
    (out / "comparison.html").unlink()
    assert main([*arguments, "--in-domain", "5", "--test", f"more={files['test']}", *SETTINGS]) == 0
    assert capsys.readouterr().err == "" and contents(out) == before
    assert main([*arguments, "--in-domain", "4", "--test", f"more={files['test']}", *SETTINGS]) == 2
    assert "has another" in capsys.readouterr().err and contents(out) == before


@pytest.mark.parametrize(("kind", "form"), [("local", "last-layer"), ("global", "kernel"), ("component", "sketched")])
def test_rigidity_writes_structures_and_a_picture(kind, form, run, files, tmp_path, capsys):
    out = tmp_path / "judged.xyz"
    arguments = ["rigidity", str(run), files["test"], str(out), "--kind", kind, "--form", form, "--forces"]
    assert main(arguments) == 0
    assert f"judged.xyz: {kind} rigidities of 3 structures" in capsys.readouterr().out
    frames = ase.io.read(out, ":")
    posterior, train = bnn_jax.Posterior.load(run), bnn_jax.load(files["train"]).split(train=16, valid=4, seed=3)[0]
    loss = bnn_jax.rigidity.SquareLoss(1.0, 1.0)
    model = bnn_jax.rigidity.fit_rigidity(posterior.network(), train, loss, 1e-3, form, zeta_is_relative=True)
    test = bnn_jax.load(files["test"])
    if kind == "local":
        np.testing.assert_allclose(
            np.concatenate([f.arrays["local_rigidity"] for f in frames]), model.atoms(test), 1e-4
        )
        assert out.with_suffix(".png").stat().st_size > 1000
    elif kind == "global":
        np.testing.assert_allclose([frame.info["rigidity"] for frame in frames], model.energies(test), rtol=1e-4)
    else:
        found = model.of_elements(test)
        np.testing.assert_allclose([frame.info["rigidity_N"] for frame in frames], found[7], rtol=1e-4)
    assert frames[0].arrays["forces_rigidity"].shape == (4, 3)
    assert main(arguments) == 2
    assert "exists already; give --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["local", "component"])
def test_rigidity_in_a_file_for_chemiscope(kind, run, files, tmp_path, capsys):
    pytest.importorskip("chemiscope", reason="the extra chemiscope is not installed")
    out, view = tmp_path / "judged.xyz", tmp_path / "view.json"
    assert main(["rigidity", str(run), files["test"], str(out), "--kind", kind, "--chemiscope", str(view)]) == 0
    assert "view.json: open it at https://chemiscope.org." in capsys.readouterr().out
    found, frames = json.loads(view.read_text()), ase.io.read(out, ":")
    if kind == "local":
        shown = found["properties"]["log10 local_rigidity, 1/eV²"]
        expected = np.concatenate([frame.arrays["local_rigidity"] for frame in frames])
        assert len(found["environments"]) == len(expected) and shown["target"] == "atom"
    else:
        shown = found["properties"]["log10 rigidity_N, 1/eV²"]
        expected = np.array([frame.info["rigidity_N"] for frame in frames])
    np.testing.assert_allclose(shown["values"], np.log10(expected), atol=1e-6)


def test_chemiscope_that_is_not_installed(run, files, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "chemiscope", None)
    arguments = ["rigidity", str(run), files["test"], str(tmp_path / "a.xyz"), "--chemiscope", str(tmp_path / "a.json")]
    assert main(arguments) == 2
    assert "chemiscope is not installed; pip install 'bnn_jax[chemiscope]'." in capsys.readouterr().err
    assert not list(tmp_path.glob("a.*"))


def test_rigidity_needs_the_training_set(run, files, tmp_path, capsys):
    file = tmp_path / "posterior.safetensors"
    file.write_bytes((run / "posterior.safetensors").read_bytes())
    arguments = ["rigidity", str(file), files["test"], str(tmp_path / "out.xyz")]
    assert main(arguments) == 2
    assert "names no training set; give it by --train" in capsys.readouterr().err
    assert main([*arguments, "--train", files["train"]]) == 0
    assert main([*arguments, "--train", files["train"], "--sample", "9", "--overwrite"]) == 2
    assert "--sample 9: the posterior has samples 0 to 3" in capsys.readouterr().err
