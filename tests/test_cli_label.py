"""``bnn-jax label``: labels of an oracle as a file, what fails kept aside, and nothing asked twice."""

import ase.io
import numpy as np
import pytest
from ase.calculators.lj import LennardJones
from commands import write
from systems import rattled, water

from bnn_jax.cli import main

LENNARD_JONES = "ase:ase.calculators.lj.LennardJones?rc=4.0"


@pytest.fixture
def waters(tmp_path) -> str:
    return write(tmp_path / "waters.xyz", [rattled(water(), 0.05, seed) for seed in range(3)])


def test_labels_are_written_and_kept(waters, tmp_path, capsys):
    out, store = tmp_path / "out.xyz", tmp_path / "labels"
    arguments = ["label", waters, str(out), "--oracle", LENNARD_JONES, "--store", str(store), "--workers", "1"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert f"{out}: 3 of 3 structures labelled by {LENNARD_JONES}" in said
    for found, asked in zip(ase.io.read(out, ":"), ase.io.read(waters, ":"), strict=True):
        asked.calc = LennardJones(rc=4.0)
        assert found.get_potential_energy() == pytest.approx(asked.get_potential_energy(), rel=1e-7)
        np.testing.assert_allclose(found.get_forces(), asked.get_forces(), rtol=1e-6, atol=1e-7)
        assert found.info["level"] == LENNARD_JONES
    records = {file: file.stat().st_mtime_ns for file in (store / "labels").iterdir()}
    assert main(arguments) == 2
    assert "give --overwrite to replace it" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert {file: file.stat().st_mtime_ns for file in (store / "labels").iterdir()} == records


def test_what_fails_is_named_and_tried_again_when_asked(waters, tmp_path, capsys):
    out, store = str(tmp_path / "out.xyz"), str(tmp_path / "labels")
    emt = ["label", waters, out, "--oracle", "ase:ase.calculators.morse.MorsePotential?rcut1=x", "--store", store]
    assert main([*emt, "--workers", "1"]) == 2
    said = capsys.readouterr()
    assert "structure 2 has no label: " in said.out and "could label none of 3 structures" in said.err
    assert len(list((tmp_path / "labels" / "failed").iterdir())) == 3
    assert main([*emt, "--workers", "1", "--retry-failed"]) == 2
    assert "structure 0 has no label" in capsys.readouterr().out


def test_bad_input_is_one_sentence(waters, tmp_path, capsys):
    out = str(tmp_path / "out.xyz")
    assert main(["label", waters, out, "--oracle", "nonsense"]) == 2
    assert "error: The oracle 'nonsense' is none that is known" in capsys.readouterr().err
    assert main(["label", str(tmp_path / "nothing.xyz"), out, "--oracle", LENNARD_JONES]) == 2
    options = ["--oracle", LENNARD_JONES, "--store", str(tmp_path / "labels"), "--workers", "0"]
    assert main(["label", waters, out, *options]) == 2
    assert "both must be positive" in capsys.readouterr().err
