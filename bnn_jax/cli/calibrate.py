"""``bnn-jax calibrate``: a posterior in, the same with error bars corrected on a validation set out."""

import dataclasses

from bnn_jax.atoms.sources import load
from bnn_jax.cli.commands import Calibrate
from bnn_jax.cli.evaluate import given
from bnn_jax.cli.predict import checked_output
from bnn_jax.methods import Posterior


def run(command: Calibrate) -> None:
    """Calibrate and write.

    Raises:
        InputError: the run or the structures cannot be used, the method does not fit them, or OUT exists or cannot be
            written.
    """
    out = checked_output(command.out, command.overwrite)
    posterior = Posterior.load(command.run)
    valid = load(command.valid, require_labels=True, **given(dataclasses.asdict(command.labels)))
    calibrated = posterior.calibrated(valid, command.method, per_element=command.per_element, coverage=command.coverage)
    calibrated.save(out)
    what = "intervals" if command.coverage is not None else "standard deviations"
    print(f"{out}: {what} by {command.method} from {len(valid)} structures; test it on others.")
