"""Figures hold the right data and labels, and files of the right size are written whole."""

import re

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.image import imread

from bnn_jax.metrics import nece, outlier_auroc
from bnn_jax.report import (
    calibration,
    error_density,
    error_vs_std,
    evaluation_figures,
    parity,
    reliability,
    rhat,
    roc,
    save,
    training,
    write_evaluation,
)
from bnn_jax.types import InputError, Predictive


def predictive(num_structures=4, num_atoms=3, num_samples=2, seed=0):
    """A predictive and reference energies and forces."""
    rng = np.random.default_rng(seed)
    rows = num_structures * num_atoms
    forces, energy = rng.normal(size=(rows, 3)), rng.normal(size=num_structures) - 4000.0
    forces_samples = forces + 0.1 * rng.normal(size=(num_samples, rows, 3))
    energy_samples = energy + 0.1 * rng.normal(size=(num_samples, num_structures))
    forces_spread, energy_spread = forces_samples.std(axis=0, ddof=1), energy_samples.std(axis=0, ddof=1)
    value = Predictive(
        energy=energy_samples.mean(axis=0),
        energy_std=np.hypot(0.1, energy_spread),
        energy_std_aleatoric=np.full(num_structures, 0.1),
        energy_std_epistemic=energy_spread,
        forces=forces_samples.mean(axis=0),
        forces_std=np.hypot(0.1, forces_spread),
        forces_std_aleatoric=np.full(rows, 0.1),
        forces_std_epistemic=forces_spread,
        stress=None,
        stress_std_epistemic=None,
        atom_energies=np.repeat(energy_samples.mean(axis=0) / num_atoms, num_atoms),
        energy_samples=energy_samples,
        energy_std_samples=np.full((num_samples, num_structures), 0.1),
        forces_samples=forces_samples,
        forces_std_samples=np.full((num_samples, rows), 0.1),
        num_atoms=np.full(num_structures, num_atoms),
    )
    return value, energy, forces


def line(axes, label):
    """The line whose legend entry begins with the label."""
    (found,) = [item for item in axes.lines if str(item.get_label()).startswith(label)]
    return found


def legend_text(axes):
    (legend,) = [axes.get_legend()] if axes.get_legend() else axes.figure.legends
    return "\n".join(text.get_text() for text in legend.get_texts())


def test_parity_shows_the_points_and_the_errors():
    target, mean = np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.5, 1.5])
    (axes,) = parity(target, mean).axes
    assert axes.get_xlabel() == "Reference force component (eV/Å)"
    assert axes.get_ylabel() == "Predicted force component (eV/Å)"
    points = axes.lines[1]
    assert points.get_xdata().tolist() == target.tolist()
    assert points.get_ydata().tolist() == mean.tolist()
    assert "MAE 0.333 eV/Å\nRMSE 0.408 eV/Å" in legend_text(axes)


def test_parity_of_one_value_has_an_extent(tmp_path):
    figure = parity(np.ones(1), np.ones(1))
    assert figure.axes[0].get_xlim() == (0.5, 1.5)
    save(figure, tmp_path / "one.png")


def test_error_vs_std_lines_are_at_one_and_two_stds():
    errors, stds = np.array([0.5, -1.5, 2.5, 0.1]), np.array([1.0, 1.0, 1.0, 3.0])
    (axes,) = error_vs_std(errors, stds, quantity="Energy", unit="eV").axes
    assert axes.get_xlabel() == "Predicted standard deviation (eV)"
    assert axes.get_ylabel() == "Error of energy (eV)"
    envelopes = [item for item in axes.lines if len(item.get_xdata()) == 2]
    slopes = sorted(item.get_ydata()[1] / item.get_xdata()[1] for item in envelopes)
    assert slopes == pytest.approx([-2.0, -1.0, 1.0, 2.0])
    assert all(item.get_ydata()[0] == 0.0 for item in envelopes)
    assert legend_text(axes) == "1σ: 50 % inside (68 % expected)\n2σ: 75 % inside (95 % expected)"
    assert axes.lines[0].get_ydata().tolist() == errors.tolist()


def test_error_vs_std_logarithmic_shows_absolute_errors_even_of_zero():
    errors, stds = np.array([-0.5, 0.0, 2.0]), np.array([0.1, 1.0, 2.0])
    (axes,) = error_vs_std(errors, stds, scale="log").axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_ylabel() == "Absolute error of force component (eV/Å)"
    shown = axes.lines[0].get_ydata()
    assert shown[[0, 2]].tolist() == [0.5, 2.0]
    assert shown[1] == axes.get_ylim()[0]
    for multiple in (1.0, 2.0):
        envelope = line(axes, f"{multiple:.0f}σ")
        assert envelope.get_ydata() == pytest.approx(multiple * envelope.get_xdata())


