"""``bnn-jax md`` and ``bnn-jax neb``: what they write and say, what they refuse, and a simulation that goes on."""

import ase.io
import numpy as np
import pytest
import systems
from ase import Atoms
from posteriors import random_posterior
from scipy.optimize import minimize_scalar
from springs import CUTOFF, springs

from bnn_jax.cli import main
from bnn_jax.dynamics.run import Folder

WATER = systems.water()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("md")
    run = random_posterior(systems.labelled_series(WATER, 6)).save(folder / "posterior.safetensors")
    ase.io.write(folder / "start.xyz", [WATER, systems.rattled(WATER, 1)])
    return {"folder": folder, "run": str(run), "start": str(folder / "start.xyz")}


OPTIONS = ["--ps", "0.012", "--timestep-fs", "0.2", "--stride", "5", "--replicas", "2", "--kelvin", "50"]


def test_md_writes_a_file_for_each_replica_and_a_picture(files, tmp_path, capsys):
    out = tmp_path / "md"
    assert main(["md", files["run"], files["start"], "--out", str(out), "--ensemble", "nve", *OPTIONS]) == 0
    said = capsys.readouterr().out
    assert "2 replicas, 0.024 ps together:" in said and "K on average; largest std of a force" in said
    assert (
        "Drift of the total energy:" in said and f"{out}: a file of extended XYZ for each replica, and md.png" in said
    )
    for k in range(2):
        frames = ase.io.read(out / f"replica-{k:02d}.xyz", ":")
        assert len(frames) == 12 and frames[-1].info["time_fs"] == pytest.approx(12.0)
        assert frames[-1].arrays["forces_std"].shape == (3, 3)
    assert (out / "md.png").stat().st_size > 10_000


def test_md_goes_on_after_a_kill_and_refuses_to_overwrite(files, tmp_path, capsys, monkeypatch):
    arguments = ["md", files["run"], files["start"], *OPTIONS]
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    save = Folder.save

    def dies(self, *rest):
        save(self, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr("bnn_jax.dynamics.run.STEPS_PER_CHUNK", 20)
    monkeypatch.setattr(Folder, "save", dies)
    cut = [*arguments, "--out", str(tmp_path / "cut")]
    assert main(cut) == 130
    assert "interrupted; continue the simulation with --resume." in capsys.readouterr().err
    monkeypatch.setattr(Folder, "save", save)
    assert main(cut) == 2
    assert "holds a simulation; go on with resume (--resume)" in capsys.readouterr().err
    assert main([*cut, "--resume", "--seed", "1"]) == 2
    assert "has other seed" in capsys.readouterr().err
    assert main([*cut, "--resume"]) == 0
    for name in ("replica-00.xyz", "replica-01.xyz"):
        one, other = (ase.io.read(tmp_path / folder / name, ":") for folder in ("whole", "cut"))
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a.positions, b.positions)


def test_md_says_which_replica_left_its_bounds(files, tmp_path, capsys):
    out = ["--out", str(tmp_path / "md"), "--max-std", "1e-6", "--closest", "0.1"]
    assert main(["md", files["run"], files["start"], *OPTIONS, *out]) == 0
    assert "replica 1 ended after 1 frames the std of a force is" in capsys.readouterr().out
    within = ["--within-validated", "--out", str(tmp_path / "other")]
    assert main(["md", files["run"], files["start"], *OPTIONS, *within]) == 2
    assert "no validated range to stay in" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--ps", "-1"], "picoseconds is -1.0; it must be positive"),
        (["--kelvin", "-5"], "dynamics.kelvin"),
        (["--stride", "0"], "dynamics.stride"),
        (["--closest", "-1"], "The bound closest is -1.0"),
    ],
)
def test_md_refuses(files, tmp_path, capsys, change, message):
    assert main(["md", files["run"], files["start"], "--ps", "1", "--out", str(tmp_path / "md"), *change]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "md").exists()


def umbrella(sign: float) -> Atoms:
    angles = 2 * np.pi / 3 * np.arange(3)
    ring = 0.58 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    return Atoms("NH3", [[0, 0, 0.8 * sign], *ring])


def test_neb_finds_the_barrier_of_an_umbrella(tmp_path, capsys, monkeypatch):
    """Springs of one length make a tetrahedron; on the way to its mirror image the atoms lie on a square."""
    stiffness = np.array([20.0, 40.0])
    monkeypatch.setattr("bnn_jax.cli.neb.load_predictor", lambda _: springs(umbrella(1), tuple(stiffness)))
    ase.io.write(tmp_path / "ends.xyz", [umbrella(1), umbrella(-1)])
    ends, out = [f"{tmp_path}/ends.xyz@{i}" for i in (0, 1)], tmp_path / "path.xyz"
    assert main(["neb", "run", *ends, "--out", str(out), "--images", "5", "--max-force", "0.01"]) == 0
    said = capsys.readouterr().out

    def square(side):
        return sum(n / 2 * ((x - 1) * (1 - x / CUTOFF)) ** 2 for n, x in ((4, side), (2, 2**0.5 * side)))

    heights = stiffness * minimize_scalar(square, bounds=(0.6, 1.2), method="bounded").fun
    words = said.split()
    assert words[:2] == ["forward", "barrier"] and words[3] == "±"
    assert float(words[2]) == pytest.approx(heights.mean(), rel=5e-3)
    assert float(words[4]) == pytest.approx(heights.std(ddof=1), rel=5e-3)
    images = ase.io.read(out, ":")
    assert len(images) == 7 and images[3].info["energy_std"] > 0
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert main(["neb", "run", *ends, "--out", str(out)]) == 2
    assert "exists already; give --overwrite" in capsys.readouterr().err
    assert main(["neb", "run", f"{tmp_path}/ends.xyz", ends[1], "--out", str(tmp_path / "b.xyz")]) == 2
    assert "has 2 structures; an end is one: name it as" in capsys.readouterr().err
