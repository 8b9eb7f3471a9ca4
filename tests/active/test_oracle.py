"""Oracles by name: what is refused before any work, and labels that equal published ones."""

import pickle

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule

import bnn_jax
from bnn_jax.active import LabelError, oracle
from bnn_jax.active.labelling import compute
from bnn_jax.active.pyscf_calculator import PySCF
from bnn_jax.active.store import Failure, LabelStore
from bnn_jax.types import InputError

LENNARD_JONES = "ase:ase.calculators.lj.LennardJones?epsilon=0.5&rc=5.0&smooth=true"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pyscf", "is none that is known; give pyscf:METHOD/BASIS, tblite:METHOD or ase:module.Class"),
        ("orca:bp86/def2-svp", "is none that is known"),
        ("ase:ase.calculators.nowhere.LJ", "names no calculator that can be imported"),
        ("ase:LennardJones", "names no calculator that can be imported"),
        ("ase:ase.Atoms", "gives no ASE calculator with energy and forces"),
        ("ase:ase.calculators.emt.EMT?nonsense", "options of the oracle 'ase:ase.calculators.emt.EMT.nonsense' cannot"),
        ("ase:ase.calculators.emt.EMT?fakefake=1&a=[", "option a of the oracle .* is not valid YAML"),
        ("ase:bnn_jax.active.pyscf_calculator.PySCF?method=hf", "cannot be made .*basis"),
    ],
)
def test_names_that_are_refused(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        oracle(name)


def test_any_calculator_of_ase() -> None:
    found = pickle.loads(pickle.dumps(oracle(LENNARD_JONES)))
    assert found.level == LENNARD_JONES
    calculator = found.calculator_fn()
    assert calculator.parameters.epsilon == 0.5 and calculator.parameters.smooth is True
    found.check(bulk("Ar"))  # asks nothing of its own


class TestPySCF:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("pyscf")

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("pyscf:bp86-d3zero", "names no method and basis"),
            ("pyscf:bp86-d3/def2-svp", "does not say which damping of D3 is meant; write -d3bj or -d3zero"),
            ("pyscf:nonsense/def2-svp", "no functional that PySCF knows by that name"),
            ("pyscf:bp86/def2-svp?charg=1", "cannot be made .*'charg'"),
        ],
    )
    def test_names_that_are_refused(self, name: str, words: str) -> None:
        with pytest.raises(InputError, match=words):
            oracle(name)

    def test_a_correction_without_parameters(self) -> None:
        pytest.importorskip("pyscf.dispersion")
        oracle("pyscf:hf-d3bj/sto-3g")
        with pytest.raises(InputError, match="There are no parameters of d3zero for lda,vwn"):
            oracle("pyscf:lda,vwn-d3zero/sto-3g")

    @pytest.mark.filterwarnings("ignore:Basis may be available")
    @pytest.mark.parametrize(
        ("options", "atoms", "words"),
        [
            ("", bulk("Si"), "labels molecules, and Si2 is periodic"),
            ("", ase.Atoms("U"), "has no functions for U"),
            ("", molecule("NH2"), r"has 9 electrons, of which 0 cannot be unpaired; .*spin=1"),
            ("?charge=1", molecule("NH3"), "has 9 electrons"),
            ("?spin=1", molecule("NH3"), "has 10 electrons, of which 1 cannot be unpaired"),
            ("?spin=3", ase.Atoms("H"), "has 1 electrons, of which 3"),
        ],
    )
    def test_structures_that_are_refused(self, options: str, atoms: ase.Atoms, words: str) -> None:
        with pytest.raises(InputError, match=words):
            oracle(f"pyscf:pbe/def2-svp{options}").check(atoms)

    def test_structures_that_are_not(self) -> None:
        assert oracle("pyscf:pbe/def2-svp?spin=1").check(molecule("NH2")) is None
        assert oracle("pyscf:pbe/def2-svp?charge=-1&spin=0").check(molecule("OH")) is None

    def test_heavy_atoms_have_the_core_potentials_of_their_basis(self) -> None:
        """All electrons of iodine in the valence functions of def2 would give -1,997 Hartree and no molecule."""
        atoms = ase.Atoms("HI", [[0, 0, 0], [0, 0, 1.6]])
        energies = {}
        for distance in (1.45, 1.609, 1.8):  # measured: 1.609
            atoms.positions[1, 2] = distance
            atoms.calc = PySCF("hf", "def2-svp")
            energies[distance] = atoms.get_potential_energy()
        assert energies[1.609] / 27.211386 == pytest.approx(-297.23, abs=0.02)
        assert min(energies, key=energies.__getitem__) == 1.609
        atoms.positions[1, 2] = 1.7
        step, forces = 1e-3, atoms.get_forces()
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[1, 2] += sign * step
            moved.calc = PySCF("hf", "def2-svp", tolerance=1e-11)
            ends.append(moved.get_potential_energy())
        assert forces[1, 2] == pytest.approx(-(ends[0] - ends[1]) / (2 * step), abs=2e-4)

    def test_labels_equal_those_that_the_package_ships(self) -> None:
        """Of another program run: experiments/ammonia, without this calculator."""
        pytest.importorskip("pyscf.dispersion")
        frame = bnn_jax.load("ammonia")[5]
        wanted = frame.get_potential_energy(), frame.get_forces()
        frame.calc = oracle("pyscf:bp86-d3zero/def2-svp").calculator_fn()
        assert frame.get_potential_energy() == pytest.approx(wanted[0], abs=1e-4)
        np.testing.assert_allclose(frame.get_forces(), wanted[1], atol=1e-5)

    @pytest.mark.parametrize(("method", "dispersion"), [("hf", None), ("pbe", "d3bj"), ("pbe", "d4")])
    def test_forces_are_derivatives(self, method: str, dispersion: str | None) -> None:
        if dispersion:
            pytest.importorskip("pyscf.dispersion")
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=0)
        atoms.calc = PySCF(method, "sto-3g", dispersion=dispersion, tolerance=1e-11)
        forces, step = atoms.get_forces(), 1e-3
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[1, 2] += sign * step
            moved.calc = atoms.calc
            energies.append(moved.get_potential_energy())
        assert forces[1, 2] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=2e-4)

    def test_unpaired_electrons(self) -> None:
        """Hydrogen's exact energy is -0.5 Hartree, of which this basis has all but a little."""
        atoms = ase.Atoms("H")
        atoms.calc = PySCF("hf", "cc-pvqz", spin=1)
        assert atoms.get_potential_energy() == pytest.approx(-0.5 * 27.2114, abs=0.02)

    def test_what_does_not_converge_is_no_number(self, tmp_path) -> None:
        atoms = molecule("NH3")
        atoms.calc = PySCF("hf", "sto-3g", max_cycles=1, tolerance=1e-14)
        with pytest.raises(LabelError, match="has not converged in 1 cycles, nor by the second-order solver"):
            atoms.get_potential_energy()
        found = compute(oracle("pyscf:hf/sto-3g?max_cycles=1&tolerance=1e-14"), atoms, str(tmp_path))
        assert isinstance(found, Failure) and "has not converged" in found.reason
        assert [reason for _, reason in LabelStore(tmp_path).failures()] == [found.reason]

    def test_the_second_order_solver_converges_what_the_first_does_not(self) -> None:
        atoms = molecule("NH3")
        atoms.calc = PySCF("hf", "sto-3g")
        wanted = atoms.get_potential_energy()
        atoms.calc = PySCF("hf", "sto-3g", max_cycles=4, tolerance=1e-10)
        assert atoms.get_potential_energy() == pytest.approx(wanted, abs=1e-6)

    def test_time_is_up(self) -> None:
        atoms = molecule("NH3")
        atoms.calc = PySCF("hf", "sto-3g", seconds=1e-9)
        with pytest.raises(LabelError, match="has not converged in 1e-09 s"):
            atoms.get_potential_energy()


class TestTblite:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("tblite")

    def test_names(self) -> None:
        assert oracle("tblite:gfn2-xtb?accuracy=0.1").calculator_fn().parameters.method == "GFN2-xTB"
        with pytest.raises(InputError, match="has no method that tblite knows; take one of GFN1-xTB"):
            oracle("tblite:GFN3-xTB")

    def test_a_cell_has_a_stress(self, tmp_path) -> None:
        atoms = bulk("Si", cubic=True)
        found = compute(oracle("tblite:GFN1-xTB"), atoms, str(tmp_path))
        assert not isinstance(found, Failure)
        assert found.stress is not None and found.stress.shape == (3, 3)
        np.testing.assert_allclose(found.forces, 0, atol=1e-2)


def test_what_is_not_installed_is_named(monkeypatch) -> None:
    import importlib

    real = importlib.import_module

    def missing(name: str, package: str | None = None):
        if name.split(".")[0] in ("pyscf", "tblite"):
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pyscf is not installed; pip install 'bnn_jax\[dft\]'"):
        oracle("pyscf:hf/sto-3g")
    with pytest.raises(InputError, match=r"tblite is not installed; pip install 'bnn_jax\[xtb\]'"):
        oracle("tblite:GFN2-xTB")