def test_reliability_parts_what_was_validated_from_what_was_not():
    rng = np.random.default_rng(0)
    stds = np.exp(rng.normal(size=2000))
    is_beyond = stds > 1.0
    errors = stds * rng.normal(size=2000) * np.where(is_beyond, 3.0, 1.0)
    (axes,) = reliability(errors, stds, is_beyond).axes
    assert axes.get_xlabel() == "Predicted standard deviation of force component (eV/Å)"
    within, beyond = line(axes, "within the"), line(axes, "beyond the")
    for shown, ratio, chosen in ((within, 1.0, ~is_beyond), (beyond, 3.0, is_beyond)):
        # Twelve groups of some 80: root mean squares to 1 / sqrt(2 * 80).
        assert np.asarray(shown.get_ydata()) / shown.get_xdata() == pytest.approx(np.full(12, ratio), rel=0.32)
        inside = 100 * np.mean(np.abs(errors[chosen]) <= 2 * stds[chosen])
        assert f"95 % intervals hold {inside:.0f} %" in shown.get_label()
    (axes,) = reliability(errors, stds, np.ones(2000, bool)).axes
    assert "within" not in legend_text(axes)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_many_points_become_hexagons_that_count_all(scale):
    rng = np.random.default_rng(0)
    stds = rng.uniform(0.5, 1.0, size=30_000)
    axes, colorbar = error_vs_std(stds * rng.uniform(0.2, 1.0, size=30_000), stds, scale=scale).axes
    (hexagons,) = [item for item in axes.collections if isinstance(item, PolyCollection)]
    assert hexagons.get_array().sum() == 30_000
    assert colorbar.get_ylabel() == "Elements per hexagon"


def test_calibration_curve_and_area():
    errors = np.array([0.5, -0.5, 0.2, 10.0])
    (axes,) = calibration(errors, np.ones(4), np.zeros(4)).axes
    curve = line(axes, "force components")
    assert curve.get_ydata()[[0, 50, -2]].tolist() == [0.0, 0.75, 0.75]
    assert axes.get_xlabel() == "Expected coverage of central interval"
    assert axes.get_ylabel() == "Observed coverage"
    assert re.search(r"force components \(area 0\.\d{3}\)", legend_text(axes))


def test_error_density_integrates_to_one_on_both_sides():
    rng = np.random.default_rng(0)
    errors, stds = rng.normal(size=2_000), np.ones((1, 2_000))
    bulk, whole = error_density(errors, stds[0]).axes
    (observed,) = whole.patches
    values, edges, _ = observed.get_data()
    assert np.sum(values * np.diff(edges)) == pytest.approx(1.0)
    assert np.sum(line(whole, "predicted").get_ydata() * np.diff(edges)) == pytest.approx(1.0, abs=0.01)
    assert whole.get_yscale() == "log"
    assert bulk.get_xlabel() == "Error of force component (eV/Å)"
    assert bulk.get_ylabel() == "Density (1/(eV/Å))"
    assert bulk.get_title() == f"NECE {nece(errors, stds[0]):.3g} per eV/Å"


def test_roc_gives_the_area_and_the_number_of_outliers():
    rng = np.random.default_rng(0)
    stds = rng.uniform(0.1, 2.0, size=200)
    errors = stds * rng.normal(size=200)
    (axes,) = roc(errors, stds, 1.0).axes
    assert f"|error| > 1 eV/Å (AUC {outlier_auroc(errors, stds, 1.0):.3f})" in legend_text(axes)
    assert f"{np.sum(np.abs(errors) > 1.0)} of 200 elements" in legend_text(axes)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("False positive rate", "True positive rate")


@pytest.mark.parametrize(("threshold", "word"), [(9.0, "no"), (0.0, "every")])
def test_roc_says_that_it_is_undefined(threshold, word):
    (axes,) = roc(np.array([1.0, -2.0]), np.array([1.0, 2.0]), threshold).axes
    assert axes.texts[0].get_text() == f"AUC undefined:\n{word} error is larger than {threshold:.3g} eV/Å"


def test_training_has_a_panel_for_what_was_logged():
    rows = [{"step": i, "loss": -float(i), "step_size": 10.0**-i} for i in range(4)]
    rows[1]["loss"] = float("nan")
    rows[2]["valid_forces_mae"] = 0.1
    figure = training(rows)
    assert [axes.get_ylabel() for axes in figure.axes] == ["Loss", "Validation\nforce error (eV/Å)", "Step size"]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [0, 2, 3]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0.0, -2.0, -3.0]
    assert figure.axes[2].get_yscale() == "log"
    assert figure.axes[-1].get_xlabel() == "Step"


