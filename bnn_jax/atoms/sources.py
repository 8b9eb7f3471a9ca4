"""One idea: a name for a data set, whether a file of the user's, one shipped with the package or a public one.

Public files are downloaded once into ``sources.folder()``. A checksum that a public record states is demanded of the
download; where none is known, the one of the first download is written beside the file, as ``<file>.json``, and
demanded from then on: that finds a file that changed later, not one that was wrong from the start.
"""

import glob
import importlib.resources
import json
import os
import reprlib
import shutil
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import ase
import numpy as np
import pooch
import requests
from jaxtyping import Int

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.files import read_file
from bnn_jax.atoms.labels import Choices
from bnn_jax.atoms.reading import read_entries
from bnn_jax.atoms.registry import SOURCES, Source
from bnn_jax.types import InputError, nearest_name

Structures = Dataset | ase.Atoms | Iterable[ase.Atoms] | str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""Whatever :func:`load` takes."""

UNNAMED = "(unnamed)"
"""Family of structures that name none."""
_WAYS_IN = "give a file, a pattern, FILE@INDEX, a known name, several of these, ASE structures or a data set"


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


def load(source: Structures, *, registry: Sequence[Source] = SOURCES, **keys: Any) -> Dataset:
    """A data set from files, from the package (``ammonia``), from its public address, or from ASE structures.

    Args:
        source: a file, as ASE writes it ``FILE@INDEX`` (``md.xyz@:100``), a pattern (``run*/md.xyz``), or a name of
            :func:`list_sources`; a file wins over a name. Or several of these, whose structures follow one another.
            Or ASE structures: one, a list, or any iterator. A data set is returned as it is.
        registry: the table of names.
        **keys: passed to :func:`bnn_jax.atoms.files.read_file`, such as ``index=":1000"`` or ``energy_key="E_dft"``;
            those that are not about files also to :meth:`bnn_jax.Dataset.from_atoms`.

    Returns:
        Structures and labels, in eV and Angstrom.

    Raises:
        InputError: there is neither such a file nor such a name, the download fails, a file is not what was
            recorded of it, its content cannot be used, a key means nothing for it, or ``source`` is something else.
    """
    if isinstance(source, Dataset):
        _refuse(keys.keys() - {"use_labels"}, "a data set, which was read already")
        return source
    if isinstance(source, ase.Atoms):
        source = [source]
    if isinstance(source, str | os.PathLike):
        return _of_files(_files(source, registry), registry, keys)
    if not isinstance(source, Iterable):
        raise InputError(f"{_shown(source)} is no structure; {_WAYS_IN}.")
    items = list(source)
    if not items:
        raise InputError(f"There is no structure; {_WAYS_IN}.")
    structures = [item for item in items if isinstance(item, ase.Atoms)]
    if len(structures) == len(items):
        _refuse(keys.keys() & {"index"}, "ASE structures (slice them instead)")
        return Dataset.from_atoms(structures, **keys)
    paths = [item for item in items if isinstance(item, str | os.PathLike)]
    if len(paths) < len(items):
        i = next(i for i, item in enumerate(items) if not isinstance(item, str | os.PathLike))
        raise InputError(f"Item {i} of {len(items)} is {_shown(items[i])}, no file like the others; {_WAYS_IN}.")
    return _of_files([file for path in paths for file in _files(path, registry)], registry, keys)


def families(
    source: str | os.PathLike[str], key: str, registry: Sequence[Source] = SOURCES
) -> dict[str, Int[np.ndarray, " structure"]]:
    """Indices of the structures of each family that files name, as GAP's and MACE's ``config_type`` does.

    Args:
        source: as for :func:`load`; the indices are those of what that returns.
        key: of the entry of a structure's ``info`` that names its family.
        registry: the table of names.

    Returns:
        Families in the order in which they appear; those without the entry as :data:`UNNAMED`.

    Raises:
        InputError: no structure has the entry.
    """
    found: dict[str, list[int]] = {}
    known: set[str] = set()
    entries: list[dict[str, Any]] = []
    for name, index in _files(source, registry):
        with _local(name, registry) as path:
            entries += read_entries(path, ":" if index is None else index)
    for i, entry in enumerate(entries):
        known |= entry.keys()
        found.setdefault(str(entry.get(key, UNNAMED)), []).append(i)
    if key not in known:
        others = ", ".join(sorted(known)[:10]) or "none"
        raise InputError(f"{source}: no structure has the entry {key!r}; name one that there is ({others}).")
    return {name: np.array(indices) for name, indices in found.items()}


def _files(name_or_path: str | os.PathLike[str], registry: Sequence[Source]) -> list[tuple[str, str | None]]:
    """Files or names, each with the index that was written behind it."""
    text = os.fspath(name_or_path)
    if os.path.isfile(text) or any(source.name == text for source in registry):
        return [(text, None)]
    path, at, index = text.rpartition("@")
    if not at:
        path, index = text, None
    if glob.has_magic(path):
        found = [file for file in sorted(glob.glob(path, recursive=True)) if os.path.isfile(file)]
        if not found:
            raise InputError(f"No file is named like {path!r}; check the pattern.")
        return [(file, index) for file in found]
    return [(path, index)]


def _of_files(files: Sequence[tuple[str, str | None]], registry: Sequence[Source], keys: dict[str, Any]) -> Dataset:
    """The content of all files, whose labels must go together too."""
    if "index" in keys and any(index is not None for _, index in files):
        raise InputError(f"Index {keys['index']!r} is given beside that of {files[0][0]}; leave one out.")
    parts = [_one(name, registry, keys if index is None else keys | {"index": index}) for name, index in files]
    if len(parts) == 1:
        return parts[0]
    dataset = Dataset.concatenate(parts)
    choices = {name: value for name, value in keys.items() if name in Choices._fields}
    names = ", ".join(name for name, _ in files[:3]) + (", ..." if len(files) > 3 else "")
    dataset.check_labels(Choices(**choices), np.arange(len(dataset)), f"{len(files)} files ({names}) together")
    return dataset


def _one(name: str, registry: Sequence[Source], keys: dict[str, Any]) -> Dataset:
    if os.path.isfile(name):  # unlike that of Path, False for names that are too long
        return read_file(name, **keys)
    if all(source.name != name for source in registry):
        what = "is a folder" if os.path.isdir(name) else "is no file"
        raise InputError(
            f"{name!r} {what} and no known data set; check the path, "
            f"or use a name such as {_nearest(name, registry)!r}, the nearest known."
        )
    keys = {"energy_unit": describe(name, registry).units} | keys
    with _local(name, registry) as path:
        return read_file(path, **keys)


@contextmanager
def _local(name: str, registry: Sequence[Source]) -> Iterator[Path]:
    """The file of a path or a known name, as long as it is needed."""
    if os.path.isfile(name):
        yield Path(name)
    elif (source := describe(name, registry)).url is not None:
        yield fetch(source)
    else:
        resource = importlib.resources.files("bnn_jax.atoms.builtin") / source.filename
        with importlib.resources.as_file(resource) as packaged:
            yield packaged


def _refuse(keys: Collection[str], what: str) -> None:
    if keys:
        raise InputError(f"{', '.join(sorted(keys))} cannot be given beside {what}; leave it out.")


def _shown(value: Any) -> str:
    return " ".join(reprlib.repr(value).split())


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
