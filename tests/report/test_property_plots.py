"""Pictures of properties and trajectories show the means, the bands and where something ended."""

import numpy as np
import pytest

from bnn_jax.compose import Estimate
from bnn_jax.dynamics import Bounds, Trajectory
from bnn_jax.dynamics.motion import Frame
from bnn_jax.properties import Average, Barrier, ColdCurve, Dispersion, RadialDistribution
from bnn_jax.properties.propagate import collected
from bnn_jax.report.property_plots import barrier_plot, cold_curve_plot, dispersion_plot, radial_distribution_plot
from bnn_jax.report.trajectory_plot import trajectory_plot

X = np.linspace(0, 1, 7)
DRAWS = collected(np.stack([X**2, 1.2 * X**2, 0.7 * X**2]))


def band_of(axes, number: int):
    """Lower and upper end of a filled band at the last place."""
    points = axes.collections[number].get_paths()[0].vertices
    at_last = points[np.isclose(points[:, 0], X[-1])][:, 1]
    return at_last.min(), at_last.max()


def test_a_band_is_of_one_and_two_stds():
    (axes,) = cold_curve_plot(ColdCurve(X, DRAWS), reference=X**2).axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), DRAWS.mean)
    for number, multiple in ((0, 2), (1, 1)):
        ends = DRAWS.mean[-1] + multiple * DRAWS.std[-1] * np.array([-1, 1])
        np.testing.assert_allclose(band_of(axes, number), ends)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["2 std", "1 std", "mean", "reference"]


def test_a_barrier_has_its_height():
    height = collected(np.array([0.9, 1.0, 1.1]))
    found = Barrier([], X, DRAWS, X, DRAWS, height, height)
    (axes,) = barrier_plot(found).axes
    assert "barrier 1.000 ± 0.1000 eV (1 std)" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_branches_and_special_points():
    bands = collected(np.stack([DRAWS.draws, 2 * DRAWS.draws], axis=-1))
    (axes,) = dispersion_plot(Dispersion(X, bands, ((0.0, "G"), (1.0, "X")), np.zeros((7, 3)))).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Γ", "X"]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), 2 * DRAWS.mean)


def test_a_radial_distribution_as_sampled_and_reweighted():
    average = Average(DRAWS, X, np.ones(3))
    (axes,) = radial_distribution_plot(RadialDistribution(X, X[None]), average).axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), DRAWS.mean)
    np.testing.assert_allclose(axes.lines[1].get_ydata(), X)


@pytest.mark.parametrize("beyond", [None, np.eye(7, 2, dtype=bool)[:, :, None]], ids=["no range", "a range"])
def test_a_trajectory_ends_with_a_cross_and_has_its_bounds(beyond):
    place = np.stack([X, X], axis=1)
    estimate = Estimate(place, place, np.zeros((7, 2, 1, 3)), place[:, :, None, None] + np.zeros(3), None, None, beyond)
    frames = Frame(
        np.zeros((7, 2, 1, 3)), np.zeros((7, 2, 1, 3)), np.zeros((7, 2, 3, 3)), estimate, place, place, 300 * place
    )
    found = Trajectory(1000 * X, frames, np.array([7, 4]), ("", "after 4 frames it was too hot"))
    temperature, energy, std = trajectory_plot(found, Bounds(kelvin=150.0)).axes
    whole, ended, cross, limit = temperature.lines
    np.testing.assert_allclose(whole.get_ydata(), 300 * X)
    np.testing.assert_allclose(ended.get_ydata(), 300 * X[:4])
    assert cross.get_marker() == "x" and cross.get_ydata() == pytest.approx([150.0])
    np.testing.assert_allclose(limit.get_ydata(), 150.0)
    np.testing.assert_allclose(energy.lines[0].get_ydata(), X)
    marked = [line for line in std.lines if line.get_marker() == "."]
    assert len(marked) == (beyond is not None)
    if beyond is not None:
        np.testing.assert_allclose(sorted(marked[0].get_xdata()), [X[0], X[1]])
