"""Labels that contradict one another are refused, with the factor between them; labels that do not are never."""

import dataclasses

import ase.io
import numpy as np
import pytest
from systems import ammonia, ethanol, labelled, labelled_series, rattled, sodium_chloride, strained_copper

from bnn_jax.atoms import Dataset, read_file
from bnn_jax.atoms.contradictions import check_contradictions, find_fault
from bnn_jax.atoms.labels import Choices
from bnn_jax.atoms.least_squares import Gram, errors
from bnn_jax.types import InputError
from bnn_jax.units import EV_PER_HARTREE, EV_PER_KCAL_PER_MOL, GPA_PER_EV_PER_ANGSTROM3, STRESS_UNITS_EV_PER_ANGSTROM3

GPA = GPA_PER_EV_PER_ANGSTROM3


@pytest.fixture(scope="module")
def crystals() -> Dataset:
    return Dataset.from_atoms(strained_copper(40))


def volume(dataset: Dataset) -> np.ndarray:
    return np.linalg.det(dataset.cell)[:, None, None]


def with_two_levels(dataset: Dataset) -> Dataset:
    is_high = np.random.default_rng(1).random(len(dataset)) < 0.5
    return dataclasses.replace(dataset, energy=dataset.energy + 3.0 * is_high)


FAULTS = {
    "forces point the wrong way, uphill": lambda data: dataclasses.replace(data, forces=-data.forces),
    r"energies change 0\.03\d* times as much as the forces imply, as energies in Hartree beside forces in eV": (
        lambda data: dataclasses.replace(data, energy=data.energy / EV_PER_HARTREE)
    ),
    r"energies change 2\d\.\d times .*energies in kcal/mol beside": (
        lambda data: dataclasses.replace(data, energy=data.energy / EV_PER_KCAL_PER_MOL)
    ),
    r"energies change 5\d\.\d times .*energies in eV beside forces in Hartree/Bohr": (
        lambda data: dataclasses.replace(data, forces=data.forces / 51.422)
    ),
    r"energies change 0\.2\d* times .*energies per atom": (
        lambda data: dataclasses.replace(data, energy=data.energy / data.num_atoms)
    ),
    r"energies fall into two groups (3|2\.9\d*|3\.0\d*) eV apart, .*as if levels of theory were mixed": with_two_levels,
    r"stresses are -(1|0\.\d+|1\.\d+) times .*sign of VASP.*name stress_unit='-eV/Angstrom\^3'": (
        lambda data: dataclasses.replace(data, stress=-data.stress)
    ),
    r"stresses are 1\d\d times .*as if they were in GPa; name stress_unit='GPa', or stress_unit='eV/Angstrom\^3' if": (
        lambda data: dataclasses.replace(data, stress=GPA * data.stress)
    ),
    r"stresses are -1\.\d*e\+03 times .*in -kbar; name stress_unit='-kbar'": (
        lambda data: dataclasses.replace(data, stress=-10 * GPA * data.stress)
    ),
    r"name stress_unit='bar'": lambda data: dataclasses.replace(data, stress=1e4 * GPA * data.stress),
    r"stresses are -[45]\d\.?\d* times .*as virials would be; name their key virial": (
        lambda data: dataclasses.replace(data, stress=-data.stress * volume(data))
    ),
    r"as virials of the opposite sign would be; divide them by the volume": (
        lambda data: dataclasses.replace(data, stress=data.stress * volume(data))
    ),
    r"as if the virials were stresses already; name their key stress": (
        lambda data: dataclasses.replace(data, stress=-data.stress / volume(data))
    ),
}


@pytest.mark.parametrize("number", [16, 40])
@pytest.mark.parametrize("sentence", FAULTS)
def test_faults_are_named(crystals, sentence, number):
    spoilt = FAULTS[sentence](crystals[:number])
    with pytest.raises(InputError, match=f"structures: .*{sentence}"):
        Dataset.from_atoms(spoilt.to_atoms())
    consent = {"stress_unit": "eV/Angstrom^3"} if "stress" in sentence or "virial" in sentence else {}
    consent |= {} if consent else {"energy_unit": "eV"}
    assert len(Dataset.from_atoms(spoilt.to_atoms(), **consent)) == number


