"""Who labels structures: a level of theory by its name, as an ASE calculator that is checked before any work starts."""

import contextlib
import functools
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import ase
from ase.calculators.calculator import Calculator

from bnn_jax.active.pyscf_calculator import FUNCTIONALS, PySCF, dispersion_of
from bnn_jax.strict_yaml import parse
from bnn_jax.types import InputError

_KINDS = "pyscf:METHOD/BASIS, tblite:METHOD or ase:module.Class, each with ?option=value&..."


def _anything(_: ase.Atoms) -> None:
    return None


@dataclass(frozen=True)
class Oracle:
    """A level of theory that can be asked, here or, pickled, in other processes; those of one level are equal."""

    level: str
    """Its name, which labels carry: those of two levels do not belong in one training set."""
    calculator_fn: Callable[[], Calculator] = field(compare=False)
    """A new calculator."""
    check: Callable[[ase.Atoms], None] = field(default=_anything, compare=False)
    """Raises :class:`bnn_jax.types.InputError` for a structure that this level cannot label."""


def oracle(name: str) -> Oracle:
    """The level of theory of a name.

    - ``pyscf:bp86-d3zero/def2-svp``: Hartree-Fock (``hf``) or a density functional, for molecules. Corrections are
      ``-d3bj``, ``-d3zero`` and ``-d4``; options ``charge``, ``spin`` (number of unpaired electrons), ``grid_level``,
      ``tolerance`` (Hartree), ``max_cycles``, ``seconds``, ``threads``.
    - ``tblite:GFN2-xTB``: tight binding, for molecules and cells; options are those of ``tblite.ase.TBLite``.
    - ``ase:ase.calculators.emt.EMT``: any calculator class, or function that gives one, with its keyword arguments.

    Args:
        name: ``kind:what?option=value&option=value``; values are YAML.

    Raises:
        InputError: the name, a functional, a basis or an option is unknown, or what it needs is not installed.
    """
    match = re.fullmatch(r"(?P<kind>\w+):(?P<what>[^?]+)(\?(?P<options>.*))?", name)
    if match is None or match["kind"] not in _BUILDERS:
        raise InputError(f"The oracle {name!r} is none that is known; give {_KINDS}.")
    options = {}
    for key, value in _pairs(name, match["options"]):
        found = parse(value, f"option {key} of the oracle {name!r}")
        with contextlib.suppress(ValueError, TypeError):  # YAML takes 1e-9, without a point, for text
            found = float(found) if isinstance(found, str) else found
        options[key] = found
    return _BUILDERS[match["kind"]](name, match["what"], options)


def _pairs(name: str, options: str | None) -> list[tuple[str, str]]:
    try:
        return parse_qsl(options, keep_blank_values=True, strict_parsing=True) if options else []
    except ValueError as error:
        raise InputError(f"The options of the oracle {name!r} cannot be read; write ?key=value&key=value.") from error


def _pyscf(name: str, what: str, options: Mapping[str, Any]) -> Oracle:
    match = re.fullmatch(r"(?P<method>[^/]+?)(-(?P<dispersion>d3bj|d3zero|d3|d4))?/(?P<basis>[^/]+)", what.lower())
    if match is None:
        raise InputError(f"The oracle {name!r} names no method and basis; write pyscf:METHOD/BASIS.")
    if match["dispersion"] == "d3":
        raise InputError(f"The oracle {name!r} does not say which damping of D3 is meant; write -d3bj or -d3zero.")
    _need("pyscf", "dft")
    method, basis = match["method"], match["basis"]
    if method != "hf":
        try:
            importlib.import_module("pyscf.dft.libxc").parse_xc(FUNCTIONALS.get(method, method))
        except (KeyError, ValueError) as error:
            raise InputError(
                f"The oracle {name!r} has no functional that PySCF knows by that name ({error})."
            ) from error
    build = functools.partial(PySCF, method, basis, dispersion=match["dispersion"], **options)
    calculator = _built(name, build)
    if match["dispersion"]:
        _need("pyscf.dispersion", "dft")
        hydrogen = importlib.import_module("pyscf.gto").M(atom="H 0 0 0", spin=1, verbose=0)
        try:
            dispersion_of(hydrogen, method, match["dispersion"])
        except RuntimeError as error:
            raise InputError(f"There are no parameters of {match['dispersion']} for {method} ({error}).") from error
    return Oracle(name, build, functools.partial(_check_molecule, name, basis, calculator.charge, calculator.spin))


def _check_molecule(name: str, basis: str, charge: int, spin: int, atoms: ase.Atoms) -> None:
    """Raise where PySCF would, or would compute something else."""
    if atoms.pbc.any():
        raise InputError(f"{name} labels molecules, and {atoms.get_chemical_formula()} is periodic; try tblite.")
    bases = importlib.import_module("pyscf.gto.basis")
    for symbol in sorted(set(atoms.symbols)):
        try:
            bases.load(basis, symbol)
        except Exception as error:  # whatever PySCF raises of a basis that it cannot make sense of
            raise InputError(
                f"The basis of {name} is unknown, or has no functions for {symbol} ({_line(error)})."
            ) from error
    electrons = int(atoms.numbers.sum()) - charge
    if electrons < spin or (electrons - spin) % 2:
        raise InputError(
            f"{atoms.get_chemical_formula()} of charge {charge} has {electrons} electrons, of which {spin} cannot be"
            f" unpaired; give the right charge and spin (number of unpaired electrons): {name.split('?')[0]}?spin=1."
        )


def _tblite(name: str, what: str, options: Mapping[str, Any]) -> Oracle:
    _need("tblite", "xtb")
    methods = "GFN1-xTB", "GFN2-xTB", "IPEA1-xTB"
    known = {method.lower(): method for method in methods}
    if what.lower() not in known:
        raise InputError(f"The oracle {name!r} has no method that tblite knows; take one of {', '.join(methods)}.")
    calculator_class = importlib.import_module("tblite.ase").TBLite
    build = functools.partial(calculator_class, **{"method": known[what.lower()], "verbosity": 0, **options})
    _built(name, build)
    return Oracle(name, build)


def _ase(name: str, what: str, options: Mapping[str, Any]) -> Oracle:
    module, _, attribute = what.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"The oracle {name!r} names no calculator that can be imported ({error}).") from error
    build = functools.partial(factory, **options)
    _built(name, build)
    return Oracle(name, build)


_BUILDERS = {"pyscf": _pyscf, "tblite": _tblite, "ase": _ase}


def _built(name: str, build: Callable[[], Any]) -> Any:
    """A calculator, to know that there can be one."""
    try:
        calculator = build()
    except Exception as error:  # whatever its constructor does not like
        raise InputError(f"The calculator of {name!r} cannot be made ({_line(error)}); check its options.") from error
    if not {"energy", "forces"} <= set(getattr(calculator, "implemented_properties", ())):
        raise InputError(f"{name!r} gives no ASE calculator with energy and forces.")
    return calculator


def _need(module: str, extra: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{module} is not installed; pip install 'bnn_jax[{extra}]'.") from error


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
