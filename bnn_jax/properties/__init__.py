"""What people compute with a potential, with error bars: the property of every sample, its mean and its spread."""

from bnn_jax.properties.averages import Average, RadialDistribution, ensemble_average, radial_distribution
from bnn_jax.properties.barrier import Barrier, barrier
from bnn_jax.properties.elastic import elastic_constants
from bnn_jax.properties.equation_of_state import ColdCurve, Minimum, cold_curve, equation_of_state
from bnn_jax.properties.geometry import relax, relaxed_geometry
from bnn_jax.properties.phonons import Dispersion, phonons
from bnn_jax.properties.propagate import FailedSamplesWarning, Propagated, propagate
from bnn_jax.properties.vibrations import frequencies

__all__ = [
    "Average",
    "Barrier",
    "ColdCurve",
    "Dispersion",
    "FailedSamplesWarning",
    "Minimum",
    "Propagated",
    "RadialDistribution",
    "barrier",
    "cold_curve",
    "elastic_constants",
    "ensemble_average",
    "equation_of_state",
    "frequencies",
    "phonons",
    "propagate",
    "radial_distribution",
    "relax",
    "relaxed_geometry",
]
