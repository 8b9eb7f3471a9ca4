"""Arrays of a stranger: refused by header and size, before they are allocated."""

import io
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from bnn_jax.atoms import Dataset, npz, read_file
from bnn_jax.types import InputError


def header(shape, descr="<f8", version=b"\x01\x00", text=None):
    """The first bytes of an .npy file that claims what it likes."""
    text = text or repr({"descr": descr, "fortran_order": False, "shape": shape})
    text = text.encode() + b"\n"
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + text


def archive(path, compression=zipfile.ZIP_STORED, **members):
    """Valid water in an .npz, but for ``members`` of arrays or of raw bytes."""
    arrays = {"z": np.array([8, 1, 1]), "R": np.array([[[0, 0, 0.1], [0.8, 0, -0.5], [-0.8, 0, -0.5]]])}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, array in (arrays | members).items():
            content = io.BytesIO()
            if isinstance(array, bytes):
                content.write(array)
            else:
                np.save(content, array)
            file.writestr(f"{name}.npy", content.getvalue())
    return path


@pytest.mark.parametrize(
    "array", [np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(3)), np.float32(2.5), np.zeros((0, 3))]
)
def test_read_array_is_numpys(array):
    for version in ((1, 0), (2, 0)):
        content = io.BytesIO()
        np.lib.format.write_array(content, np.asanyarray(array), version)
        content.seek(0)
        read = npz.read_array(content, len(content.getvalue()))
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


HUGE = 10**11
BAD = {
    "oversized": (header((HUGE, 3, 3)) + bytes(72), r"its shape is \(100000000000, 3, 3\) but 72 bytes are there"),
    "wraps around": (header((2**62, 4)) + bytes(8), "bytes are there"),
    "negative": (header((-1, 3, 3)) + bytes(72), r"its shape is \(-1, 3, 3\)"),
    "two negatives": (header((-1, -3, 3)) + bytes(72), r"its shape is \(-1, -3, 3\)"),
    "too small": (header((1, 2, 3)) + bytes(72), "72 bytes are there"),
    "objects": (header((1, 3, 3), "|O") + b"cos\nsystem\n(S'true'\ntR.", "its type is object"),
    "records": (header((1,), [("a", "<f8"), ("b", "|O")]) + bytes(16), "its type is"),
    "text": (header((9,), "<U2") + bytes(72), "its type is <U2"),
    "no bytes a number": (header((9,), "|S0"), "its type is"),
    "dates": (header((9,), "<M8[s]") + bytes(72), "its type is datetime64"),
    "deep": (header((), text="(" * 5000), "cannot be read"),
    "call": (header((), text="__import__('os').getcwd()"), "cannot be read"),
    "long header": (header((), text="{" + " " * 20000 + "}"), "cannot be read"),
    "no dictionary": (header((), text="[1]"), "Header is not a dictionary"),
    "version": (header((1, 3, 3), version=b"\x07\x00") + bytes(72), r"format version \(7, 0\) is not known"),
    "no array": (b"nothing", "cannot be read"),
    "empty": (b"", "cannot be read"),
    "complex": (np.ones((1, 3, 3), complex), "its type is complex128"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("key", ["R", "F", "lattice"])
def test_a_malformed_array_is_refused_without_allocation(tmp_path, name, key):
    content, sentence = BAD[name]
    path = archive(tmp_path / "a.npz", **{key: content})
    tracemalloc.start()
    with pytest.raises(InputError, match=rf"a.npz: array '{key}' .*{sentence}.*check the file\.") as caught:
        read_file(path)
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    content = io.BytesIO()
    np.save(content, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="its type is object"):
        read_file(archive(tmp_path / "a.npz", R=content.getvalue()))
    (tmp_path / "index.npy").write_bytes(content.getvalue())
    with pytest.raises(InputError, match="does not hold one index a line"):
        dataset().split(tmp_path / "index.npy")


def dataset():
    import ase

    return Dataset.from_atoms([ase.Atoms("H")] * 4)


@pytest.mark.parametrize("name", [name for name in BAD if name != "complex"])
def test_an_index_file_of_a_stranger(tmp_path, name):
    (tmp_path / "index.npy").write_bytes(BAD[name][0])
    with pytest.raises(InputError, match=r"Split: train file .*index.npy does not hold one index a line; correct it"):
        dataset().split(tmp_path / "index.npy")


@pytest.mark.parametrize("content", [b"1\n" + b"9" * 30, b"\xff\xfe1", b"1\x002", b"1.5"])
def test_an_index_text_of_a_stranger(tmp_path, content):
    (tmp_path / "index.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"index.txt does not hold one index a line"):
        dataset().split(tmp_path / "index.txt")


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"z": np.array([8, 1, 0])}, r"atom 2 has atomic number 0, which no element has; correct it \(1 to 118\)"),
        ({"z": np.array([8, 1, 300])}, "atom 2 has atomic number 300"),
        ({"z": np.array([8, 1, 1.5])}, "atom 2 has atomic number 1.5"),
        ({"z": np.array([8, 1, np.nan])}, "atom 2 has atomic number nan"),
        ({"z": np.array([[8, 1, 1]])}, r"atomic numbers are int64 of shape \(1, 3\)"),
        ({"R": np.zeros((3, 3))}, r"coords have shape \(3, 3\), not \(3, 3, 3\)"),
        ({"R": np.float64(1.0)}, r"coords have shape \(\), not \(0, 3, 3\)"),
        ({"R": np.zeros((0, 3, 3))}, "holds no structure"),
        ({"E": np.zeros((1, 2))}, r"energies have shape \(2,\), not \(1,\)"),
        ({"lattice": np.ones(3)}, r"lattice have shape \(3,\), not \(3, 3\)"),
        ({"lattice": np.diag([9.0, np.inf, 9.0])}, "lattice hold NaN or infinity"),
        ({"lattice": np.zeros((3, 3))}, "frame 0: pbc is set but the cell has no volume"),
        ({"lattice": np.diag([-9.0, 9.0, 9.0])}, "frame 0: the lattice vectors are left-handed"),
        ({"e_unit": np.array(b"\xff\xfe")}, "unit '.*' is not known"),
        ({"e_unit": np.array("x" * 1000)}, "unit 'x{40}' is not known"),
        ({"e_unit": np.array([])}, "array 'e_unit' cannot be read"),
    ],
)
def test_arrays_that_do_not_make_structures(tmp_path, members, sentence):
    with pytest.raises(InputError, match=rf"a.npz.*{sentence}"):
        read_file(archive(tmp_path / "a.npz", **members))