def test_frames_of_the_smaller_group_are_named(tmp_path):
    """By what the forces say: the energies of these cells differ by more."""
    cells = Dataset.from_atoms(strained_copper(40, repeat=2))
    energy = cells.energy.copy()
    energy[[4, 9, 20, 33]] -= 0.5
    ase.io.write(tmp_path / "a.xyz", dataclasses.replace(cells, energy=energy).to_atoms())
    sentence = r"a\.xyz: energies .* mixed: 4 of the 40 structures looked at \(first frames: 4, 9, 20\) are apart from"
    with pytest.raises(InputError, match=sentence):
        read_file(tmp_path / "a.xyz")


@pytest.mark.parametrize("unit", STRESS_UNITS_EV_PER_ANGSTROM3)
def test_a_named_unit_gives_the_stress_that_it_was(crystals, unit):
    frames = crystals.to_atoms()
    for atoms in frames:
        atoms.calc.results["stress"] = atoms.calc.results["stress"] / STRESS_UNITS_EV_PER_ANGSTROM3[unit]
    read = Dataset.from_atoms(frames, stress_unit=unit)
    np.testing.assert_allclose(read.stress, crystals.stress, rtol=1e-12)
    np.testing.assert_array_equal(read.energy, crystals.energy)


def test_a_stress_has_its_own_unit_beside_that_of_the_energy(crystals):
    frames = crystals.to_atoms()
    for atoms in frames:
        atoms.calc.results["energy"] /= EV_PER_HARTREE
        atoms.calc.results["forces"] = atoms.calc.results["forces"] / EV_PER_HARTREE
        atoms.calc.results["stress"] = atoms.calc.results["stress"] * GPA
    read = Dataset.from_atoms(frames, energy_unit="Hartree", stress_unit="GPa")
    np.testing.assert_allclose(read.stress, crystals.stress, rtol=1e-12)
    np.testing.assert_allclose(read.forces, crystals.forces, rtol=1e-12)
    with pytest.raises(InputError, match=r"stresses are 4\.\d*e\+03 times"):  # Hartree over Angstrom^3 if none is named
        Dataset.from_atoms(frames, energy_unit="Hartree")
    with pytest.raises(InputError, match="stress_unit 'Pa' is not known; choose one of eV/Angstrom"):
        Dataset.from_atoms(frames, stress_unit="Pa")


@pytest.mark.parametrize("missing", ["energy", "forces"])
def test_stress_is_judged_by_what_there_is(crystals, missing):
    labels = {missing: np.full_like(getattr(crystals, missing), np.nan)}
    Dataset.from_atoms(dataclasses.replace(crystals, **labels).to_atoms())
    spoilt = dataclasses.replace(crystals, stress=-GPA * crystals.stress, **labels)
    with pytest.raises(InputError, match="name stress_unit='-GPa'"):
        Dataset.from_atoms(spoilt.to_atoms())


def test_what_cannot_be_judged_passes(crystals):
    """Too few structures, one label, labels that follow from nothing, or that are all the same."""
    spoilt = dataclasses.replace(crystals, forces=-crystals.forces)
    assert len(Dataset.from_atoms(spoilt[:9].to_atoms())) == 9
    rng = np.random.default_rng(0)
    noise = {name: rng.normal(size=getattr(crystals, name).shape) for name in ("energy", "forces", "stress")}
    noise["stress"] += np.swapaxes(noise["stress"], 1, 2)
    nothing = {name: np.full_like(value, np.nan) for name, value in noise.items()}
    same = {"energy": np.full(40, -3.0), "forces": np.zeros_like(crystals.forces)}
    for labels in (
        noise,
        nothing | {"energy": crystals.energy},
        nothing | {"forces": crystals.forces},
        nothing | {"stress": -crystals.stress},
        same,
        {"stress": np.zeros_like(crystals.stress)},
    ):
        assert len(Dataset.from_atoms(dataclasses.replace(crystals, **labels).to_atoms())) == 40


