"""Labels on disk, and workers that die, dawdle or fail while they make them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones
from systems import rattled, water

from bnn_jax import load
from bnn_jax.active import Failure, Label, LabelStore, label, local_workers, oracle
from bnn_jax.active.store import key
from bnn_jax.checkpoint import DamagedFileError
from bnn_jax.types import InputError

LEVEL = "ase:active.test_labelling.Temperamental"
CELL = 6 * np.eye(3)


class Temperamental(Calculator):
    """Lennard-Jones, unless a file of its folder, which the environment names, says otherwise."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=None, system_changes=()):
        super().calculate(atoms, properties, system_changes)
        folder = Path(os.environ["TEMPERAMENTAL"])
        with open(folder / "calls", "a") as file:
            file.write(f"{key(self.atoms, LEVEL)} {os.getpid()}\n")
        number = round(float(self.atoms.positions[0, 0]))  # of the structure
        if (folder / f"raise-{number}").exists():
            raise RuntimeError("no convergence")
        if (folder / f"nan-{number}").exists():
            self.results = {"energy": np.nan, "forces": np.zeros((len(self.atoms), 3)), "stress": np.zeros(6)}
            return
        if (die := folder / f"die-{number}").exists():
            if not die.read_text():
                die.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if (folder / f"sleep-{number}").exists():
            time.sleep(600)
        other = LennardJones(rc=3.0)
        other.calculate(self.atoms, properties, system_changes)
        self.results = {name: other.results[name] for name in self.implemented_properties}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Of the calculator, which workers import by the name of this module."""
    root = Path(__file__).parents[1]
    monkeypatch.setenv("TEMPERAMENTAL", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def structures(number: int) -> list[ase.Atoms]:
    """Waters in a cell, each known by where its first atom is."""
    found = []
    for i in range(number):
        atoms = rattled(water(), 0.03, i)
        atoms.positions += [i, 0, 0] - atoms.positions[0]
        atoms.set_cell(CELL)
        atoms.pbc = True
        found.append(atoms)
    return found


def expected(atoms: ase.Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    atoms = atoms.copy()
    atoms.calc = LennardJones(rc=3.0)
    return atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)


def assert_right(found: list, asked: list[ase.Atoms]) -> None:
    for one, atoms in zip(found, asked, strict=True):
        assert isinstance(one, Label)
        energy, forces, stress = expected(atoms)
        assert one.energy == energy
        np.testing.assert_array_equal(one.forces, forces)
        np.testing.assert_array_equal(one.stress, stress)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


class TestStore:
    def test_what_is_put_is_got_exactly(self, tmp_path) -> None:
        store, (atoms, other) = LabelStore(tmp_path / "labels"), structures(2)
        energy, forces, stress = expected(atoms)
        assert store.get(atoms, "a") is None
        store.put(atoms, "a", Label(energy, forces, stress, 1.5))
        again = LabelStore(tmp_path / "labels").get(atoms, "a")
        assert isinstance(again, Label) and again.energy == energy and again.seconds == 1.5
        np.testing.assert_array_equal(again.forces, forces)
        np.testing.assert_array_equal(again.stress, stress)
        assert store.get(atoms, "b") is None and store.get(other, "a") is None and len(store) == 1

    def test_levels_of_theory_stay_apart_and_load_reads_them(self, tmp_path) -> None:
        store, (atoms,) = LabelStore(tmp_path), structures(1)
        store.put(atoms, "cheap", Label(1.0, np.ones((3, 3)), None, 0.0))
        store.put(atoms, "dear", Label(2.0, 2 * np.ones((3, 3)), None, 0.0))
        assert [frame.info["level"] for frame in store.labelled("dear")] == ["dear"]
        assert len(list(store.labelled())) == 2
        data = load(list(store.labelled("dear")))
        assert data.energy.tolist() == [2.0] and (data.forces == 2).all()

    def test_a_structure_is_one_to_the_digits_of_a_file(self, tmp_path) -> None:
        (atoms,) = structures(1)
        ase.io.write(tmp_path / "one.xyz", atoms)
        assert key(ase.io.read(tmp_path / "one.xyz"), "a") == key(atoms, "a")
        moved = atoms.copy()
        moved.positions[1, 1] += 1e-6
        assert key(moved, "a") != key(atoms, "a")
        assert key(ase.Atoms("HOH", atoms.positions, cell=atoms.cell, pbc=True), "a") != key(atoms, "a")

    def test_a_damaged_record(self, tmp_path) -> None:
        store, (atoms,) = LabelStore(tmp_path), structures(1)
        store.put(atoms, "a", Label(1.0, np.ones((3, 3)), None, 0.0))
        (file,) = (tmp_path / "labels").iterdir()
        file.write_text(file.read_text()[:40])
        with pytest.raises(DamagedFileError, match=r"is no label that can be read .* delete it, and it is made again"):
            store.get(atoms, "a")

    def test_failures_are_kept_aside_until_they_are_forgotten(self, tmp_path) -> None:
        store, (atoms,) = LabelStore(tmp_path), structures(1)
        store.put(atoms, "a", Failure("no"))
        assert store.get(atoms, "a") == Failure("no") and len(store) == 0
        ((kept, reason),) = store.failures()
        assert reason == "no" and kept == atoms
        store.forget_failures()
        assert store.get(atoms, "a") is None


def test_here_without_workers(folder) -> None:
    asked = structures(2)
    found = label([*asked, asked[0]], oracle(LEVEL), LabelStore(folder / "store"), progress=False)
    assert_right(found, [*asked, asked[0]])
    assert len(calls(folder)) == 2  # energy, forces and stress of one structure are one call
    again = label(asked, oracle(LEVEL), LabelStore(folder / "store"), progress=False)
    assert_right(again, asked)
    assert len(calls(folder)) == 2


def test_workers_that_die_dawdle_and_fail(folder) -> None:
    asked = structures(7)
    for name, text in {"raise-1": "", "nan-2": "", "die-3": "", "die-4": "always", "sleep-5": ""}.items():
        (folder / name).write_text(text)
    store = LabelStore(folder / "store")
    with local_workers(2, seconds=10.0) as workers:
        found = label(asked, oracle(LEVEL), store, workers, retries=1, progress=False)
    sound = [0, 3, 6]
    assert_right([found[i] for i in sound], [asked[i] for i in sound])
    reasons = [one.reason if isinstance(one, Failure) else "" for one in found]
    assert reasons[1] == "RuntimeError: no convergence"
    assert reasons[2] == "its energy, forces or stress are not finite"
    assert reasons[4].startswith("its process ended 2 times")
    assert reasons[5] == "it took longer than the time for a label"
    assert len(store) == 3 and {reason for _, reason in store.failures()} == set(filter(None, reasons))
    tried = [line.split()[0] for line in calls(folder)]
    assert [tried.count(key(atoms, LEVEL)) for atoms in asked] == [1, 1, 1, 2, 2, 1, 1]


DRIVER = """
import sys
from active.test_labelling import LEVEL, structures
from bnn_jax.active import LabelStore, label, local_workers, oracle
if __name__ == "__main__":
    with local_workers(2) as workers:
        label(structures(5), oracle(LEVEL), LabelStore(sys.argv[1]), workers, progress=False)
