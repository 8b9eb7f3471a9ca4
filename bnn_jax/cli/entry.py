"""From the command line to a command and from its end to an exit code."""

import contextlib
import importlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, OmitArgPrefixes, OmitSubcommandPrefixes

from bnn_jax.cli.commands import (
    Calibrate,
    Command,
    Compare,
    Data,
    Demo,
    Evaluate,
    Export,
    Fit,
    Label,
    Md,
    Neb,
    Predict,
    Rigidity,
)
from bnn_jax.supported import UnsupportedJaxError, check_jax

USER_ERROR, DIVERGED, LOST, INTERRUPTED = 2, 3, 4, 130
_RUNNERS = {
    Fit: "fit",
    Evaluate: "evaluate",
    Predict: "predict",
    Rigidity: "rigidity",
    Calibrate: "calibrate",
    Export: "export",
    Md: "md",
    Neb: "neb",
    Label: "label",
    Compare: "compare",
    Demo: "demo",
    Data: "data",
}
_DESCRIPTION = """Machine-learned interatomic potentials that say how far each of their forces can be trusted.

`bnn-jax COMMAND --help` lists the options of a command; `bnn-jax --version` prints the version."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what follows ``bnn-jax``; those of the process if None.

    Returns:
        The exit code: 0, 2 for wrong input, 3 where every chain diverged, 4 where another process of the run was lost,
        130 for an interrupt, 143 for SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; nothing must be flushed into it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        from bnn_jax import __version__

        print(f"bnn-jax {__version__}")
        return 0
    config = (OmitArgPrefixes, OmitSubcommandPrefixes, FlagCreatePairsOff, DisallowNone)
    try:
        command = tyro.cli(Command, prog="bnn-jax", description=_DESCRIPTION, args=arguments, config=config)
    except SystemExit as stop:  # help, or tyro's own sentence about a wrong argument
        return int(stop.code or 0)
    return _execute(command)


def _quiet_xla() -> None:
    """Keep the C++ log of XLA off the terminal, unless the user has set its level; its errors come as exceptions.

    At its own level it reports, with every program it takes from a compilation cache on some processors, that tuning
    flags which it added itself are no features of the machine. It reads the variable when jaxlib is loaded.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _spread_over_cores() -> None:
    """Let JAX see each processor core as a device, over which chains and posterior samples are spread.

    XLA keeps few cores busy with the small arrays of one chain or sample. The choice must precede the first
    computation; where that has been, or where the user has chosen, it is left as it is.
    """
    import jax

    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        # Those that this process may use, where the system tells.
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", num_cores)


def _join_processes() -> None:
    """Become one of the processes that srun or mpirun started."""
    import jax

    from bnn_jax.types import InputError

    try:
        # A process that is gone is missed at once, by its connections; nobody shall wait for it at the end.
        jax.distributed.initialize(shutdown_timeout_seconds=5)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--distributed finds no other processes ({str(error).splitlines()[0]}); start the command with srun or"
            " mpirun, or leave the option out."
        ) from error


@contextlib.contextmanager
def _plain_messages(hint: str) -> Iterator[None]:
    """Warnings and the package's log as single lines on stderr, and so the end by Ctrl-C or SIGTERM."""

    def leave(number: int, _frame: Any) -> NoReturn:
        # At once: an exception out of a handler can come up anywhere, and then some of it shows as a traceback. What a
        # run has to save it saves before it lets the signal through.
        word = "interrupted" if number == signal.SIGINT else "terminated"
        os.write(2, f"{word}{hint}.\n".encode())
        os._exit(128 + number)

    shown, handler, log = warnings.showwarning, logging.StreamHandler(sys.stderr), logging.getLogger("bnn_jax")
    level, previous = log.level, {}
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    with contextlib.suppress(ValueError):  # only the main thread hears signals
        previous = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        warnings.showwarning = shown
        log.removeHandler(handler)
        log.setLevel(level)
        for number, old in previous.items():
            signal.signal(number, old)


def _execute(command: Command) -> int:
    hint = {
        Fit: "; continue the run with --resume",
        Demo: "; the same command continues",
        Md: "; continue the simulation with --resume",
        Compare: "; the same command continues",
        Label: "; the same command continues",
    }.get(type(command), "")
    try:
        with _plain_messages(hint):
            check_jax()
            _quiet_xla()
            if not isinstance(command, Data):
                _spread_over_cores()
            if isinstance(command, Fit) and command.distributed:
                _join_processes()
            importlib.import_module(f"bnn_jax.cli.{_RUNNERS[type(command)]}").run(command)
    except KeyboardInterrupt:
        print(f"interrupted{hint}.", file=sys.stderr)
        return INTERRUPTED
    except UnsupportedJaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except (ValueError, RuntimeError, MemoryError, ImportError, OSError) as error:
        if _is_out_of_memory(error):  # first, for to import anything may fail as well
            print(f"error: {_OUT_OF_MEMORY}", file=sys.stderr)
            return USER_ERROR
        from bnn_jax.methods.sghmc import DivergenceError, LostProcessError
        from bnn_jax.types import InputError

        codes = {InputError: USER_ERROR, DivergenceError: DIVERGED, LostProcessError: LOST}
        code = next((code for kind, code in codes.items() if isinstance(error, kind)), None)
        if code is None:
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        if code == LOST:
            os._exit(code)  # at once: what JAX does at exit would wait for the lost one
        return code
    return 0


_OUT_OF_MEMORY = (
    "The memory does not suffice; lower sampler.batch_size, sampler.num_chains or model.num_features, give fewer"
    " structures at a time, or use a larger machine (what was written is intact)."
)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, XLA, the loader of libraries or the operating system had none left."""
    signs = ("RESOURCE_EXHAUSTED", "failed to map segment", "Cannot allocate memory", "Unable to allocate")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
