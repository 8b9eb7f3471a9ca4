"""Markov chain Monte Carlo over pytrees: kernel, mass adaptation, schedules and diagnostics. Knows no atoms."""

from bnn_jax.sampling import amsgrad as amsgrad
from bnn_jax.sampling import chain as chain
from bnn_jax.sampling import diagnostics as diagnostics
from bnn_jax.sampling import guard as guard
from bnn_jax.sampling import progress as progress
from bnn_jax.sampling import schedule as schedule
from bnn_jax.sampling import sghmc as sghmc