@pytest.mark.parametrize("label", ["energy", "stress"])
def test_a_label_of_few_structures_is_not_judged(crystals, label):
    """And is judged where ten have it."""
    spoilt = {"energy": crystals.energy + 3.0 * (np.arange(40) % 2), "stress": -crystals.stress}[label]
    for count in (1, 4, 5, 9, 10):
        values = np.where(np.arange(40).reshape(-1, *[1] * (spoilt.ndim - 1)) < count, spoilt, np.nan)
        few = dataclasses.replace(crystals, **{label: values}).to_atoms()
        if count < 10:
            assert len(Dataset.from_atoms(few)) == 40
        else:
            with pytest.raises(InputError, match=r"energies fall into two groups|name stress_unit='-eV"):
                Dataset.from_atoms(few)


def test_large_cells_are_judged_too():
    """Ten of 500 atoms are more than the usual number of atoms."""
    cells = Dataset.from_atoms(strained_copper(10, repeat=5))
    with pytest.raises(InputError, match="uphill"):
        Dataset.from_atoms(dataclasses.replace(cells, forces=-cells.forces).to_atoms())


def test_isomers_are_no_levels_of_theory():
    """Two shapes of one composition whose energies no force connects."""
    first, second = ammonia(), ammonia()
    second.positions[1] += 1.3 * (second.positions[1] - second.positions[0])
    frames = [labelled(rattled((first, second)[i % 2], std=0.05, seed=i)) for i in range(40)]
    energy = [np.mean([atoms.get_potential_energy() for atoms in frames[i::2]]) for i in range(2)]
    for atoms in frames[1::2]:
        atoms.calc.results["energy"] += energy[0] + 0.7 - energy[1]
    assert len(Dataset.from_atoms(frames)) == 40


@pytest.mark.parametrize("build", [ammonia, ethanol, sodium_chloride])
@pytest.mark.parametrize("number", [10, 15, 30])
def test_labels_that_belong_together_pass(build, number):
    for seed in range(3):
        assert len(Dataset.from_atoms(labelled_series(build(), number, std=0.1, seed=100 * seed))) == number


def test_errors_are_those_of_a_fit_to_the_other_folds():
    """Against a ridge regression of rows written out, at some factors."""
    rng = np.random.default_rng(0)
    folds = np.arange(40) % 4
    believed, asked = rng.normal(size=(2, 40, 3))
    values = [believed @ [1.0, -2.0, 0.5] + rng.normal(size=40), -5.0 * asked @ [1.0, -2.0, 0.5]]

    def gram(rows: np.ndarray, label: np.ndarray) -> Gram:
        parts = [(rows[folds == fold], label[folds == fold]) for fold in range(4)]
        total = label @ label
        return Gram(
            *(np.stack(part) / total for part in zip(*((x.T @ x, x.T @ y, y @ y) for x, y in parts), strict=True))
        )

    grams = [gram(rows, label) for rows, label in zip((believed, asked), values, strict=True)]
    found = errors(*grams, np.array([1.0, -5.0]))
    for k, factor in enumerate((1.0, -5.0)):
        expected = np.zeros(2)
        for fold in range(4):
            train, test = folds != fold, folds == fold
            scales = [np.linalg.norm(label) for label in values]
            rows = np.concatenate([believed[train] / scales[0], factor * asked[train] / scales[1]])
            label = np.concatenate([part[train] / scale for part, scale in zip(values, scales, strict=True)])
            coefficients = np.linalg.lstsq(rows, label, rcond=None)[0]
            for i, (part, times) in enumerate(((believed, 1.0), (asked, factor))):
                expected[i] += np.sum(((values[i] - times * part @ coefficients)[test] / scales[i]) ** 2)
        np.testing.assert_allclose([found[0][k], found[1][k]], expected, rtol=1e-4, atol=1e-9)
    assert find_fault(*grams).factor == pytest.approx(-5.0, rel=0.06)  # the next on the grid


def test_looking_at_many_structures_costs_no_more(crystals):
    """What is looked at is drawn from all of them."""
    many = Dataset.concatenate([crystals] * 50)
    spoilt = dataclasses.replace(many, forces=-many.forces)
    with pytest.raises(InputError, match="uphill"):
        check_contradictions(spoilt, Choices(), np.arange(len(spoilt)), "x")
