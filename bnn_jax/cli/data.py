"""``bnn-jax data``: the data sets that have a name."""

from bnn_jax.atoms.registry import Source
from bnn_jax.atoms.sources import describe, fetch, list_sources
from bnn_jax.cli.commands import Data, DataFetch, DataShow


def run(command: Data) -> None:
    """List, show or fetch.

    Raises:
        InputError: no data set has that name, or the download fails.
    """
    match command.action:
        case DataShow(name):
            _show(describe(name))
        case DataFetch(name):
            source = describe(name)
            print(f"{name} is shipped with the package." if source.url is None else fetch(source))
        case _:
            _list()


def _list() -> None:
    sources = list_sources()
    width = max(len(source.name) for source in sources)
    print(f"{'name':<{width}}  structures  where")
    for source in sources:
        where = "with the package" if source.url is None else "download"
        print(f"{source.name:<{width}}  {_count(source):>10}  {where}")


def _show(source: Source) -> None:
    lines = {
        "name": source.name,
        "structures": _count(source),
        "energies in": source.units,
        "from": source.url or "the package itself",
        "file": source.member or source.filename,
        "checked by": source.integrity,
        "licence": source.licence,
        "cite": source.reference,
    }
    for name, value in lines.items():
        print(f"{name + ':':<13} {value}")


def _count(source: Source) -> str:
    return "unknown" if source.num_structures is None else str(source.num_structures)
