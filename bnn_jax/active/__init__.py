"""Learning that asks: oracles that label structures, and what decides which structures they are asked about."""

from bnn_jax.active.adversarial import Attack, Attacked, adversarial
from bnn_jax.active.errors import LabelError
from bnn_jax.active.labelling import Workers, label, local_workers
from bnn_jax.active.oracle import Oracle, oracle
from bnn_jax.active.store import Failure, Label, LabelStore, labelled

__all__ = [
    "Attack",
    "Attacked",
    "Failure",
    "Label",
    "LabelError",
    "LabelStore",
    "Oracle",
    "Workers",
    "adversarial",
    "label",
    "labelled",
    "local_workers",
    "oracle",
]
