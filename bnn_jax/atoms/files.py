"""Files to data sets."""

import os
from pathlib import Path

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.labels import Choices, Keys
from bnn_jax.atoms.reading import Index, npz_units, read_frames
from bnn_jax.types import InputError


def read_file(
    path: str | Path,
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    stress_unit: str | None = None,
    index: Index = ":",
    require_labels: bool = False,
    allow_missing_labels: bool = False,
    use_labels: bool = True,
) -> Dataset:
    """Read labelled structures: extended XYZ (compressed or not), .npz of rMD17 and sGDML, or any format of ASE.

    Labels are looked for in the calculator's results, ``info`` and ``arrays``, under the usual keys (``energy``,
    ``REF_energy``, ``dft_energy``, ...; see :mod:`bnn_jax.atoms.labels`); a virial becomes ``-virial / volume``. A
    frame without a label is kept, and the likelihood drops the term. An .npz (``nuclear_charges``, ``coords``,
    ``energies``, ``forces`` of rMD17, or ``z``, ``R``, ``E``, ``F`` of MD17, MD22 and sGDML) is in the units it names
    (``e_unit``, ``r_unit``), else in kcal/mol and Angstrom, as those formats define; any other file is in eV and
    Angstrom.

    Args:
        path: of the file.
        energy_key: key of the energy, where the search would not find it or finds several.
        forces_key: key of the forces.
        stress_key: key of the stress, or of the virial if it contains that word.
        energy_unit: unit of the file's energies, a key of :data:`bnn_jax.units.ENERGY_UNITS_EV`; naming it also
            switches off the checks that labels are plausible in eV and belong together.
        length_unit: unit of the file's positions and cells, a key of :data:`bnn_jax.units.LENGTH_UNITS_ANGSTROM`.
            Forces are energies over lengths.
        stress_unit: unit of the file's stresses, a key of :data:`bnn_jax.units.STRESS_UNITS_EV_PER_ANGSTROM3`, with a
            minus in front where they are positive under compression, as VASP prints them (``"-kbar"``); an energy over
            a volume in the units above if none is named. ``"eV/Angstrom^3"`` also switches off the check that they
            belong to the energies and forces.
        index: frames to read, in ASE's notation.
        require_labels: refuse a file without any energy or forces, or in which some structures lack what others have.
        allow_missing_labels: consent to the latter.
        use_labels: False reads structures alone, whatever labels the file has.

    Raises:
        InputError: the file is absent, empty or unreadable, or a frame cannot be used; the sentence names the file, the
            frame, the key and the cure.
    """
    path = Path(path)
    if not os.path.isfile(path):  # unlike that of Path, False for names that are too long
        raise InputError(f"File {path} does not exist; check the path.")
    if path.stat().st_size == 0:
        raise InputError(f"File {path} is empty; fetch it again.")
    units = npz_units(path) if path.suffix == ".npz" else ("eV", "Angstrom")
    keys = Keys(energy_key, forces_key, stress_key)
    choices = Choices(keys, energy_unit, length_unit, stress_unit, require_labels, allow_missing_labels)
    return Dataset.from_frames(read_frames(path, index, keys, use_labels), str(path), choices, units)
