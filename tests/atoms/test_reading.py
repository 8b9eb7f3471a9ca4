import gzip
import tracemalloc

import ase
import ase.db
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from bnn_jax.atoms import Dataset, read_file
from bnn_jax.types import InputError
from bnn_jax.units import EV_PER_HARTREE, EV_PER_KCAL_PER_MOL, EV_PER_KJ_PER_MOL

WATER = np.array([[0.0, 0.0, 0.1], [0.8, 0.0, -0.5], [-0.8, 0.0, -0.5]])


def water(energy=-10.0, forces=0.5, **info):
    atoms = ase.Atoms("OH2", WATER)
    atoms.info.update(info)
    labels = {"energy": energy, "forces": None if forces is None else np.full((3, 3), forces)}
    atoms.calc = SinglePointCalculator(atoms, **{key: value for key, value in labels.items() if value is not None})
    return atoms


def crystal(**info):
    atoms = ase.Atoms("Si2", [[0, 0, 0], [1.3, 1.4, 1.5]], cell=[[4, 0, 0], [0.5, 4, 0], [0, 0.2, 5]], pbc=True)
    atoms.info.update(info)
    return atoms


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.xyz.gz", "a.traj", "a.json", "a.db"])
def test_formats_of_ase(tmp_path, name):
    frames = [water(-10.0), water(-11.0, forces=-0.25), water(-12.0, forces=None)]
    if name.endswith(".db"):
        with ase.db.connect(tmp_path / name) as database:
            for atoms in frames:
                database.write(atoms)
    else:
        ase.io.write(tmp_path / name, frames)
    dataset = read_file(tmp_path / name)
    expected = Dataset.from_atoms(frames)
    np.testing.assert_array_equal(dataset.numbers, expected.numbers)
    for field in ("positions", "energy", "forces"):
        np.testing.assert_allclose(getattr(dataset, field), getattr(expected, field), atol=1e-7)


@pytest.mark.parametrize(
    ("index", "energies"),
    [
        (":", [0, 1, 2, 3, 4]),
        ("1:3", [1, 2]),
        ("-2:", [3, 4]),
        ("::2", [0, 2, 4]),
        ("2", [2]),
        (-1, [4]),
        (slice(3), [0, 1, 2]),
    ],
)
def test_index(tmp_path, index, energies):
    ase.io.write(tmp_path / "a.xyz", [water(float(i)) for i in range(5)])
    np.testing.assert_array_equal(read_file(tmp_path / "a.xyz", index=index).energy, energies)


@pytest.mark.parametrize("key", ["energy", "REF_energy", "dft_energy", "DFT_energy", "E", "U0", "free_energy"])
def test_energy_keys(key):
    atoms = ase.Atoms("OH2", WATER, info={key: -3.0})
    assert Dataset.from_atoms([atoms]).energy[0] == -3.0


@pytest.mark.parametrize("key", ["forces", "REF_forces", "dft_forces", "DFT_forces", "force"])
def test_forces_keys(key):
    atoms = ase.Atoms("OH2", WATER)
    atoms.set_array(key, np.full((3, 3), 0.5))
    assert (Dataset.from_atoms([atoms]).forces == 0.5).all()


def test_stress_and_virial_agree():
    stress = np.array([[1.0, 0.4, 0.3], [0.4, 2.0, 0.2], [0.3, 0.2, 3.0]])
    voigt = [1.0, 2.0, 3.0, 0.2, 0.3, 0.4]
    volume = crystal().get_volume()
    values = [{"stress": stress}, {"REF_stress": voigt}, {"stress": stress.ravel()}, {"virial": -stress * volume}]
    dataset = Dataset.from_atoms([crystal(**value) for value in values])
    np.testing.assert_allclose(dataset.stress, np.broadcast_to(stress, (4, 3, 3)), rtol=1e-12)


def test_stress_of_a_molecule_is_dropped():
    assert np.isnan(Dataset.from_atoms([water(stress=np.eye(3))]).stress).all()


