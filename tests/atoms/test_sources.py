"""Names, downloads and their checksums, against a server on this machine."""

import functools
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bnn_jax.atoms import sources
from bnn_jax.atoms.sources import SOURCES, describe, fetch, list_sources, load
from bnn_jax.types import InputError
from bnn_jax.units import ENERGY_UNITS_EV, EV_PER_KCAL_PER_MOL

NUM = 5
XYZ = b"""2
Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc="F F F"
H 0.0 0.0 0.0 0.1 0.0 0.0
H 0.0 0.0 0.75 -0.1 0.0 0.0
"""


def water(seed=0):
    """Numbers, positions, energies in kcal/mol and forces, as sGDML and rMD17 have them."""
    rng = np.random.default_rng(seed)
    positions = np.array([[0.0, 0.0, 0.1], [0.0, 0.76, -0.5], [0.0, -0.76, -0.5]]) + 0.01 * rng.normal(size=(NUM, 3, 3))
    return np.array([8, 1, 1]), positions, -47_000 + rng.normal(size=NUM), 10 * rng.normal(size=(NUM, 3, 3))


def npz(names, seed=0):
    buffer = io.BytesIO()
    np.savez(buffer, **dict(zip(names, water(seed), strict=True)))
    return buffer.getvalue()


RMD17 = npz(("nuclear_charges", "coords", "energies", "forces"))
SGDML_TRAIN, SGDML_TEST = npz("zREF", 1), npz("zREF", 2)


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.requested.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """A server of the folder ``tmp_path/served``, with ``address``, ``files`` and ``requested``."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.requested, running.files = [], folder
        running.address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("BNN_JAX_DATA", str(folder))
    return folder


def serve(server, name, content, known_hash=None):
    """The registered source with its address on the server, which sends ``content`` for it."""
    source = describe(name)
    (server.files / source.filename).write_bytes(content)
    return replace(source, url=f"{server.address}/{source.filename}", known_hash=known_hash)


def tar(member, content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as archive:
        for name, data in (("rmd17/readme.txt", b"other file"), (member, content)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(contents):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_npz_from_tar_archive_is_converted_and_cached(server, cache):
    content = tar("rmd17/npz_data/rmd17_ethanol.npz", RMD17)
    source = serve(server, "rmd17/ethanol", content, "md5:" + hashlib.md5(content).hexdigest())
    dataset = load("rmd17/ethanol", registry=[source])
    _, positions, energies, forces = water()
    np.testing.assert_allclose(dataset.energy, energies * EV_PER_KCAL_PER_MOL, rtol=1e-14)
    np.testing.assert_allclose(dataset.forces, forces.reshape(-1, 3) * EV_PER_KCAL_PER_MOL, rtol=1e-12)
    np.testing.assert_array_equal(dataset.positions, positions.reshape(-1, 3))
    (cache / "rmd17" / "rmd17.tar.bz2").unlink()  # the extracted file is enough from now on
    assert len(load("rmd17/ethanol", registry=[source], index=":2")) == 2
    assert server.requested == ["/rmd17.tar.bz2"]


def test_halves_of_a_zip_archive_share_one_download(server):
    content = zipped({"ethanol_ccsd_t-train.npz": SGDML_TRAIN, "ethanol_ccsd_t-test.npz": SGDML_TEST})
    registry = [serve(server, f"ethanol_ccsdt/{half}", content) for half in ("train", "test")]
    for seed, half in ((1, "train"), (2, "test")):
        dataset = load(f"ethanol_ccsdt/{half}", registry=registry)
        np.testing.assert_allclose(dataset.energy, water(seed)[2] * EV_PER_KCAL_PER_MOL, rtol=1e-14)
    assert server.requested == ["/ethanol_ccsd_t.zip"]


def test_plain_npz_and_xyz(server, cache):
    registry = [serve(server, "md17/ethanol", SGDML_TRAIN), serve(server, "3bpa/train_300K", XYZ)]
    assert len(load("md17/ethanol", registry=registry)) == NUM
    dataset = load("3bpa/train_300K", registry=registry)
    assert dataset.energy[0] == -1.5 and dataset.forces[0, 0] == 0.1
    load("3bpa/train_300K", registry=registry)
    assert server.requested == ["/md17_ethanol.npz", "/train_300K.xyz"]
    record = json.loads((cache / "3bpa" / "train_300K.xyz.json").read_text())
    assert record == {"url": registry[1].url, "sha256": hashlib.sha256(XYZ).hexdigest()}
    assert sorted(path.name for path in (cache / "3bpa").iterdir()) == ["train_300K.xyz", "train_300K.xyz.json"]


def test_file_that_changed_since_its_download_is_refused(server, cache):
    source = serve(server, "3bpa/iso_atoms", XYZ)
    path = fetch(source)
    path.write_bytes(XYZ.replace(b"-1.5", b"-1.6"))
    with pytest.raises(
        InputError, match=r"iso_atoms\.xyz does not have the checksum [0-9a-f]{64} of 3bpa/iso_atoms: it"
    ):
        fetch(source)
    path.unlink()
    (cache / "3bpa" / "iso_atoms.xyz.json").unlink()
    assert fetch(source).read_bytes() == XYZ


def test_extracted_file_that_changed_is_refused(server):
    source = serve(server, "rmd17/uracil", tar("rmd17/npz_data/rmd17_uracil.npz", RMD17))
    fetch(source).write_bytes(RMD17[:-1])
    with pytest.raises(
        InputError, match=r"rmd17_uracil\.npz does not have the checksum .*; delete it and rmd17_uracil"
    ):
        load("rmd17/uracil", registry=[source])


def test_download_with_a_wrong_checksum_is_refused_and_leaves_nothing(server, cache):
    source = serve(server, "3bpa/test_dih", XYZ, known_hash="sha256:" + 64 * "0")
    with pytest.raises(InputError, match=r"sent does not have the checksum sha256:0{64}; fetch it by hand, save it as"):
        fetch(source)
    assert list((cache / "3bpa").iterdir()) == []


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_damaged_archive_is_named(server, cache, form):
    noise = np.random.default_rng(0).bytes(50_000)  # does not compress, so that the cut falls inside the member
    if form == "tar":
        name, content = "rmd17/toluene", tar("rmd17/npz_data/rmd17_toluene.npz", noise)
    else:
        name, content = "ethanol_ccsdt/train", zipped({"ethanol_ccsd_t-train.npz": noise})
    source = serve(server, name, content[: len(content) // 2])
    with pytest.raises(
        InputError, match=rf"{source.filename} is damaged or incomplete \(\w+\); delete it and load again"
    ):
        fetch(source)
    assert not list(cache.rglob("*.npz*"))


def test_damage_inside_a_zip_is_named(server):
    content = bytearray(zipped({"ethanol_ccsd_t-train.npz": SGDML_TRAIN}))
    content[200:210] = 10 * b"\xff"
    with pytest.raises(InputError, match="is damaged or incomplete"):
        fetch(serve(server, "ethanol_ccsdt/train", bytes(content)))


@pytest.mark.parametrize(
    ("name", "content", "member"),
    [
        ("rmd17/aspirin", tar("elsewhere.npz", RMD17), "rmd17/npz_data/rmd17_aspirin.npz"),
        ("ethanol_ccsdt/test", zipped({"ethanol_ccsd_t-train.npz": SGDML_TRAIN}), "ethanol_ccsd_t-test.npz"),
    ],
)
def test_archive_without_the_member_is_named(server, name, content, member):
    with pytest.raises(InputError, match=rf"holds no file {member}; delete it and load again"):
        fetch(serve(server, name, content))


def test_absent_address_says_where_to_put_the_file(server, cache):
    source = replace(describe("md22/DHA"), url=f"{server.address}/gone.npz")
    with pytest.raises(
        InputError, match=r"md22/DHA cannot be downloaded from .*/gone\.npz \(HTTP status 404\); fetch"
    ) as e:
        fetch(source)
    path = cache / "md22" / "md22_DHA.npz"
    assert f"save it as {path} and load again" in str(e.value)
    path.write_bytes(SGDML_TRAIN)  # as the message says
    assert len(load("md22/DHA", registry=[source])) == NUM


def test_unreachable_server(server):
    source = serve(server, "3bpa/test_300K", XYZ)
    closed = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    port = closed.server_port
    closed.server_close()
    with pytest.raises(
        InputError, match=r"3bpa/test_300K cannot be downloaded from http://127.* \(ConnectionError\); fetch"
    ):
        fetch(replace(source, url=f"http://127.0.0.1:{port}/test_300K.xyz"))


class ShortHandler(Handler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(XYZ)


def test_connection_that_breaks_leaves_no_file(server, cache):
    server.RequestHandlerClass = functools.partial(ShortHandler, directory=str(server.files))
    with pytest.raises(InputError, match=r"cannot be downloaded from .* \(ChunkedEncodingError\)"):
        fetch(serve(server, "3bpa/test_600K", XYZ))
    assert list((cache / "3bpa").iterdir()) == []


def test_full_disk_is_named_and_leaves_no_file(server, cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sources.pooch.HTTPDownloader, "__call__", full)
    with pytest.raises(
        InputError, match=r"iso_atoms\.xyz cannot be written \(No space left on device\); free some space"
    ):
        fetch(serve(server, "3bpa/iso_atoms", XYZ))
    assert list((cache / "3bpa").iterdir()) == []


def test_cache_that_is_a_file_is_named(server, cache):
    cache.write_text("")
    with pytest.raises(InputError, match=r"cannot be written \(.*\); free some space or set BNN_JAX_DATA"):
        fetch(serve(server, "3bpa/iso_atoms", XYZ))


def test_unknown_name_gets_the_nearest(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"'rmd17/etanol' is no file and no known data set; .*'rmd17/ethanol'"):
        load("rmd17/etanol")
    with pytest.raises(InputError, match=r"There is no data set 'amonia'; the nearest known name is 'ammonia'"):
        describe("amonia")
    monkeypatch.chdir(tmp_path)
    Path("3bpa").mkdir()
    with pytest.raises(InputError, match="'3bpa' is a folder and no known data set"):
        load("3bpa")


def test_existing_file_wins_and_keys_are_passed_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ammonia").write_bytes(b"")
    with pytest.raises(InputError, match=r"ammonia"):
        load("ammonia")  # the empty file, not the built-in set
    path = tmp_path / "mine.xyz"
    path.write_bytes(XYZ.replace(b" energy=", b" dft="))
    assert load(path, energy_key="dft", energy_unit="meV").energy[0] == -1.5e-3


def test_registry_is_sound():
    names = [source.name for source in SOURCES]
    assert len(set(names)) == len(names) and list_sources() == SOURCES
    for source in SOURCES:
        assert source.units in ENERGY_UNITS_EV and source.reference and source.licence and source.integrity
        assert source.url is None or source.url.startswith("https://")
        # every file of a folder of the cache has one address
        same = {other.url for other in SOURCES if other.filename == source.filename}
        assert len(same) == 1
    assert "recorded on first download" in describe("md17/ethanol").integrity
    assert describe("rmd17/ethanol").integrity.startswith("md5:")


def test_folder_defaults_to_the_users_cache(monkeypatch):
    monkeypatch.delenv("BNN_JAX_DATA")
    assert sources.folder().name == "bnn_jax"