def test_training_shows_the_rest_beside_a_transient():
    rows = [{"step": i, "loss": 1e6 if i == 0 else np.sin(i)} for i in range(50)]
    assert training(rows).axes[0].get_yscale() == "symlog"
    assert training(rows[1:]).axes[0].get_yscale() == "linear"


def test_training_of_an_empty_log():
    with pytest.raises(InputError, match="no row with a step and one of loss, valid_loss, valid_forces_mae"):
        training([{"step": 1}])


def test_rhat_share_beyond_the_limit():
    (axes,) = rhat(np.array([1.0, 1.01, 1.02, 1.2, np.nan])).axes
    assert legend_text(axes) == "mixed (1)\n25.0 % above 1.05\n1 not finite, not shown"
    assert sum(patch.get_height() for patch in axes.patches) == 4
    assert axes.get_xlabel() == "Split R-hat"
    with pytest.raises(InputError, match="No R-hat is finite; draw at least two samples"):
        rhat(np.array([np.nan]))


def test_save_replaces_a_file_whole(tmp_path):
    path = tmp_path / "plot.png"
    path.write_text("old")
    assert save(rhat(np.ones(3)), str(path)) == path
    assert imread(path).shape == (600, 800, 4)
    assert [item.name for item in tmp_path.iterdir()] == ["plot.png"]


def test_save_keeps_the_old_file_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "plot.png"
    path.write_text("old")
    figure = rhat(np.ones(3))

    def full_disk(beside, **_):
        beside.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full_disk)
    message = f"Plot {path} cannot be written (No space left on device); check the folder and the disk."
    with pytest.raises(InputError, match=re.escape(message)):
        save(figure, path)
    assert [item.name for item in tmp_path.iterdir()] == ["plot.png"]
    assert path.read_text() == "old"


def test_evaluation_shows_the_labelled_elements():
    value, energy, forces = predictive(num_samples=3)
    value.forces_samples[0] += 0.5  # a skewed mixture, which tells the sign of its errors
    value = value._replace(forces=value.forces_samples.mean(axis=0))
    forces[0, 1] = energy[2] = np.nan  # a missing label leaves its element out
    figures = evaluation_figures(value, energy, forces, forces_threshold=0.05)
    keep, origin = np.isfinite(forces), np.nanmean(energy)
    points = figures["forces_parity"].axes[0].lines[1]
    assert (points.get_xdata() == forces[keep]).all() and (points.get_ydata() == value.forces[keep]).all()
    points = figures["energy_parity"].axes[0].lines[1]
    assert points.get_ydata() == pytest.approx(np.delete(value.energy, 2) - origin)
    points = figures["energy_error_vs_std"].axes[0].lines[0]
    assert points.get_xdata().tolist() == np.delete(value.energy_std, 2).tolist()
    assert points.get_ydata() == pytest.approx(np.delete(value.energy - energy, 2))
    # The error of a target drawn from sample k is normal about the mean over samples minus sample k.
    offsets = (value.forces - value.forces_samples)[:, keep]
    expected = nece((value.forces - forces)[keep], np.full_like(offsets, 0.1), offsets)
    title = figures["forces_error_density"].axes[0].get_title()
    assert title == f"NECE {expected:.3g} per eV/Å"
    assert title != f"NECE {nece((value.forces - forces)[keep], np.full_like(offsets, 0.1), -offsets):.3g} per eV/Å"


def test_write_evaluation_writes_every_plot(tmp_path):
    value, energy, forces = predictive()
    paths = write_evaluation(tmp_path / "new" / "plots", value, energy, forces, forces_threshold=0.05)
    names = ["calibration", "error_vs_std", "parity"]
    expected = [f"energy_{name}.png" for name in names]
    expected += [f"forces_{name}.png" for name in ["calibration", "error_density", "error_vs_std", "parity", "roc"]]
    assert sorted(path.name for path in paths) == expected
    assert all(imread(path).shape[1] == 800 for path in paths)


def test_write_evaluation_without_labels(tmp_path):
    value, energy, forces = predictive()
    paths = write_evaluation(tmp_path, value, energy, None, forces_threshold=0.05)
    assert {path.name.split("_")[0] for path in paths} == {"energy"}
    with pytest.raises(InputError, match="No reference energy or force is finite; give labelled structures"):
        write_evaluation(tmp_path, value, None, np.full_like(forces, np.nan), forces_threshold=0.05)


def test_write_evaluation_into_a_file(tmp_path):
    value, energy, forces = predictive()
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match=r"Folder .*taken cannot be made \(File exists\); choose another one\."):
        write_evaluation(tmp_path / "taken", value, energy, forces, forces_threshold=0.05)