def test_stress_survives_a_file(tmp_path):
    ase.io.write(tmp_path / "a.xyz", crystal(virial=np.diag([1.0, 2.0, 3.0])))
    stress = read_file(tmp_path / "a.xyz").stress
    np.testing.assert_allclose(stress[0], -np.diag([1.0, 2.0, 3.0]) / crystal().get_volume(), rtol=1e-6)


def test_free_energy_does_not_contradict_the_energy():
    atoms = ase.Atoms("OH2", WATER)
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, free_energy=-3.1)
    assert Dataset.from_atoms([atoms]).energy[0] == -3.0
    assert Dataset.from_atoms([atoms], energy_key="free_energy").energy[0] == -3.1


def test_keys_that_disagree_are_named(tmp_path):
    ase.io.write(tmp_path / "a.xyz", [water(), water(-10.0, REF_energy=-11.0)])
    with pytest.raises(
        InputError, match=r"a.xyz, frame 1: energy and REF_energy hold different values; choose one with energy_key="
    ):
        read_file(tmp_path / "a.xyz")
    assert read_file(tmp_path / "a.xyz", energy_key="REF_energy").energy[1] == -11.0
    assert Dataset.from_atoms([water(-10.0, REF_energy=-10.0)]).energy[0] == -10.0


def test_units_are_converted():
    forces, stress = np.full((2, 3), 0.5), np.eye(3)
    atoms = crystal(energy=-2.0, stress=stress)
    atoms.set_array("forces", forces)
    dataset = Dataset.from_atoms([atoms], energy_unit="Hartree", length_unit="nm")
    assert dataset.energy[0] == pytest.approx(-2 * EV_PER_HARTREE)
    np.testing.assert_allclose(dataset.positions, 10 * atoms.positions)
    np.testing.assert_allclose(dataset.cell[0], 10 * atoms.cell.array)
    np.testing.assert_allclose(dataset.forces, forces * EV_PER_HARTREE / 10)
    np.testing.assert_allclose(dataset.stress[0], stress * EV_PER_HARTREE / 1000)
    with pytest.raises(InputError, match="energy_unit 'kcal' is not known; choose one of eV, meV, kcal/mol"):
        Dataset.from_atoms([atoms], energy_unit="kcal")


