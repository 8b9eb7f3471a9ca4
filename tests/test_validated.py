"""What lies beyond the range that labels could check gets its own word, wherever predictions are shown."""

import dataclasses
import json
import warnings

import ase.io
import numpy as np
import pytest
from ase import Atoms
from commands import SETTINGS, write_ammonia
from posteriors import MODEL, random_posterior
from systems import ammonia, isolated_atom, labelled_series, rattled, triclinic_crystal, water

import bnn_jax
from bnn_jax import BNNCalculator, Dataset, Posterior, evaluate
from bnn_jax.atoms import pack
from bnn_jax.atoms.environments import environments
from bnn_jax.calculator import BeyondValidatedWarning
from bnn_jax.cli import main
from bnn_jax.types import InputError
from bnn_jax.validated import EnvironmentRange, ValidatedRange


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    """Of water, with the range of twelve waters."""
    posterior = random_posterior(labelled_series(water(), 6), num_samples=4, num_chains=2)
    near = Dataset.from_atoms(labelled_series(water(), 12, seed=5))
    found = ValidatedRange.of(posterior.predict(near), near.numbers, np.isfinite(near.forces).all(axis=1))
    return dataclasses.replace(posterior, validated=found)


def far_water(factor: float = 0.4):
    """Of shorter bonds, about which the random weights disagree more."""
    atoms = water()
    atoms.positions *= factor
    return atoms


def test_the_range_is_the_largest_std_of_each_element(posterior):
    near = Dataset.from_atoms(labelled_series(water(), 12, seed=5))
    stds = dataclasses.replace(posterior, validated=None).predict(near).forces_std.max(axis=1)
    assert posterior.validated is not None
    assert posterior.validated.numbers == (1, 8) and posterior.validated.num_structures == 12
    np.testing.assert_allclose(
        posterior.validated.largest, [stds[near.numbers == number].max() for number in (1, 8)], rtol=1e-6
    )
    beyond = posterior.predict(near)
    assert beyond.beyond_validated is not None and not beyond.beyond_validated.any()
    both = posterior.predict([water(), far_water()])
    assert both.structures_beyond_validated is not None
    np.testing.assert_array_equal(both.structures_beyond_validated, [False, True])


def test_atoms_without_a_label_are_not_in_it(posterior):
    near = Dataset.from_atoms(labelled_series(water(), 12, seed=5))
    predictive = posterior.predict(near)
    labelled = near.numbers == 8
    found = ValidatedRange.of(predictive, near.numbers, labelled)
    assert found is not None and found.numbers == (8,)
    np.testing.assert_array_equal(found.beyond(predictive.forces_score, near.numbers), ~labelled)
    assert ValidatedRange.of(predictive, near.numbers, np.zeros(len(labelled), bool)) is None
    nothing = np.full_like(predictive.forces, np.nan)
    assert found.beyond(nothing, near.numbers).all()


def test_one_in_so_many_is_beyond_by_chance():
    """Of 4,000 ranges of 7 structures and one more from the same law: 1 in 8, to 0.5 %."""
    rng, count, numbers = np.random.default_rng(0), 0, np.ones(8, int)
    for _ in range(4000):
        scores = np.repeat(rng.exponential(size=(8, 1)), 3, axis=1)
        limits = ValidatedRange((1,), (float(scores[:7].max()),), 7)
        count += int(limits.beyond(scores, numbers)[7])
    assert count / 4000 == pytest.approx(1 / 8, abs=4 * np.sqrt(7 / 64 / 4000))


def surroundings(structures, cutoff=4.0, species=(1, 8)):
    dataset = Dataset.from_atoms(structures)
    return environments(pack(dataset, cutoff, species, np.zeros(len(species))), cutoff, len(species))


