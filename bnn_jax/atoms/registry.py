"""The table of data sets that have a name: where each comes from, how it is checked, whom to cite."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where a named data set comes from and what is known of it."""

    name: str
    url: str | None
    """Public address; None for a file that is shipped with the package."""
    filename: str
    """Name of the file in the cache, or of the packaged file."""
    member: str | None
    """Path inside the archive; None where the file is no archive."""
    known_hash: str | None
    """``sha256`` or ``algorithm:digest`` of the file at ``url``, as a public record states it.

    None where no such record is known: the checksum is then recorded on the first download.
    """
    reference: str
    licence: str
    units: str
    """Unit of the energies in the file, as :mod:`bnn_jax.units` names it; lengths are in Angstrom."""
    num_structures: int | None = None

    @property
    def integrity(self) -> str:
        """How the file's content is checked, in words."""
        if self.url is None:
            return "shipped with the package; checksum in bnn_jax/atoms/builtin/ammonia.json"
        return self.known_hash or "no published checksum known; recorded on first download"


def _builtin() -> Iterator[Source]:
    reference = "Made for this package by experiments/ammonia, after Tan et al., npj Comput. Mater. 9, 225 (2023)."
    for name, part, count in (
        ("", "train", 78),
        ("/train", "train", 78),
        ("/test", "test", 200),
        ("/path", "path", 21),
    ):
        yield Source(f"ammonia{name}", None, f"ammonia_{part}.xyz", None, None, reference, "MIT", "eV", count)


def _rmd17() -> Iterator[Source]:
    # Public code states this digest for 10.6084/m9.figshare.12672038.v3; it was not confirmed by a download here.
    url, digest = "https://ndownloader.figshare.com/files/23950376", "md5:cb1a927628d96f2e966025da4fb63d18"
    reference = "A. S. Christensen, O. A. von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020)."
    molecules = "aspirin azobenzene benzene ethanol malonaldehyde naphthalene paracetamol salicylic toluene uracil"
    for molecule in molecules.split():
        member = f"rmd17/npz_data/rmd17_{molecule}.npz"
        count = 99_988 if molecule == "azobenzene" else 100_000
        yield Source(f"rmd17/{molecule}", url, "rmd17.tar.bz2", member, digest, reference, "CC0 1.0", "kcal/mol", count)


_GDML = "https://www.quantum-machine.org/gdml"
_GDML_LICENCE = "none stated at the source; cite the reference"


def _md17() -> Iterator[Source]:
    reference = "S. Chmiela et al., Sci. Adv. 3, e1603015 (2017)."
    files = {
        "aspirin": ("md17_aspirin", 211_762),
        "azobenzene": ("azobenzene_dft", 99_999),
        "benzene": ("md17_benzene2017", 627_983),
        "ethanol": ("md17_ethanol", 555_092),
        "malonaldehyde": ("md17_malonaldehyde", 993_237),
        "naphthalene": ("md17_naphthalene", 326_250),
        "paracetamol": ("paracetamol_dft", 106_490),
        "salicylic": ("md17_salicylic", 320_231),
        "toluene": ("md17_toluene", 442_790),
        "uracil": ("md17_uracil", 133_770),
    }
    for molecule, (stem, count) in files.items():
        url, filename = f"{_GDML}/data/npz/{stem}.npz", f"{stem}.npz"
        yield Source(f"md17/{molecule}", url, filename, None, None, reference, _GDML_LICENCE, "kcal/mol", count)


def _md22() -> Iterator[Source]:
    reference = "S. Chmiela et al., Sci. Adv. 9, eadf0873 (2023)."
    counts = {
        "Ac-Ala3-NHMe": 85_109,
        "DHA": 69_753,
        "stachyose": 27_272,
        "AT-AT": 20_001,
        "AT-AT-CG-CG": 10_153,
        "buckyball-catcher": 6_102,
        "double-walled_nanotube": 5_032,
    }
    for molecule, count in counts.items():
        url, filename = f"{_GDML}/repo/datasets/md22_{molecule}.npz", f"md22_{molecule}.npz"
        yield Source(f"md22/{molecule}", url, filename, None, None, reference, _GDML_LICENCE, "kcal/mol", count)


def _ethanol_ccsdt() -> Iterator[Source]:
    url = f"{_GDML}/data/npz/ethanol_ccsd_t.zip"
    reference = "S. Chmiela, H. E. Sauceda, K.-R. Mueller, A. Tkatchenko, Nat. Commun. 9, 3887 (2018)."
    for half in ("train", "test"):
        name, member = f"ethanol_ccsdt/{half}", f"ethanol_ccsd_t-{half}.npz"
        yield Source(name, url, "ethanol_ccsd_t.zip", member, None, reference, _GDML_LICENCE, "kcal/mol", 1_000)


def _3bpa() -> Iterator[Source]:
    base = "https://raw.githubusercontent.com/davkovacs/BOTNet-datasets/main/dataset_3BPA"
    reference = "D. P. Kovacs et al., J. Chem. Theory Comput. 17, 7696 (2021)."
    counts = {
        "train_300K": 500,
        "train_mixedT": 500,
        "test_300K": 1_669,
        "test_600K": 2_138,
        "test_1200K": 2_139,
        "test_dih": None,
        "iso_atoms": 4,
    }
    for part, count in counts.items():
        yield Source(f"3bpa/{part}", f"{base}/{part}.xyz", f"{part}.xyz", None, None, reference, "MIT", "eV", count)


SOURCES: tuple[Source, ...] = (*_builtin(), *_rmd17(), *_md17(), *_md22(), *_ethanol_ccsdt(), *_3bpa())
"""Every data set that :func:`load` knows by name."""