def npz(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {"coords": WATER + rng.normal(scale=0.05, size=(4, 3, 3)), "nuclear_charges": np.array([8, 1, 1])}
    arrays |= {"energies": -47000.0 + np.arange(4), "forces": rng.normal(scale=25.0, size=(4, 3, 3))}
    arrays = {key: value for key, value in (arrays | changes).items() if value is not None}
    np.savez(path, **arrays)
    return arrays


def test_npz_of_rmd17_is_in_kcal_per_mol(tmp_path):
    arrays = npz(tmp_path / "a.npz", old_energies=np.zeros(4), old_forces=np.ones((4, 3, 3)))
    dataset = read_file(tmp_path / "a.npz", require_labels=True)
    np.testing.assert_allclose(dataset.energy, arrays["energies"] * EV_PER_KCAL_PER_MOL, rtol=1e-14)
    np.testing.assert_allclose(dataset.forces, arrays["forces"].reshape(-1, 3) * EV_PER_KCAL_PER_MOL)
    np.testing.assert_array_equal(dataset.positions, arrays["coords"].reshape(-1, 3))
    old = read_file(tmp_path / "a.npz", energy_key="old_energies", forces_key="old_forces", index="1:")
    np.testing.assert_allclose(old.forces, EV_PER_KCAL_PER_MOL)
    assert len(old) == 3


@pytest.mark.parametrize(
    ("unit", "factor"),
    [(None, EV_PER_KCAL_PER_MOL), ("kcal mol-1", EV_PER_KCAL_PER_MOL), (b"eV", 1.0), ("kJ/mol", EV_PER_KJ_PER_MOL)],
)
def test_npz_of_sgdml_names_its_units(tmp_path, unit, factor):
    content = {"z": np.array([8, 1, 1]), "R": WATER[None], "E": np.array([[-100.0]]), "F": np.ones((1, 3, 3))}
    if unit is not None:
        content |= {"e_unit": np.array(unit), "r_unit": np.array("Ang")}
    np.savez(tmp_path / "a.npz", **content, lattice=np.array([[9.0, 1.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]))
    dataset = read_file(tmp_path / "a.npz")
    assert dataset.energy[0] == pytest.approx(-100 * factor)
    np.testing.assert_allclose(dataset.forces, factor)
    np.testing.assert_array_equal(dataset.cell[0][1], [1.0, 9.0, 0.0])  # stored as columns
    assert dataset.pbc.all()


def xyz(path, *frames):
    path.write_text("".join(frames))
    return path


FRAME = "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.0\nH 0 0 0 0 0 1\nH 0 0 0.8 0 0 -1\n"
BOX = 'Lattice="1 0 0 0 9 0 0 0 9" pbc="F F T"'


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], r"File .*a.xyz is empty"),
        (
            [FRAME, FRAME.replace("energy=-1.0", "energy=nan")],
            r"frame 1: energy holds NaN or infinity; remove the label or the frame\.",
        ),
        ([FRAME, FRAME, FRAME.replace("0 0 -1", "0 0 inf")], r"a.xyz, frame 2: forces holds NaN or infinity"),
        (
            [FRAME, FRAME.replace("H 0 0 0.8", "H 0 0 0.0001")],
            r"a.xyz, frame 1: atoms 0 and 1 are 0.0001 Angstrom apart",
        ),
        ([FRAME, FRAME.replace("0.8 0 0 -1", "oops 0 0 -1")], r"frame 1 cannot be read \(.*oops.*\); correct or"),
        ([FRAME, "two\n" + FRAME], r"a.xyz, frame 1 cannot be read \('two' stands where the number of atoms should\)"),
        ([FRAME, "\n\n", FRAME], r"a.xyz, frame 1 cannot be read \(an empty line stands where"),
        ([FRAME, FRAME[:-20]], r"a.xyz, frame 1 cannot be read \(.+\)"),
        ([FRAME, "3\n" + FRAME[2:]], r"a.xyz, frame 1 cannot be read \(the file ends after 4 of 5 lines\)"),
        ([FRAME.replace("energy=", 'pbc="T T T" energy=')], r"a.xyz, frame 0: pbc is set but the cell has no volume"),
        ([FRAME.replace("-1.0", '"1 2"')], r"a.xyz, frame 0: energy has shape \(2,\), not \(1,\)"),
        ([FRAME.replace("-1.0", "low")], r"a.xyz, frame 0: energy is 'low', not a number"),
        ([FRAME.replace("energy=", f"{BOX} REF_stress='1 2 3 4' energy=")], r"frame 0: REF_stress has shape \(4,\)"),
        ([FRAME.replace("0 0 0 0 0 1", "nan 0 0 0 0 1")], r"a.xyz, frame 0: positions or cell hold NaN"),
        (["0\nenergy=0\n"], r"a.xyz, frame 0: there is no atom"),
        (["\n"], r"a.xyz holds no structure"),
    ],
)
def test_a_bad_file_gets_one_clear_sentence(tmp_path, frames, message):
    path = xyz(tmp_path / "a.xyz", *frames)
    with pytest.raises(InputError, match=message) as caught:
        read_file(path)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_two_atoms_on_one_spot_across_the_cell():
    atoms = ase.Atoms("Si2", [[0.0, 0, 0], [4.0, 0, 0]], cell=np.eye(3) * 4, pbc=True)
    with pytest.raises(InputError, match="structures, frame 0: atoms 0 and 1 are 0 Angstrom apart; remove one"):
        Dataset.from_atoms([atoms])


