"""Whether the energies, forces and stresses of a data set can belong to one potential.

A linear potential (:mod:`bnn_jax.atoms.linear`) is fitted to two labels at once, one of them divided by a factor, and
judged by cross-validation. Labels that belong together are fitted best at a factor of one; forces of the wrong sign at
minus one, a stress in GPa at 160.2. Energies at two levels of theory are fitted better with an offset between two
groups of structures. What a linear potential does not describe at all is not judged.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.energies import CURE
from bnn_jax.atoms.labels import Choices
from bnn_jax.atoms.least_squares import NUM_FOLDS, Gram, Rows, errors, fit, gram_of, others_of
from bnn_jax.atoms.linear import design
from bnn_jax.types import InputError
from bnn_jax.units import (
    ANGSTROM_PER_BOHR,
    EV_PER_HARTREE,
    EV_PER_KCAL_PER_MOL,
    EV_PER_KJ_PER_MOL,
    STRESS_UNITS_EV_PER_ANGSTROM3,
)

MIN_STRUCTURES, MAX_STRUCTURES, MAX_ATOMS = 10, 100, 4000
"""Drawn from a data set."""
MAX_ERROR = 0.7
"""Squared error of labels that are called explained, relative to their variance."""
TOLERANCE = 3.2
"""Factors between this and its inverse pass for one: no better does a linear potential know."""
MIN_GAP_IN_STDS, MIN_GROUP, MIN_SHIFT = 5.0, 3, 0.1
"""Of two groups of energies: what parts them, structures in the smaller one, and the offset between them in eV."""
MIN_RATIO = 20.0
"""Of the mean square of what is unexplained without two groups and with them."""
MIN_EVIDENCE, FEW_STRUCTURES = 0.4, 20.0
"""See :func:`min_evidence`."""
FACTORS = np.concatenate([sign * 10.0 ** np.linspace(-7, 7, 281) for sign in (1, -1)])
ENERGY_OVER_FORCES = {
    "energies in Hartree beside forces in eV/Angstrom": 1 / EV_PER_HARTREE,
    "energies in kcal/mol beside forces in eV/Angstrom": 1 / EV_PER_KCAL_PER_MOL,
    "energies in kJ/mol beside forces in eV/Angstrom": 1 / EV_PER_KJ_PER_MOL,
    "energies in meV beside forces in eV/Angstrom": 1e3,
    "energies in eV beside forces in Hartree/Bohr": EV_PER_HARTREE / ANGSTROM_PER_BOHR,
    "energies in eV beside forces in kcal/mol/Angstrom": EV_PER_KCAL_PER_MOL,
    "energies in eV beside forces in kJ/mol/Angstrom": EV_PER_KJ_PER_MOL,
    "energies in eV beside forces in meV/Angstrom": 1e-3,
}
"""Energies over what forces imply, by the units that would make them so."""


class Fault(NamedTuple):
    """A factor between labels that explains them better than none."""

    factor: float
    evidence: float
    """Logarithm of the ratio of errors without and with it."""


class Groups(NamedTuple):
    """Two groups of structures whose energies an offset parts."""

    is_apart: Bool[np.ndarray, " structure"]
    """The smaller group."""
    offset: float
    """In eV."""


def check_contradictions(
    dataset: Dataset, choices: Choices, frame_numbers: Int[np.ndarray, " structure"], source: str
) -> None:
    """Refuse labels that no potential could have all at once.

    Args:
        dataset: labelled structures; at most a hundred, drawn at random, are looked at, and ten are needed.
        choices: what the user said; naming the unit of the energies consents to all of them, ``eV/Angstrom^3`` to the
            stress.
        frame_numbers: of the structures, in the file.
        source: opens the error sentence.

    Raises:
        InputError: energies do not fit the forces, or fall into two groups, or the stress does not fit either.
    """
    drawn = draw(dataset)
    part = dataset.take(drawn)
    if len(part) < MIN_STRUCTURES or (not np.isfinite(part.energy).any() and not np.isfinite(part.forces).any()):
        return
    labels = _labels(part)
    grams = _grams(labels, part)
    if "forces" in grams and "energy" in grams:
        known = np.isfinite(part.energy)
        fault = find_fault(grams["forces"], grams["energy"])
        is_faulty = fault.evidence > min_evidence(int(known.sum()))
        if is_faulty and choices.energy_unit is not None:
            return  # the user knows, and there is nothing to judge the stress by
        if is_faulty:
            sentence = _energy_sentence(fault.factor, part.num_atoms)
            raise InputError(f"{source}: {sentence}; convert one of them, {CURE}.")
        groups = find_groups(grams["forces"], labels["energy"], part.composition[known])
        if groups is not None and choices.energy_unit is None:
            numbers = frame_numbers[drawn][known][groups.is_apart]
            first = ", ".join(str(number) for number in numbers[:3])
            raise InputError(
                f"{source}: energies fall into two groups {abs(groups.offset):.3g} eV apart, of which the forces know"
                f" nothing, as if levels of theory were mixed: {len(numbers)} of the {len(groups.is_apart)} structures"
                f" looked at (first frames: {first}) are apart from the rest; recompute or remove them, {CURE}."
            )
    believed = [grams[name] for name in ("forces", "energy") if name in grams]
    if "stress" in grams and believed and choices.stress_unit != "eV/Angstrom^3":
        fault = find_fault(Gram.mean(believed), grams["stress"])
        if fault.evidence > min_evidence(len(labels["stress"].values) // 9):
            volumes = np.abs(np.linalg.det(part.cell[part.pbc.all(axis=1)]))
            raise InputError(
                f"{source}: stresses are {fault.factor:.3g} times what energies and forces imply"
                f"{_stress_sentence(fault.factor, float(np.median(volumes)))}, or stress_unit='eV/Angstrom^3' if they"
                " are right."
            )


def draw(dataset: Dataset, seed: int = 0) -> Int[np.ndarray, " chosen"]:
    """Structures of more than one atom, few enough to be judged quickly; of large ones no more than are needed."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(dataset.num_atoms > 1))[:MAX_STRUCTURES]
    total = np.cumsum(dataset.num_atoms[order])
    is_needed = (np.arange(len(order)) < MIN_STRUCTURES) & (total <= 3 * MAX_ATOMS)
    return np.sort(order[(total <= MAX_ATOMS) | is_needed])


