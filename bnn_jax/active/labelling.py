"""Structures to labels, by workers that may die: what a store has is not asked again, what fails is kept aside."""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import ase
import numpy as np
import pebble
from ase.calculators.calculator import Calculator
from ase.stress import voigt_6_to_full_3x3_stress
from tqdm import tqdm

from bnn_jax.active.oracle import Oracle
from bnn_jax.active.store import Failure, Label, LabelStore, key
from bnn_jax.atoms.geometry import check_geometry
from bnn_jax.types import InputError

PARENT_SECONDS = 1.0
"""Between a worker's looks at whether its driver lives."""


@runtime_checkable
class Workers(Protocol):
    """What labels are computed by: any executor of :mod:`concurrent.futures`, such as that of a Dask client."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> concurrent.futures.Future:
        """The future of ``fn(*args)``, in another process."""
        ...


class _Local:
    """Processes on this machine, as an executor whose tasks end when their time is up."""

    def __init__(self, pool: pebble.ProcessPool, seconds: float | None):
        self.pool, self.seconds = pool, seconds

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> concurrent.futures.Future:
        return self.pool.schedule(fn, args=list(args), timeout=self.seconds)


@contextlib.contextmanager
def local_workers(number: int | None = None, seconds: float | None = None) -> Iterator[Workers]:
    """Processes on this machine. A script that uses them needs ``if __name__ == "__main__":``.

    Args:
        number: of processes; one for each core if None.
        seconds: after which a label is given up and its process ended; None for no limit.

    Raises:
        InputError: a number is not positive.
    """
    if number is None:
        number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if number < 1 or (seconds is not None and not seconds > 0):
        raise InputError(f"{number} workers with {seconds} s for a label were asked for; both must be positive.")
    # Not by fork: the driver has the threads of JAX.
    pool = pebble.ProcessPool(
        number, initializer=_end_with_parent, initargs=[os.getpid()], context=multiprocessing.get_context("spawn")
    )
    try:
        yield _Local(pool, seconds)
    finally:
        pool.stop()
        pool.join()


def _end_with_parent(parent: int) -> None:
    """In a worker: no process is left behind where the driver was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def label(
    structures: Sequence[ase.Atoms],
    oracle: Oracle,
    store: LabelStore,
    workers: Workers | None = None,
    *,
    retries: int = 2,
    progress: bool = True,
) -> list[Label | Failure]:
    """Labels of structures, in their order: those that the store has, and those of the oracle for the rest.

    A label is on disk as soon as it is computed. A process that dies is replaced and its structure tried again; one
    that the oracle cannot label (not converged, out of time, not finite) is kept aside in the store.

    Args:
        structures: to label; equal ones are labelled once.
        oracle: the level of theory.
        store: of labels.
        workers: an executor; None computes here, one after another.
        retries: of a structure whose process died.
        progress: show a progress bar on a terminal.

    Raises:
        InputError: a structure is none that the oracle can label; nothing has been computed then.
    """
    for i, atoms in enumerate(structures):
        check_geometry(atoms.positions, atoms.cell.array, atoms.pbc, f"structure {i} to label")
        oracle.check(atoms)
    found = {key(atoms, oracle.level): store.get(atoms, oracle.level) for atoms in structures}
    missing = {key(atoms, oracle.level): atoms for atoms in structures}
    missing = {name: atoms for name, atoms in missing.items() if found[name] is None}
    with tqdm(total=len(missing), desc="label", unit="label", delay=5, disable=None if progress else True) as bar:
        for name, outcome in _outcomes(missing, oracle, store, workers or _Here(), retries):
            found[name] = outcome
            bar.update()
    return [found[key(atoms, oracle.level)] for atoms in structures]  # pyright: ignore[reportReturnType]


def _outcomes(
    missing: dict[str, ase.Atoms], oracle: Oracle, store: LabelStore, workers: Workers, retries: int
) -> Iterator[tuple[str, Label | Failure]]:
    """As they come in."""
    left = dict.fromkeys(missing, retries)

    def submitted(name: str) -> concurrent.futures.Future:
        return workers.submit(compute, oracle, missing[name], str(store.path.resolve()))

    pending = {submitted(name): name for name in missing}
    while pending:
        done, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            name = pending.pop(future)
            try:
                yield name, future.result()
            except concurrent.futures.TimeoutError:
                yield name, _aside(store, missing[name], oracle.level, "it took longer than the time for a label")
            except InputError:  # the label cannot be written
                raise
            except Exception as error:  # of the worker's end, whatever its executor calls it
                left[name] -= 1
                if left[name] >= 0:
                    pending[submitted(name)] = name
                else:
                    reason = f"its process ended {retries + 1} times ({type(error).__name__}: {error})"
                    yield name, _aside(store, missing[name], oracle.level, reason)


def _aside(store: LabelStore, atoms: ase.Atoms, level: str, reason: str) -> Failure:
    failure = Failure(reason)
    store.put(atoms, level, failure)
    return failure


def compute(oracle: Oracle, atoms: ase.Atoms, folder: str) -> Label | Failure:
    """In a worker: ask the oracle, and keep what it says.

    Args:
        oracle: the level of theory.
        atoms: the structure.
        folder: of the store.
    """
    store, begun = LabelStore(folder), time.perf_counter()
    try:
        found = _asked(_calculator(oracle), atoms, begun)
    except Exception as error:  # every calculator has errors of its own
        found = Failure(f"{type(error).__name__}: {error}"[:500])
    store.put(atoms, oracle.level, found)
    return found


@functools.lru_cache(maxsize=4)
def _calculator(oracle: Oracle) -> Calculator:
    """One for each level, since one that reads a model from disk takes its time."""
    return oracle.calculator_fn()


def _asked(calculator: Calculator, atoms: ase.Atoms, begun: float) -> Label | Failure:
    copy = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    copy.calc = calculator
    # Forces are derivatives of the free energy where occupations are smeared.
    is_free = "free_energy" in calculator.implemented_properties
    energy, forces = float(copy.get_potential_energy(force_consistent=is_free)), np.array(copy.get_forces(), float)
    stress = None
    if atoms.pbc.all() and "stress" in calculator.implemented_properties:
        stress = voigt_6_to_full_3x3_stress(copy.get_stress())
    if not (np.isfinite(energy) and np.isfinite(forces).all() and (stress is None or np.isfinite(stress).all())):
        return Failure("its energy, forces or stress are not finite")
    return Label(energy, forces, stress, time.perf_counter() - begun)


class _Here:
    """An executor that computes at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()
        future.set_result(fn(*args))
        return future