def test_files_that_are_not_there_or_not_what_they_say(tmp_path):
    with pytest.raises(InputError, match=r"File .*absent.xyz does not exist; check the path"):
        read_file(tmp_path / "absent.xyz")
    with pytest.raises(InputError, match=r"notes.txt, frame 0 cannot be read"):
        read_file(xyz(tmp_path / "notes.txt", "nothing of use\n"))
    with pytest.raises(InputError, match=r"a.xyz.gz, frame 0 cannot be read"):
        read_file(xyz(tmp_path / "a.xyz.gz", FRAME))
    (tmp_path / "cut.xyz.gz").write_bytes(gzip.compress(FRAME.encode() * 50)[:-20])
    with pytest.raises(InputError, match=r"cut.xyz.gz, frame \d+ cannot be read"):
        read_file(tmp_path / "cut.xyz.gz")
    with pytest.raises(InputError, match=r"a.npz is not a valid .npz file"):
        read_file(xyz(tmp_path / "a.npz", "no zip\n"))
    with pytest.raises(InputError, match=r"Index 'last' of .*a.xyz is not understood"):
        read_file(xyz(tmp_path / "a.xyz", FRAME), index="last")
    with pytest.raises(InputError, match=r"a.xyz holds no structure; check the path and the index"):
        read_file(tmp_path / "a.xyz", index="5:")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coords": None}, r"a.npz has neither nuclear_charges, coords \(rMD17\) nor z, R \(sGDML\)"),
        ({"energies": np.zeros(3)}, r"a.npz: energies have shape \(3,\), not \(4,\)"),
        ({"forces": np.zeros((4, 2, 3))}, r"a.npz: forces have shape \(4, 2, 3\), not \(4, 3, 3\)"),
        ({"energies": np.array([0, 1, np.nan, 2])}, r"a.npz, frame 2: energies hold NaN or infinity"),
        (
            {"e_unit": np.array("parsec")},
            r"a.npz: unit 'parsec' is not known; name it with energy_unit= or length_unit=",
        ),
    ],
)
def test_a_bad_npz_gets_one_clear_sentence(tmp_path, changes, message):
    npz(tmp_path / "a.npz", **changes)
    with pytest.raises(InputError, match=message):
        read_file(tmp_path / "a.npz")


def test_labels_that_were_asked_for_must_be_there(tmp_path):
    ase.io.write(tmp_path / "a.xyz", ase.Atoms("OH2", WATER))
    assert np.isnan(read_file(tmp_path / "a.xyz").energy).all()
    with pytest.raises(
        InputError, match="no frame holds energies or forces; name them with energy_key= and forces_key="
    ):
        read_file(tmp_path / "a.xyz", require_labels=True)
    with pytest.raises(InputError, match="no frame holds 'E_dft'; correct energy_key= or leave it out"):
        read_file(tmp_path / "a.xyz", energy_key="E_dft")
    npz(tmp_path / "a.npz")
    with pytest.raises(InputError, match="has no array 'E_dft'; it holds coords, nuclear_charges, energies, forces"):
        read_file(tmp_path / "a.npz", energy_key="E_dft")


def test_units_that_cannot_be_electronvolts_are_refused(tmp_path):
    """The plausible values in eV, read as if they were given in another unit."""
    rng = np.random.default_rng(0)
    frames = [water(-1000.0 + rng.normal(), forces=None) for _ in range(20)]
    for atoms in frames:
        atoms.calc.results["forces"] = rng.normal(scale=1.2, size=(3, 3)) / EV_PER_KCAL_PER_MOL
    ase.io.write(tmp_path / "a.xyz", frames)
    with pytest.raises(
        InputError, match=r"a.xyz: forces of .* too large for eV/Angstrom; name the unit, .*energy_unit='kcal/mol'"
    ):
        read_file(tmp_path / "a.xyz")
    assert 1.0 < read_file(tmp_path / "a.xyz", energy_unit="kcal/mol").forces.std() < 1.4
    assert read_file(tmp_path / "a.xyz", energy_unit="eV").forces.std() > 20
    frames = [water(float(energy), forces=None) for energy in rng.normal(scale=400.0, size=20)]
    with pytest.raises(InputError, match=r"structures: energies spread by .* per atom, too much for eV"):
        Dataset.from_atoms(frames)


