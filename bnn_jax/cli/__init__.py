"""The command line: typed sub-commands that call the rest of the package, and no science of their own."""

from bnn_jax.cli.entry import main as main