"""


def test_a_driver_that_is_killed(folder) -> None:
    """Its workers end with it, and who goes on finds every label that was made."""
    (folder / "sleep-4").touch()
    (folder / "driver.py").write_text(DRIVER)
    store = LabelStore(folder / "store")
    driver = subprocess.Popen([sys.executable, str(folder / "driver.py"), str(store.path)])
    patience = time.monotonic() + 120
    while len(calls(folder)) < 5 and time.monotonic() < patience:
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    pids = {int(line.split()[1]) for line in calls(folder)}
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < patience:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert len(store) == 4
    (folder / "sleep-4").unlink()
    found = label(structures(5), oracle(LEVEL), store, progress=False)
    assert_right(found, structures(5))
    tried = [line.split()[0] for line in calls(folder)]
    assert [tried.count(key(atoms, LEVEL)) for atoms in structures(5)] == [1, 1, 1, 1, 2]
    assert not list((store.path / "partial").iterdir())


def test_dask_gives_the_same(folder) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        (folder / "raise-1").touch()
        found = label(structures(4), oracle(LEVEL), LabelStore(folder / "dask"), client.get_executor(), progress=False)
    assert_right([found[i] for i in (0, 2, 3)], [structures(4)[i] for i in (0, 2, 3)])
    assert found[1] == Failure("RuntimeError: no convergence")


def test_bad_structures_are_refused_before_any_work(folder) -> None:
    good, bad = structures(2)
    bad.positions[1] = bad.positions[0]
    with pytest.raises(InputError, match=r"structure 1 to label: atoms 0 and 1 are .* Angstrom apart"):
        label([good, bad], oracle(LEVEL), LabelStore(folder / "store"), progress=False)
    assert not calls(folder)
    with pytest.raises(InputError, match="both must be positive"), local_workers(2, seconds=0.0):
        pass


def test_records_are_plain_json(tmp_path) -> None:
    store, (atoms,) = LabelStore(tmp_path), structures(1)
    store.put(atoms, "a", Label(1.0, np.ones((3, 3)), None, 0.0))
    (file,) = (tmp_path / "labels").iterdir()
    record = json.loads(file.read_text())
    assert record["level"] == "a" and record["forces"] == [[1.0] * 3] * 3 and record["pbc"] == [True] * 3
