"""The making of the built-in ammonia set, on a toy potential in place of density functional theory."""

import hashlib
import importlib
import itertools
import json
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from scipy.optimize import approx_fprime

from bnn_jax.units import EV_PER_KCAL_PER_MOL

FOLDER = Path(__file__).parents[2] / "experiments" / "ammonia"
MASSES = np.array([14.007, 1.008, 1.008, 1.008])
BOND, GAP = 1.02, 1.63
PAIRS = list(itertools.combinations(range(4), 2))
EQUILIBRIUM_ANGLE = np.pi - np.arcsin(GAP / np.sqrt(3) / BOND)


def springs(positions):
    """Energy and forces of six springs, whose two minima are pyramids: N-H is BOND long, H-H GAP."""
    energy, forces = 0.0, np.zeros((4, 3))
    for i, j in PAIRS:
        bond = positions[j] - positions[i]
        length = np.linalg.norm(bond)
        stiffness, rest = (40.0, BOND) if i == 0 else (4.0, GAP)
        energy += 0.5 * stiffness * (length - rest) ** 2
        forces[i] += stiffness * (length - rest) * bond / length
        forces[j] -= stiffness * (length - rest) * bond / length
    return energy - 1500.0, forces


@pytest.fixture
def geometries():
    return importlib.import_module("geometries")


@pytest.fixture
def dft(monkeypatch):
    module = importlib.import_module("dft")
    monkeypatch.setattr(module, "compute", lambda _, positions: springs(positions))
    return module


@pytest.fixture
def minimum(geometries):
    return geometries.pyramid(BOND, EQUILIBRIUM_ANGLE, MASSES)


def test_pyramid_is_the_minimum_of_the_springs(minimum):
    energy, forces = springs(minimum)
    assert energy == pytest.approx(-1500.0, abs=1e-12) and np.abs(forces).max() < 1e-12
    assert np.abs(MASSES @ minimum).max() < 1e-14


def test_hessian_equals_derivatives_of_the_energy(geometries, minimum):
    gradient = lambda x: -springs(x.reshape(4, 3))[1].ravel()  # noqa: E731
    expected = approx_fprime(minimum.ravel(), gradient, 1e-6)
    np.testing.assert_allclose(geometries.hessian(springs, minimum), expected, atol=2e-2)  # third order in the step


def test_one_unit_of_a_mode_costs_half_an_ev(geometries, minimum):
    hessian = geometries.hessian(springs, minimum)
    wavenumbers, vectors = geometries.modes(hessian, MASSES)
    flat = vectors.reshape(6, 12)
    np.testing.assert_allclose(flat @ hessian @ flat.T, np.eye(6), atol=1e-9)
    # C3v: two pairs of equal wavenumbers, to the error of the finite differences
    assert (np.diff(wavenumbers) < 1e-4 * wavenumbers[1:]).sum() == 2
    # no displacement of the centre of mass
    assert np.abs(np.einsum("a,max->mx", MASSES, vectors)).max() < 1e-9


def test_wavenumber_of_a_diatomic(geometries):
    """One spring among four atoms: the highest of the six modes kept is that of the diatomic."""
    stiffness, masses = 30.0, np.array([14.0, 1.0, 1.0, 1.0])
    hessian = np.zeros((12, 12))
    hessian[np.ix_([0, 3], [0, 3])] = stiffness * np.array([[1, -1], [-1, 1]])
    wavenumber = geometries.modes(hessian + 1e-12 * np.eye(12), masses)[0][-1]
    # sqrt(k / reduced mass) in SI
    omega = np.sqrt(stiffness * 1.602176634e-19 / 1e-20 / (14 / 15 * 1.66053906660e-27))
    assert wavenumber == pytest.approx(omega / (2 * np.pi * 2.99792458e10), rel=1e-6)