def min_evidence(num_structures: int) -> float:
    """Evidence that a fault needs, for chance makes some in few structures."""
    return MIN_EVIDENCE + (FEW_STRUCTURES / num_structures) ** 3


def find_fault(believed: Gram, asked: Gram) -> Fault:
    """The factor other than one at which a label fits best to others that are believed."""
    wrong_believed, wrong_asked = errors(believed, asked, FACTORS)
    score = np.log(np.maximum(wrong_believed, 1e-6)) + np.log(np.maximum(wrong_asked, 1e-6))
    is_one = (FACTORS > 0) & (np.abs(np.log(np.abs(FACTORS))) < np.log(TOLERANCE))
    is_other = ~is_one & (np.maximum(wrong_believed, wrong_asked) < MAX_ERROR)
    if not is_other.any():
        return Fault(1.0, 0.0)
    best = int(np.argmin(np.where(is_other, score, np.inf)))
    return Fault(float(FACTORS[best]), float(score[is_one].min() - score[best]))


def find_groups(
    forces: Gram, energies: Rows, composition: Int[np.ndarray, "structure species"], num_passes: int = 3
) -> Groups | None:
    """Two groups of energies, where an offset between them explains far better what the forces leave unexplained.

    Args:
        forces: which are believed.
        energies: of at least twice ``MIN_GROUP`` structures.
        composition: of these.
        num_passes: each sees the groups better, for the last offset no longer disturbs the fit.
    """
    alone, _ = _residuals(forces, energies.without(composition.astype(np.float64)))
    is_high = _above_the_gap(alone)
    for _ in range(num_passes - 1):
        is_high = _above_the_gap(_parted(forces, energies, composition, is_high)[0])
    residuals, std, offset, wrong_forces = _parted(forces, energies, composition, is_high)
    std = max(std, MIN_SHIFT / MIN_GAP_IN_STDS)
    gap = residuals[is_high].min() - residuals[~is_high].max()
    if wrong_forces > MAX_ERROR or gap < MIN_GAP_IN_STDS * std or np.mean(alone**2) < MIN_RATIO * std**2:
        return None
    return Groups(is_high if 2 * is_high.sum() <= len(is_high) else ~is_high, offset)


def _parted(
    forces: Gram,
    energies: Rows,
    composition: Int[np.ndarray, "structure species"],
    is_high: Bool[np.ndarray, " structure"],
) -> tuple[Float[np.ndarray, " structure"], float, float, float]:
    """Residuals with an offset between two groups in them, their std without it, the offset, the error of forces."""
    nuisance = np.column_stack([composition, is_high]).astype(np.float64)
    rest, wrong_forces = _residuals(forces, energies.without(nuisance))
    offset = _offset(forces, energies, nuisance)
    return rest + offset * is_high, float(np.sqrt(np.mean(rest**2))), offset, wrong_forces


def _above_the_gap(values: Float[np.ndarray, " structure"]) -> Bool[np.ndarray, " structure"]:
    """Those beyond the widest gap that leaves enough on both sides."""
    ordered = np.sort(values)
    gaps = np.diff(ordered)[MIN_GROUP - 1 : 1 - MIN_GROUP]
    return values > ordered[MIN_GROUP - 1 + int(np.argmax(gaps))]


