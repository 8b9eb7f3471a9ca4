"""One idea: a cached label, energy and forces at BP86-D3/def2-SVP, the level of the published ammonia set."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from bnn_jax.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE

LEVEL = {
    "functional": "GGA_X_B88,GGA_C_P86VWN",
    "basis": "def2-svp",
    "grid_level": 4,
    "conv_tol_hartree": 1e-9,
    "dispersion": "D3, zero damping, bp86 parameters",
}
"""Becke 88 exchange, Perdew 86 correlation on VWN: what ORCA calls BP86 is this and not P86 on PZ81."""

Label = tuple[float, Float[np.ndarray, "atom 3"]]


class Labeller:
    """Labels geometries one by one and keeps every label in a JSON-lines file, so that a killed run loses nothing.

    Attributes:
        num_computed: labels that this object computed, those found in the file not counted.
        failed: geometries, as nested lists in Angstrom, whose self-consistent field did not converge.
    """

    def __init__(self, symbols: Sequence[str], cache: str | Path) -> None:
        self.symbols = list(symbols)
        self.cache = Path(cache)
        self.num_computed = 0
        self.failed: list[list[list[float]]] = []
        self._known: dict[str, dict] = {}
        if self.cache.exists():
            for line in self.cache.read_text().splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:  # the line that a killed run was writing
                    continue
                if record["level"] == LEVEL and record["symbols"] == self.symbols:
                    self._known[_key(record["positions"])] = record

    def __call__(self, positions: Float[np.ndarray, "atom 3"]) -> Label | None:
        """The total energy in eV and the forces in eV/Angstrom, both to 8 decimals; None if the SCF failed.

        Args:
            positions: in Angstrom; rounded to 8 decimals before anything is computed.
        """
        positions = np.round(positions, 8) + 0.0  # no negative zeros
        key = _key(positions)
        if key not in self._known:
            label = compute(self.symbols, positions)
            self.num_computed += 1
            record = {"level": LEVEL, "symbols": self.symbols, "positions": positions.tolist(), "energy": None}
            if label is not None:
                record |= {"energy": round(label[0], 8), "forces": np.round(label[1], 8).tolist()}
            self._append(record)
            self._known[key] = record
        record = self._known[key]
        if record["energy"] is None:
            self.failed.append(record["positions"])
            return None
        return record["energy"], np.array(record["forces"])

    def _append(self, record: dict) -> None:
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        torn = self.cache.exists() and not self.cache.read_bytes().endswith(b"\n")
        with self.cache.open("a") as file:
            file.write(("\n" if torn else "") + json.dumps(record) + "\n")


def compute(symbols: Sequence[str], positions: Float[np.ndarray, "atom 3"]) -> Label | None:
    """Energy in eV and forces in eV/Angstrom by restricted Kohn-Sham; None if the SCF does not converge.

    Args:
        symbols: chemical symbols of a closed-shell neutral molecule.
        positions: in Angstrom.
    """
    from pyscf import dft, gto, lib
    from pyscf.dispersion import dftd3

    lib.num_threads(1)  # a molecule this small gains nothing from threads, and one thread is reproducible
    atoms = list(zip(symbols, np.asarray(positions) / ANGSTROM_PER_BOHR, strict=True))
    molecule = gto.M(atom=atoms, unit="Bohr", basis=LEVEL["basis"], verbose=0)
    field = dft.RKS(molecule)
    field.xc = LEVEL["functional"]
    field.grids.level = LEVEL["grid_level"]
    field.conv_tol = LEVEL["conv_tol_hartree"]
    field.kernel()
    if not field.converged:  # PySCF returns a number all the same
        return None
    gradient = field.nuc_grad_method().kernel()
    # By hand: mf.disp does not know this spelling of the functional.
    dispersion = dftd3.DFTD3Dispersion(molecule, xc="bp86", version="d3zero").get_dispersion(grad=True)
    energy = float(field.e_tot + dispersion["energy"]) * EV_PER_HARTREE
    forces = -(gradient + dispersion["gradient"]) * EV_PER_HARTREE / ANGSTROM_PER_BOHR
    return energy, forces


def _key(positions: Sequence | np.ndarray) -> str:
    return " ".join(f"{value:.8f}" for value in np.asarray(positions).ravel())