def test_surroundings_are_those_of_a_loop():
    crystal = triclinic_crystal()
    found = surroundings([crystal, isolated_atom("Na")], species=(11, 17))
    tripled = crystal * (5, 5, 5)
    for atom in range(2):
        middle = 2 * (2 * 25 + 2 * 5 + 2) + atom
        distances = tripled.get_distances(middle, range(len(tripled)))
        near = (distances > 0) & (distances < 4.0)
        assert found.counts[atom] == near.sum()
        for species, number in enumerate((11, 17)):
            expected = distances[near & (tripled.numbers == number)].min(initial=4.0)
            assert found.nearest[atom, species] == pytest.approx(expected, abs=1e-5)
    assert found.counts[2] == 0 and (found.nearest[2] == 4.0).all()
    np.testing.assert_array_equal(found.species, [0, 1, 0])


def test_neighbours_unlike_any_are_beyond_whatever_the_std():
    known = EnvironmentRange.of([surroundings([water()]), surroundings([rattled(water(), 0.02, 1)])])
    squeezed, stretched, crowded = water(), water(), water()
    squeezed.positions[1] = squeezed.positions[0] + 0.9 * (squeezed.positions[1] - squeezed.positions[0])
    stretched.positions[1] = stretched.positions[0] + 1.2 * (stretched.positions[1] - stretched.positions[0])
    crowded += Atoms("HHH", positions=crowded.positions[[0, 1, 2]] + [0, 0, 3.0])
    cases = ((water(), [0, 0, 0]), (squeezed, [1, 1, 0]), (stretched, [0, 1, 1]), (crowded, [1, 1, 1, 1, 1, 1]))
    for atoms, expected in cases:
        np.testing.assert_array_equal(known.beyond(surroundings([atoms])), np.array(expected, bool))
    np.testing.assert_array_equal(known.beyond(surroundings([isolated_atom("H")])), [True])  # no oxygen anywhere
    numbers, scores = np.array(squeezed.numbers), np.zeros((3, 3))
    limits = ValidatedRange((1, 8), (1.0, 1.0), 5, known)
    np.testing.assert_array_equal(limits.beyond(scores, numbers, surroundings([squeezed])), [True, True, False])
    assert ValidatedRange.from_json(limits.to_json()) == limits
    text = limits.to_json().replace('"fewest": [', '"fewest": [3, ')
    with pytest.raises(InputError, match="do not fit each other"):
        ValidatedRange.from_json(text)


def test_structures_of_the_same_kind_are_rarely_out_of_range():
    """Thirty rattled waters know a hundred more of the same law, less a few."""
    known = EnvironmentRange.of([surroundings(labelled_series(water(), 30, seed=1))])
    other = labelled_series(water(), 100, seed=1000)
    assert known.beyond(surroundings(other)).reshape(100, 3).any(axis=1).sum() <= 5


def test_a_fit_looks_at_all_its_structures():
    config = bnn_jax.Config.from_dict(
        {"model": MODEL, "sampler": {"convergence_steps": 4, "cycle_steps": 2, "num_samples": 2, "batch_size": 2}}
    )
    train, valid = (Dataset.from_atoms(labelled_series(water(), 4, seed=seed)) for seed in (0, 50))
    fitted = bnn_jax.fit(train, valid, config, progress=False)
    assert fitted.validated is not None
    expected = EnvironmentRange.of([surroundings(part.to_atoms()) for part in (train, valid)])
    assert fitted.validated.environments is not None
    np.testing.assert_allclose(fitted.validated.environments.shortest, expected.shortest, rtol=1e-6)
    np.testing.assert_allclose(fitted.validated.environments.longest, expected.longest, rtol=1e-6)
    alone = fitted.predict(isolated_atom("O"))
    assert alone.beyond_validated is not None and alone.beyond_validated.all()


def test_text_and_back(posterior):
    assert ValidatedRange.from_json(posterior.validated.to_json()) == posterior.validated
    for text in ("{}", "[]", '{"numbers": [1], "largest": [], "num_structures": 3}', "NaN", '{"numbers": [999]}'):
        with pytest.raises(InputError, match="no validated range"):
            ValidatedRange.from_json(text)