@pytest.mark.parametrize(("num_bins", "per_bin", "width"), [(20, 1, 0.01), (30, 2, 0.04)])
def test_every_bin_gets_its_share(geometries, minimum, num_bins, per_bin, width):
    vectors = geometries.modes(geometries.hessian(springs, minimum), MASSES)[1]

    def draw(seed):
        options = {"width": width, "num_bins": num_bins, "per_bin": per_bin, "rng": np.random.default_rng(seed)}
        return list(geometries.fill_bins(springs, minimum, vectors, **options))

    frames = draw(0)
    np.testing.assert_array_equal(np.bincount([index for index, _ in frames]), np.full(num_bins, per_bin))
    for index, (positions, energy, forces) in frames:
        assert index * width <= energy + 1500.0 < (index + 1) * width
        assert geometries.is_intact(positions)
        np.testing.assert_allclose(springs(positions)[1], forces, atol=1e-5)  # positions are rounded to 8 decimals
    np.testing.assert_array_equal(frames[3][1][0], draw(0)[3][1][0])
    assert not np.array_equal(frames[3][1][0], draw(1)[3][1][0])


def test_directions_that_fail_are_given_up(geometries, minimum):
    vectors = geometries.modes(geometries.hessian(springs, minimum), MASSES)[1]
    calls = itertools.count()
    flaky = lambda positions: springs(positions) if next(calls) % 2 == 0 else None  # noqa: E731
    frames = geometries.fill_bins(
        flaky, minimum, vectors, width=0.1, num_bins=5, per_bin=1, rng=np.random.default_rng(0)
    )
    assert sorted(index for index, _ in frames) == list(range(5))


@pytest.mark.parametrize(
    ("known", "target", "expected"),
    [
        ([(0.0, 0.0)], 0.5, 1.0),  # harmonic
        ([(0.0, 0.0), (1.0, 1.0)], 0.25, 0.5),  # between
        ([(0.0, 0.0), (1.0, 0.81)], 1.0, 1 / 0.9),  # beyond
        ([(0.0, 0.0), (1.0, 0.01)], 1.0, 1.5),  # at most this far
        ([(0.0, 0.0), (2.0, 4.0), (1.0, -0.1)], 1.0, 1.5),  # past a second minimum
    ],
)
def test_next_scale(geometries, known, target, expected):
    assert geometries.next_scale(known, target) == pytest.approx(expected)


def test_broken_molecules_are_seen(geometries, minimum):
    assert geometries.is_intact(minimum)
    for length in (0.7, 2.3):
        assert not geometries.is_intact(geometries.pyramid(length, np.pi / 2, MASSES))
    assert not geometries.is_intact(geometries.pyramid(0.8, 2.7, MASSES))  # hydrogens 0.59 Angstrom apart


def test_umbrella_path_is_symmetric_and_relaxed(geometries):
    path = geometries.umbrella_path(springs, EQUILIBRIUM_ANGLE, BOND, MASSES, 7)
    angles = np.array([angle for angle, _ in path])
    np.testing.assert_allclose(angles + angles[::-1], 180.0, atol=1e-9)
    np.testing.assert_allclose(np.diff(angles), np.diff(angles)[0])
    for angle, (positions, energy, forces) in path:
        bonds = positions[1:] - positions[0]
        cosines = bonds[:, 2] / np.linalg.norm(bonds, axis=1)
        np.testing.assert_allclose(np.degrees(np.arccos(cosines)), angle, atol=1e-5)
        label = springs(positions)
        assert label[0] == pytest.approx(energy, abs=1e-9)
        np.testing.assert_allclose(forces, label[1], atol=1e-5)
        assert abs(np.sum(forces[1:] * bonds)) < 1e-3
    energies = [energy for _, (_, energy, _) in path]
    assert np.argmax(energies) == 3 and energies[0] == pytest.approx(-1500.0, abs=1e-6)


def test_failure_where_a_label_is_needed_is_an_error(geometries, minimum):
    with pytest.raises(RuntimeError, match="The self-consistent field did not converge at"):
        geometries.hessian(lambda _: None, minimum)


