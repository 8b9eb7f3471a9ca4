"""``bnn-jax export``: a posterior in, one file with its compiled program out."""

from bnn_jax.cli.commands import Export
from bnn_jax.cli.predict import checked_output
from bnn_jax.methods import Posterior


def run(command: Export) -> None:
    """Export.

    Raises:
        InputError: the run cannot be used, or OUT exists or cannot be written.
    """
    out = checked_output(command.out, command.overwrite)
    posterior = Posterior.load(command.run)
    posterior.export(out)
    size = out.stat().st_size / 1e6
    print(f"{out}: program and {posterior.num_samples} samples, {size:.1f} MB; read it with bnn_jax.load_exported.")
