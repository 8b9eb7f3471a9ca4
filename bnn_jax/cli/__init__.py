"""The command line: typed sub-commands that call the rest of the package, and no science of their own."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; see :func:`bnn_jax.cli.entry.main`.

    Args:
        arguments: what follows ``bnn-jax``; those of the process if None.

    Returns:
        The exit code.
    """
    try:
        from bnn_jax.cli.entry import main  # here, so that an interrupt while it is imported shows no traceback

        return main(arguments)
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        return 130
