"""One idea: a name for a data set, whether a file of the user's, one shipped with the package or a public one.

Public files are downloaded once into ``sources.folder()``. A checksum that a public record states is demanded of the
download; where none is known, the one of the first download is written beside the file, as ``<file>.json``, and
demanded from then on: that finds a file that changed later, not one that was wrong from the start.
"""

import importlib.resources
import json
import os
import shutil
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pooch
import requests

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.files import read_file
from bnn_jax.atoms.registry import SOURCES, Source
from bnn_jax.types import InputError, nearest_name


def list_sources() -> tuple[Source, ...]:
    """Every data set that :func:`load` knows by name."""
    return SOURCES


def describe(name: str, registry: Sequence[Source] = SOURCES) -> Source:
    """The source of a named data set.

    Args:
        name: as :func:`list_sources` gives it.
        registry: the table to look in.

    Raises:
        InputError: no data set has that name; the nearest one is named.
    """
    for source in registry:
        if source.name == name:
            return source
    raise InputError(f"There is no data set {name!r}; the nearest known name is {_nearest(name, registry)!r}.")


def load(name_or_path: str | os.PathLike[str], *, registry: Sequence[Source] = SOURCES, **keys: Any) -> Dataset:
    """Read a data set from a file, from the package (``ammonia``) or from its public address.

    Args:
        name_or_path: an existing file, or a name of :func:`list_sources`; a file wins over a name.
        registry: the table of names.
        **keys: passed to :func:`bnn_jax.atoms.files.read_file`, such as ``index=":1000"`` or ``energy_key="E_dft"``.

    Returns:
        Structures and labels, in eV and Angstrom.

    Raises:
        InputError: there is neither such a file nor such a name, the download fails, a file is not what was
            recorded of it, or its content cannot be used.
    """
    path = Path(name_or_path)
    if os.path.isfile(path):  # unlike that of Path, False for names that are too long
        return read_file(path, **keys)
    name = str(name_or_path)
    if all(source.name != name for source in registry):
        what = "is a folder" if os.path.isdir(path) else "is no file"
        raise InputError(
            f"{name!r} {what} and no known data set; check the path, "
            f"or use a name such as {_nearest(name, registry)!r}, the nearest known."
        )
    source = describe(name, registry)
    keys = {"energy_unit": source.units} | keys
    if source.url is None:
        resource = importlib.resources.files("bnn_jax.atoms.builtin") / source.filename
        with importlib.resources.as_file(resource) as packaged:
            return read_file(packaged, **keys)
    return read_file(fetch(source), **keys)


def _nearest(name: str, registry: Sequence[Source]) -> str:
    return nearest_name(name, [source.name for source in registry])[1]


def folder() -> Path:
    """Where downloads are kept: ``$BNN_JAX_DATA``, else the user's cache folder for ``bnn_jax``."""
    return Path(os.environ.get("BNN_JAX_DATA") or pooch.os_cache("bnn_jax"))


def fetch(source: Source, cache: Path | None = None) -> Path:
    """The local file of a public data set, downloaded and extracted if it is not there yet.

    Args:
        source: with a ``url``.
        cache: where files are kept, :func:`folder` by default.

    Raises:
        InputError: the address cannot be reached, the folder cannot be written, the archive is damaged, or a file
            does not have the checksum that is known or was recorded of it.
    """
    here = (cache or folder()) / source.name.partition("/")[0]
    archive = here / source.filename
    if source.member is None:
        return _checked(source, archive, source.known_hash)
    target = here / Path(source.member).name
    if not target.exists():
        _checked(source, archive, source.known_hash)
        with _replacing(target) as file:
            _extract(source, archive, file)
    return _checked(source, target, None)


def _checked(source: Source, path: Path, known_hash: str | None) -> Path:
    if not path.exists():
        _download(source, path)
    record_path = path.with_name(path.name + ".json")
    recorded = json.loads(record_path.read_text())["sha256"] if record_path.exists() else None
    for expected in filter(None, (known_hash, recorded)):
        if _digest(path, expected) != expected.rpartition(":")[2].lower():
            raise InputError(
                f"{path} does not have the checksum {expected} of {source.name}: it changed or is incomplete; "
                f"delete it and {record_path.name} beside it, and load again."
            )
    if recorded is None:
        with _replacing(record_path) as file:
            file.write(json.dumps({"url": source.url, "sha256": _digest(path, "sha256")}).encode())
    return path


def _digest(path: Path, expected: str) -> str:
    algorithm = expected.partition(":")[0] if ":" in expected else "sha256"
    return pooch.file_hash(str(path), alg=algorithm)


def _download(source: Source, path: Path) -> None:
    assert source.url is not None
    by_hand = f"fetch it by hand, save it as {path} and load again"
    downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=2**20)
    try:
        with _replacing(path) as file:
            downloader(source.url, file, None)
            file.flush()
            if (
                source.known_hash
                and _digest(Path(file.name), source.known_hash) != source.known_hash.rpartition(":")[2]
            ):
                raise InputError(f"What {source.url} sent does not have the checksum {source.known_hash}; {by_hand}.")
    except requests.RequestException as error:
        raise InputError(
            f"{source.name} cannot be downloaded from {source.url} ({_reason(error)}); {by_hand}."
        ) from error


def _reason(error: requests.RequestException) -> str:
    if error.response is not None:
        error.response.close()  # pooch leaves it open
        return f"HTTP status {error.response.status_code}"
    return type(error).__name__


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``path`` only once it is complete."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # not tempfile: the umask decides who may read it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, path)
    except requests.RequestException:  # an OSError too
        raise
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); "
            "free some space or set BNN_JAX_DATA to another folder."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _extract(source: Source, archive: Path, file: IO[bytes]) -> None:
    opened: Callable[..., Any] = _zip_member if archive.suffix == ".zip" else _tar_member
    try:
        found = opened(archive, source.member, file)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a full disk; bz2 reports damage without a number
            raise
        raise InputError(
            f"{archive} is damaged or incomplete ({type(error).__name__}); delete it and load again."
        ) from error
    if not found:
        raise InputError(f"{archive} holds no file {source.member}; delete it and load again, or extract it by hand.")


def _zip_member(archive: Path, member: str, file: IO[bytes]) -> bool:
    with zipfile.ZipFile(archive) as content:
        if member not in content.namelist():
            return False
        with content.open(member) as inner:
            shutil.copyfileobj(inner, file)
    return True


def _tar_member(archive: Path, member: str, file: IO[bytes]) -> bool:
    with tarfile.open(archive) as content:
        for info in content:  # stops at the first match: the whole index would mean decompressing a gigabyte
            inner = content.extractfile(info) if info.name == member else None
            if inner is not None:
                with inner:
                    shutil.copyfileobj(inner, file)
                return True
    return False
