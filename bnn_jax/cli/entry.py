"""From the command line to a command and from its end to an exit code."""

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, OmitArgPrefixes, OmitSubcommandPrefixes

from bnn_jax.cli.commands import Command, Data, Demo, Evaluate, Fit, Predict

USER_ERROR, DIVERGED, INTERRUPTED = 2, 3, 130
_RUNNERS = {Fit: "fit", Evaluate: "evaluate", Predict: "predict", Demo: "demo", Data: "data"}
_DESCRIPTION = """Machine-learned interatomic potentials that say how far each of their forces can be trusted.

`bnn-jax COMMAND --help` lists the options of a command; `bnn-jax --version` prints the version."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what follows ``bnn-jax``; those of the process if None.

    Returns:
        The exit code: 0, 2 for wrong input, 3 for a chain that diverged, 130 for an interrupt.
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


def _spread_over_cores() -> None:
    """Let JAX see each processor core as a device, over which ``fit`` spreads its chains.

    XLA runs the small arrays of one chain on one core. The choice must precede the first computation; where that has
    been, or where the user has chosen, it is left as it is.
    """
    import jax

    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def _execute(command: Command) -> int:
    try:
        if isinstance(command, Fit | Demo):
            _spread_over_cores()
        importlib.import_module(f"bnn_jax.cli.{_RUNNERS[type(command)]}").run(command)
    except KeyboardInterrupt:
        hint = {Fit: "; continue the run with --resume", Demo: "; the same command continues"}.get(type(command), "")
        print(f"interrupted{hint}.", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, RuntimeError) as error:
        from bnn_jax.methods.sghmc import DivergenceError
        from bnn_jax.types import InputError

        if not isinstance(error, InputError | DivergenceError):
            raise
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR if isinstance(error, InputError) else DIVERGED
    return 0