def test_a_bomb_is_refused_and_a_well_packed_file_is_not(tmp_path, monkeypatch):
    content = header((10**5, 3, 3)) + bytes(72 * 10**5)
    path = archive(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, R=content)
    assert path.stat().st_size < len(content) / 100
    with pytest.raises(InputError, match="Angstrom apart"):  # 7 MB of zeros are read
        read_file(path)
    monkeypatch.setattr(npz, "MAX_UNPACKED_BYTES", 10**6)
    with pytest.raises(InputError, match=r"a.npz would unpack to 0.0 GiB; make a smaller file of what you need"):
        read_file(path)
    honest = np.random.default_rng(0).normal(size=(10**5, 3, 3))
    path = archive(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, F=honest, R=honest)
    npz.read_arrays(path, ["R"])
    monkeypatch.setattr(npz, "MAX_BYTES", 10**6)
    with pytest.raises(InputError, match="would unpack to"):
        npz.read_arrays(path, ["R"])


def test_foreign_compression(tmp_path):
    with pytest.raises(InputError, match="its compression is not NumPy's"):
        read_file(archive(tmp_path / "a.npz", zipfile.ZIP_LZMA))


def test_a_header_of_python_2_is_read_without_a_word(tmp_path):
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (1L, 3L, 3L)}"
    rows = np.random.default_rng(0).normal(size=(1, 3, 3))
    path = archive(tmp_path / "a.npz", R=header((), text=text) + rows.tobytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_file(path).positions, rows[0])