def test_labels_are_computed_once(dft, tmp_path, minimum):
    cache = tmp_path / "deep" / "labels.jsonl"
    first = dft.Labeller(["N", "H", "H", "H"], cache)
    energy, forces = first(minimum)
    assert energy == pytest.approx(-1500.0) and forces.shape == (4, 3)
    first(minimum + 1e-10)
    assert first.num_computed == 1
    with cache.open("a") as file:
        file.write('{"level": "of a run that was kil')
    second = dft.Labeller(["N", "H", "H", "H"], cache)
    assert second(minimum)[0] == energy and second.num_computed == 0
    second(minimum + 0.01 * np.eye(4, 3))
    third = dft.Labeller(["N", "H", "H", "H"], cache)
    third(minimum + 0.01 * np.eye(4, 3))
    assert second.num_computed == 1 and third.num_computed == 0


def test_labels_of_another_level_are_not_used(dft, tmp_path, minimum, monkeypatch):
    dft.Labeller(["N", "H", "H", "H"], tmp_path / "labels")(minimum)
    monkeypatch.setattr(dft, "LEVEL", {"basis": "sto-3g"})
    other = dft.Labeller(["N", "H", "H", "H"], tmp_path / "labels")
    other(minimum)
    assert other.num_computed == 1


def test_failed_scf_is_remembered_and_reported(dft, tmp_path, minimum, monkeypatch):
    monkeypatch.setattr(dft, "compute", lambda *_: None)
    for expected in (1, 0):
        label = dft.Labeller(["N", "H", "H", "H"], tmp_path / "labels")
        assert label(minimum) is None and label.num_computed == expected
        np.testing.assert_allclose(label.failed, [minimum], atol=1e-8)


def test_whole_run(dft, tmp_path, monkeypatch, capsys):
    label = importlib.import_module("label")
    monkeypatch.setattr(label.importlib.metadata, "version", lambda name: f"{name} version")
    monkeypatch.setenv("BNN_JAX_TEST_DATA", str(tmp_path / "absent"))
    cache = tmp_path / "labels.jsonl"
    monkeypatch.setattr(sys, "argv", ["label.py", "--out", str(tmp_path), "--cache", str(cache)])
    label.main()
    assert "train.xyz.gz is absent: the labels are not compared" in capsys.readouterr().out
    provenance = json.loads((tmp_path / "ammonia.json").read_text())
    assert provenance["comparison_with_published"] is None and provenance["failed_scf"] == []
    assert provenance["level"] == dft.LEVEL and provenance["energy_min_ev"] == pytest.approx(-1500.0, abs=1e-5)
    for part, count in (("train", 78), ("test", 200), ("path", 21)):
        path = tmp_path / f"ammonia_{part}.xyz"
        entry = {"frames": count, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        assert provenance["files"][path.name] == entry
        structures = ase.io.read(path, ":")
        assert len(structures) == count
        for atoms in structures[::20]:
            energy, forces = springs(atoms.positions)
            assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-7)
            np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-5)
    relative = np.array([atoms.info["relative_energy"] for atoms in ase.io.read(tmp_path / "ammonia_test.xyz", ":")])
    bins = np.floor(relative / EV_PER_KCAL_PER_MOL).astype(int)
    np.testing.assert_array_equal(np.bincount(bins), np.full(100, 2))
    written = [(tmp_path / name).read_bytes() for name in provenance["files"]]
    label.main()  # from the cache
    assert "0 labels computed" in capsys.readouterr().out
    assert written == [(tmp_path / name).read_bytes() for name in provenance["files"]]


@pytest.mark.slow
def test_density_functional_theory_gives_the_recorded_label():
    """A label computed anew equals the built-in one to what grids and libraries leave open."""
    pytest.importorskip("pyscf")
    pytest.importorskip("pyscf.dispersion")
    compute = importlib.import_module("dft").compute
    builtin = Path(__file__).parents[2] / "bnn_jax" / "atoms" / "builtin" / "ammonia_test.xyz"
    atoms = ase.io.read(builtin, "150")
    energy, forces = compute(atoms.get_chemical_symbols(), atoms.positions)
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-4)
