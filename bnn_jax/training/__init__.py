"""Networks trained rather than sampled: losses, steps of an optimiser, and the loop with its early stopping."""

from bnn_jax.training.loop import Progress, Turn, begin, drive
from bnn_jax.training.trainer import Optimizer, TrainInfo, TrainState, build_step, init

__all__ = ["Optimizer", "Progress", "TrainInfo", "TrainState", "Turn", "begin", "build_step", "drive", "init"]