@pytest.mark.parametrize(
    ("path", "frames", "species", "mean_forces"),
    [
        ("rmd17/ethanol/train.xyz.gz", 1000, (1, 6, 8), 1.195),
        ("carbon_gap17/train_bulk_cryst.xyz.gz", 400, (6,), 0.713),
        ("silica_zeolite/test.xyz.gz", 504, (8, 14), 1.231),
        ("cg_water_n2p2/all.xyz.gz", 19, (0,), 0.221),
    ],
)
def test_public_sets(shared_data, path, frames, species, mean_forces):
    dataset = read_file(shared_data / path)
    assert len(dataset) == frames
    assert dataset.species == species
    assert np.sqrt(np.mean(dataset.forces**2)) == pytest.approx(mean_forces, abs=1e-3)
    assert np.isfinite(dataset.stress).all() == ("bulk_cryst" in path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"99999999999\nenergy=0\nH 0 0 0\n", r"99999999999 is no number of atoms from 0 to 10000000"),
        (b"9000000\nenergy=0\nH 0 0 0\n", r"the file ends after 3 of 9000002 lines"),
        (b"-1\nenergy=0\nH 0 0 0\n", r"-1 is no number of atoms"),
        (b"9" * 10**5 + b"\n", r"stands where the number of atoms should"),
        (b"1\n" + b"x" * (2**24 + 1), r"a line is longer than 16777216 characters"),
        (b"1\nProperties=species:S:1:pos:R:3:x:R:1000000000\nH 0 0 0\n", r"a property has 1000000000 columns"),
        (b'1\nPro\\perties="species:S:1:pos:R:3:x:R:1"000000000\nH 0 0 0\n', r"a property has 1000000000 columns"),
        (b"1\nProperties=species:S:1:pos:R:-3\nH 0 0 0\n", r"a property has -3 columns"),
        (b"1\nProperties=species:S:1:pos:R:x\nH 0 0 0\n", r"frame 0 cannot be read"),
        (b"1\nenergy=0\nXx 0 0 0\n", r"frame 0 cannot be read"),
        (b"1\nProperties=Z:I:1:pos:R:3\n119 0 0 0\n", r"atom 0 has atomic number 119, which no element has"),
        (b"1\nenergy=0\nH 0 0 \xff\n", r"frame 0 cannot be read"),
        (b"1\nenergy=0\nH 0 0 \x00\n", r"frame 0 cannot be read"),
        (b'1\nx="_JSON ' + b"[" * 10**5 + b'"\nH 0 0 0\n', r"frame 0 cannot be read"),
        (b"1\nenergy=1e999\nH 0 0 0\n", r"frame 0: energy holds NaN or infinity"),
        (b"1\nenergy=1e300\nH 0 0 0\n", r"frame 0: energy is beyond 1e\+12"),
        (b"1\nenergy=0\nH 0 0 1e300\n", r"frame 0: positions or cell reach 1e\+300 Angstrom"),
        (b'1\nLattice="1 2 3"\nH 0 0 0\n', r"frame 0 cannot be read"),
        (b'1\nLattice="9 0 0 0 9 0 0 0 9" pbc="T T T T"\nH 0 0 0\n', r"frame 0 cannot be read"),
    ],
)
def test_an_extended_xyz_of_a_stranger(tmp_path, content, message):
    (tmp_path / "a.xyz").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError, match=rf"a.xyz.*{message}") as caught:
        read_file(tmp_path / "a.xyz")
    assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_compressed_file_that_unpacks_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("bnn_jax.atoms.npz.MAX_UNPACKED_BYTES", 10**6)
    line = b"H 0 0 0" + b" " * 1000 + b"\n"
    (tmp_path / "a.xyz.gz").write_bytes(gzip.compress(b"10000\n\n" + 10000 * line))
    with pytest.raises(InputError, match=r"a.xyz.gz, frame 0 cannot be read \(it unpacks to more than 0.0 GiB\)"):
        read_file(tmp_path / "a.xyz.gz")


@pytest.mark.parametrize("index", ["::0", "1:2:3:4", f":{10**30}", "1e3"])
def test_an_index_that_is_none(tmp_path, index):
    with pytest.raises(InputError, match=r"Index .* of .*a.xyz is not understood"):
        read_file(xyz(tmp_path / "a.xyz", FRAME), index=index)
