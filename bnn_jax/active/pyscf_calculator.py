"""Energies and forces of molecules by PySCF, as an ASE calculator that never returns what has not converged."""

import importlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.units import Bohr, Hartree

from bnn_jax.active.errors import LabelError

FUNCTIONALS = {"bp86": "GGA_X_B88,GGA_C_P86VWN"}
"""What names mean here where PySCF means something else by them: P86 on the local correlation of VWN, as in ORCA and in
published labels of ammonia; PySCF's own ``b88,p86`` takes that of Perdew and Zunger."""


class PySCF(Calculator):
    """Hartree-Fock or Kohn-Sham energies and forces of molecules, in eV and eV/Angstrom, with a dispersion correction.

    Where the basis belongs to effective core potentials (def2 beyond krypton, LANL2DZ), these stand for the cores.

    Args:
        method: ``hf``, or a functional by PySCF's name or one of :data:`FUNCTIONALS`.
        basis: by PySCF's name.
        dispersion: correction to add, ``d3bj``, ``d3zero`` or ``d4``, with the parameters of ``method``; None for none.
        charge: of the molecule.
        spin: number of unpaired electrons; orbitals are unrestricted where there are any.
        grid_level: of PySCF's integration grids.
        tolerance: of the energy in the self-consistent field, in Hartree.
        max_cycles: of the field; a second-order solver then goes on for as many.
        seconds: after which a calculation is given up between two cycles; None for no limit.
        threads: that PySCF uses; None for its own choice.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012  (ASE's)

    def __init__(
        self,
        method: str,
        basis: str,
        *,
        dispersion: str | None = None,
        charge: int = 0,
        spin: int = 0,
        grid_level: int = 4,
        tolerance: float = 1e-9,
        max_cycles: int = 100,
        seconds: float | None = None,
        threads: int | None = None,
    ):
        super().__init__()
        self.method, self.basis, self.dispersion = method.lower(), basis, dispersion
        self.charge, self.spin = charge, spin
        self.grid_level, self.tolerance, self.max_cycles = grid_level, tolerance, max_cycles
        self.seconds, self.threads = seconds, threads

    def calculate(
        self, atoms: ase.Atoms | None = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        """What ASE calls.

        Args:
            atoms: the molecule.
            properties: that are wanted; energy and forces are computed together.
            system_changes: since the last call.

        Raises:
            LabelError: the field has not converged, or not in time.
        """
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        if self.threads is not None:
            _import("pyscf.lib").num_threads(self.threads)
        molecule = self._molecule(self.atoms)
        field = self._converged(molecule)
        gradient_method = field.nuc_grad_method()
        gradient_method.verbose = 0
        energy, gradient = float(field.e_tot), np.asarray(gradient_method.kernel())
        if self.dispersion is not None:
            correction = dispersion_of(molecule, self.method, self.dispersion).get_dispersion(grad=True)
            energy, gradient = energy + float(correction["energy"]), gradient + correction["gradient"]
        self.results = {
            "energy": energy * Hartree,
            "free_energy": energy * Hartree,
            "forces": -gradient * Hartree / Bohr,
        }

    def _molecule(self, atoms: ase.Atoms) -> Any:
        return _import("pyscf.gto").M(
            atom=list(zip(atoms.symbols, atoms.positions.tolist(), strict=True)),
            unit="Angstrom",
            basis=self.basis,
            ecp=core_potentials(self.basis, set(atoms.symbols)),
            charge=self.charge,
            spin=self.spin,
            verbose=0,
        )

    def _converged(self, molecule: Any) -> Any:
        """The self-consistent field, by a second-order solver where the usual one fails."""
        if self.method == "hf":
            scf = _import("pyscf.scf")
            field = scf.UHF(molecule) if self.spin else scf.RHF(molecule)
        else:
            dft = _import("pyscf.dft")
            field = dft.UKS(molecule) if self.spin else dft.RKS(molecule)
            field.xc = FUNCTIONALS.get(self.method, self.method)
            field.grids.level = self.grid_level
        field.conv_tol, field.max_cycle = self.tolerance, self.max_cycles
        field.callback = self._alarm()
        field.kernel()
        if not field.converged:
            second = field.newton()
            second.callback = field.callback
            second.kernel(field.mo_coeff, field.mo_occ)
            field = second
        if not field.converged:
            raise LabelError(f"the field has not converged in {self.max_cycles} cycles, nor by the second-order solver")
        return field

    def _alarm(self) -> Any:
        """Raises between two cycles when the time is up; also in a thread, where no signal arrives."""
        begun, seconds = time.monotonic(), self.seconds

        def callback(_: Mapping[str, Any]) -> None:
            if seconds is not None and time.monotonic() - begun > seconds:
                raise LabelError(f"the field has not converged in {seconds:g} s")

        return callback


def core_potentials(basis: str, symbols: Iterable[str]) -> dict[str, str]:
    """The basis, for those elements whose cores it leaves to potentials, which PySCF does not take by itself.

    Args:
        basis: by PySCF's name.
        symbols: of elements.
    """
    load_ecp = _import("pyscf.gto.basis").load_ecp
    return {symbol: basis for symbol in symbols if load_ecp(basis, symbol)}


def dispersion_of(molecule: Any, method: str, damping: str) -> Any:
    """The correction of the method, ``get_dispersion(grad=True)``, in atomic units.

    Args:
        molecule: PySCF's.
        method: whose parameters are taken.
        damping: kind of correction.
    """
    if damping == "d4":
        return _import("pyscf.dispersion.dftd4").DFTD4Dispersion(molecule, xc=method)
    return _import("pyscf.dispersion.dftd3").DFTD3Dispersion(molecule, xc=method, version=damping)


def _import(name: str) -> Any:
    return importlib.import_module(name)
