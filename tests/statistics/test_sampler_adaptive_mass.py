"""A mass that adapted for a while and is then frozen samples the target, on densities that are not normal.

That one which goes on adapting does not is the business of ``test_wrong_samplers.py``.
"""

import pytest

from tests.statistics.adaptive import BURN_IN, POTENTIALS, assert_same_variance, final_positions, true_variance


@pytest.mark.parametrize("name", POTENTIALS)
def test_frozen_mass_samples_the_target(name):
    potential = POTENTIALS[name]
    assert_same_variance(final_positions(potential, freeze_step=BURN_IN), true_variance(potential))