def _residuals(forces: Gram, energies: Rows) -> tuple[Float[np.ndarray, " structure"], float]:
    """Of energies, by coefficients fitted to forces and energies of the other folds, and the error of the forces."""
    gram = gram_of(energies)
    if gram is None:
        return energies.values, 0.0
    residuals, wrong_forces = energies.values.copy(), 0.0
    both = Gram.mean([forces, gram])
    for fold in range(NUM_FOLDS):
        coefficients = fit(others_of(both.matrix, fold), others_of(both.vector, fold))
        here = energies.folds == fold
        residuals[here] -= energies.rows[here] @ coefficients
        wrong_forces += float(forces.error(fold, coefficients[None], 1.0)[0])
    return residuals, wrong_forces


def _offset(forces: Gram, energies: Rows, nuisance: Float[np.ndarray, "structure column"]) -> float:
    """What the last column of the nuisance adds to the energies, in eV."""
    gram = gram_of(energies.without(nuisance))
    if gram is None:
        return 0.0
    both = Gram.mean([forces, gram])
    coefficients = fit(both.matrix.sum(axis=0), both.vector.sum(axis=0))
    rest = energies.values - energies.rows @ coefficients
    return float(np.linalg.lstsq(nuisance, rest, rcond=None)[0][-1])


def _labels(dataset: Dataset) -> dict[str, Rows]:
    """What the linear potential says of each label that a data set has."""
    derivatives = design(dataset)
    num_coefficients = derivatives.energy.shape[1]
    folds = np.arange(len(dataset)) % NUM_FOLDS
    has_forces = np.isfinite(dataset.forces).all(axis=1)
    has_energy = np.isfinite(dataset.energy)
    has_stress = np.isfinite(dataset.stress).all(axis=(1, 2)) & dataset.pbc.all(axis=1)
    volumes = np.abs(np.linalg.det(dataset.cell[has_stress]))
    return {
        "forces": Rows(
            derivatives.forces[has_forces].reshape(-1, num_coefficients),
            dataset.forces[has_forces].reshape(-1),
            np.repeat(folds[dataset.structure_index[has_forces]], 3),
        ),
        "energy": Rows(derivatives.energy[has_energy], dataset.energy[has_energy], folds[has_energy]),
        "stress": Rows(
            (derivatives.virial[has_stress] / volumes[:, None, None, None]).reshape(-1, num_coefficients),
            dataset.stress[has_stress].reshape(-1),
            np.repeat(folds[has_stress], 9),
        ),
    }


def _grams(labels: Mapping[str, Rows], dataset: Dataset) -> dict[str, Gram]:
    """Normal equations of the labels that are there, but for sums of atomic energies and a constant pressure."""
    composition = dataset.composition[np.isfinite(dataset.energy)].astype(np.float64)
    pressure = np.tile(np.eye(3).reshape(-1, 1), (len(labels["stress"].values) // 9, 1))
    reduced = {
        "forces": labels["forces"],
        "energy": labels["energy"].without(composition),
        "stress": labels["stress"].without(pressure),
    }
    num_structures = {
        "forces": len(np.unique(dataset.structure_index[np.isfinite(dataset.forces).all(axis=1)])),
        "energy": len(labels["energy"].values),
        "stress": len(labels["stress"].values) // 9,
    }
    grams = {name: gram_of(label) for name, label in reduced.items() if num_structures[name] >= MIN_STRUCTURES}
    return {name: gram for name, gram in grams.items() if gram is not None}


def _stress_sentence(factor: float, volume: float) -> str:
    """What would make stresses so many times too large in cells of a volume in Angstrom^3, and the cure."""
    causes = {
        1 / value: f"as if they were in {unit}; name stress_unit={unit!r}"
        for unit, value in STRESS_UNITS_EV_PER_ANGSTROM3.items()
    }
    causes[-1.0] = "with the sign of VASP, positive under compression; name stress_unit='-eV/Angstrom^3'"
    causes[-volume] = "as virials would be; name their key virial"
    causes[volume] = "as virials of the opposite sign would be; divide them by the volume"
    causes[-1 / volume] = "as if the virials were stresses already; name their key stress"
    alike = {value: text for value, text in causes.items() if value * factor > 0}
    nearest = min(alike, key=lambda value: abs(np.log(value / factor)))
    if abs(np.log(nearest / factor)) > np.log(TOLERANCE):
        return "; correct them"
    return f", {alike[nearest]}"


def _energy_sentence(factor: float, num_atoms: Int[np.ndarray, " structure"]) -> str:
    """What would make energies so many times too large for the forces."""
    if -TOLERANCE < factor < -1 / TOLERANCE:
        return "forces point the wrong way, uphill, as a gradient does"
    causes = ENERGY_OVER_FORCES | {"energies per atom": 1 / float(np.mean(num_atoms))}
    distances = {text: abs(np.log(value / abs(factor))) for text, value in causes.items()}
    near = [text for text in sorted(causes, key=distances.__getitem__)[:2] if distances[text] < np.log(TOLERANCE)]
    because = f", as {' or '.join(near)} would" if near else ""
    return f"energies change {factor:.3g} times as much as the forces imply{because}"