def test_files_keep_it(posterior, tmp_path):
    assert Posterior.load(posterior.save(tmp_path)).validated == posterior.validated
    assert bnn_jax.load_exported(posterior.export(tmp_path / "file")).validated == posterior.validated
    without = dataclasses.replace(posterior, validated=None)
    assert Posterior.load(without.save(tmp_path)).validated is None
    assert without.predict(water()).beyond_validated is None


def test_a_calibration_does_not_move_it(posterior):
    near = Dataset.from_atoms(labelled_series(water(), 12, seed=6))
    calibrated = posterior.calibrated(near, "variance")
    one, other = (each.predict(far_water()) for each in (posterior, calibrated))
    assert not np.allclose(one.forces_std, other.forces_std)
    np.testing.assert_array_equal(one.beyond_validated, other.beyond_validated)


def test_the_calculator_says_so_once(posterior):
    calculator = BNNCalculator(posterior)
    atoms = water()
    atoms.calc = calculator
    with warnings.catch_warnings():
        warnings.simplefilter("error", BeyondValidatedWarning)
        atoms.get_forces()
    assert not calculator.results["beyond_validated"].any()
    with warnings.catch_warnings(record=True) as caught:  # pytest.warns would pass on what others warn of
        warnings.simplefilter("always", BeyondValidatedWarning)
        for factor in (0.4, 0.42):
            atoms.positions = far_water(factor).positions
            atoms.get_forces()
    told = [str(each.message) for each in caught if each.category is BeyondValidatedWarning]
    assert len(told) == 1 and "of 3 atoms lie beyond the validated range" in told[0]
    assert calculator.results["beyond_validated"].any()


def test_evaluate_parts_its_figures(posterior):
    test = [*labelled_series(water(), 5, seed=7), *labelled_series(far_water(), 5, seed=8)]
    scores = evaluate(posterior, test)
    predictive = posterior.predict(test)
    beyond = predictive.structures_beyond_validated
    assert beyond is not None and 0 < beyond.sum() < 10
    assert scores["num_beyond_validated"] == beyond.sum()
    z = np.abs(predictive.forces - Dataset.from_atoms(test).forces) / predictive.forces_std
    of_beyond = z[np.repeat(beyond, 3)]
    assert scores["forces_coverage_95_beyond"] == pytest.approx(np.mean(of_beyond <= 2))
    assert scores["forces_rms_z_beyond"] == pytest.approx(np.sqrt(np.mean(of_beyond**2)))
    assert scores["forces_coverage_68"] == pytest.approx(np.mean(z <= 1))


def test_commands_say_so(tmp_path, capsys):
    files = write_ammonia(tmp_path)
    out = str(tmp_path / "run")
    far = str(tmp_path / "far.xyz")
    ase.io.write(far, [*labelled_series(ammonia(), 2, seed=70), *labelled_series(rattled(ammonia(), 0.5, 1), 3)])
    arguments = ["--valid", "6", "--seed", "3", *SETTINGS, "--set", "sampler.convergence_steps=60"]
    assert main(["fit", files["train"], "--out", out, "--test", far, *arguments]) == 0
    sentence = r"of 5 structures lie beyond the validated range"
    assert sentence in capsys.readouterr().out
    diagnostics = json.loads((tmp_path / "run" / "diagnostics.json").read_text())
    assert set(diagnostics["verdict"]) >= {"is_trusted", "calibrated", "reproducible", "mixed", "sentence"}
    assert main(["evaluate", out, far]) == 0
    said = capsys.readouterr().out
    assert sentence in said and "95 % intervals of forces hold" in said
    assert main(["predict", out, far, str(tmp_path / "out.xyz")]) == 0
    assert sentence in capsys.readouterr().out
    frames = ase.io.read(tmp_path / "out.xyz", ":")
    flags = [bool(frame.arrays["beyond_validated"].any()) for frame in frames]
    assert any(flags) and not all(flags)
