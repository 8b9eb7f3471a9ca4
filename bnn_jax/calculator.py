"""An ASE calculator that knows how far its forces can be trusted."""

import warnings
from collections.abc import Sequence

import ase
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from bnn_jax.following import Following
from bnn_jax.methods import Posterior
from bnn_jax.predict import GrowingSizes, Predictor
from bnn_jax.types import Predictive, TrustWarning

_MOST_ATOMS_NAMED = 8


class BeyondValidatedWarning(UserWarning):
    """A structure lies beyond the range in which labels could check the error bars."""


class UncertainForcesWarning(UserWarning):
    """The standard deviation of a force is larger than the calculator's threshold."""


class BNNCalculator(Calculator):
    """Posterior means as energy, forces and stress, with their standard deviations as further properties.

    ``calc.get_property`` and ``calc.results`` have

    - ``energy``, ``free_energy`` (the same), ``energies`` (each atom's, shifts included), in eV;
    - ``energy_std``, ``energy_std_aleatoric``, ``energy_std_epistemic``, in eV;
    - ``forces`` [atom, 3], ``forces_std`` [atom, 3], ``forces_std_aleatoric`` [atom] and ``forces_std_epistemic``
      [atom, 3], in eV/Angstrom;
    - ``stress`` and ``stress_std_epistemic``, in eV/Angstrom^3 and ASE's Voigt order, for a periodic structure whose
      cell has a volume;
    - ``energy_half_width`` and ``forces_half_width`` [atom, 3] of a posterior that was calibrated to intervals;
    - ``beyond_validated`` [atom] of a posterior with a validation set: whether the atom's expected error is larger than
      any that labels could check, or its neighbours are out of the range of the labelled structures. The first
      structure with such an atom warns (:class:`BeyondValidatedWarning`).

    Positions are cast to the precision of the posterior, single as a rule, about the structure's centroid; a relaxation
    below some 1e-4 eV/Angstrom asks for more digits than that has. A molecular dynamics of a fixed number of atoms
    compiles once, and again only when the number of neighbours grows by more than a quarter.

    A posterior that was judged not to be trusted warns (:class:`bnn_jax.types.TrustWarning`) when it is given.

    Args:
        posterior: from :func:`bnn_jax.fit`, :meth:`bnn_jax.Posterior.load` or :func:`bnn_jax.load_exported`.
        forces_std_threshold: warn (:class:`UncertainForcesWarning`) when a component of ``forces_std`` is larger, in
            eV/Angstrom; None never warns.
        sizes: that calculators of one system share, so that they compile once.

    Example:
        >>> import bnn_jax
        >>> "forces_std" in bnn_jax.BNNCalculator.implemented_properties
        True
    """

    implemented_properties: list[str] = [  # noqa: RUF012  (declared like this by ASE)
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "energy_std",
        "energy_std_aleatoric",
        "energy_std_epistemic",
        "forces_std",
        "forces_std_aleatoric",
        "forces_std_epistemic",
        "stress_std_epistemic",
        "energy_half_width",
        "forces_half_width",
        "beyond_validated",
    ]

    def __init__(
        self,
        posterior: Posterior | Predictor,
        *,
        forces_std_threshold: float | None = None,
        sizes: GrowingSizes | None = None,
    ):
        super().__init__()
        if posterior.verdict is not None and not posterior.verdict.is_trusted:
            warnings.warn(posterior.verdict.sentence, TrustWarning, stacklevel=2)
        self._following = Following(posterior.predictor, sizes)
        self.forces_std_threshold = forces_std_threshold
        self._was_beyond = False

    @property
    def predictor(self) -> Predictor:
        """What predicts."""
        return self._following.predictor

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results`` with every property, as ASE asks.

        Args:
            atoms: the structure; the one of the last call if None.
            properties: ignored, since one pass gives all of them.
            system_changes: what differs from the last call.

        Raises:
            InputError: an element was not in training, or two atoms are on one spot.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        assert self.atoms is not None
        predictive = self._following(self.atoms)
        self.results = _results(predictive, has_volume=bool(self.atoms.cell.rank == 3))
        self._warn_of_large_stds(predictive.forces_std.max(axis=1))
        self._warn_beyond(predictive)

    def _warn_beyond(self, predictive: Predictive) -> None:
        beyond = predictive.beyond_validated
        if beyond is None or not beyond.any() or self._was_beyond:
            return
        self._was_beyond = True
        message = (
            f"{int(beyond.sum())} of {len(beyond)} atoms lie beyond the validated range: their expected errors are"
            " larger than any of the validation set, or their neighbours unlike any in the labelled structures, and"
            " whether their error bars are right no label has checked."
        )
        warnings.warn(message, BeyondValidatedWarning, stacklevel=3)

    def _warn_of_large_stds(self, largest: np.ndarray) -> None:
        threshold = self.forces_std_threshold
        if threshold is None or (largest <= threshold).all():  # a NaN counts as large
            return
        worst_first = np.argsort(-np.nan_to_num(largest, nan=np.inf))[: int((~(largest <= threshold)).sum())]
        named = ", ".join(f"{atom} ({largest[atom]:.3g})" for atom in worst_first[:_MOST_ATOMS_NAMED])
        rest = len(worst_first) - _MOST_ATOMS_NAMED
        more = f" and {rest} more" if rest > 0 else ""
        message = f"The forces_std exceeds {threshold:g} eV/Å at atoms {named}{more}."
        warnings.warn(message, UncertainForcesWarning, stacklevel=2)


def _results(predictive: Predictive, has_volume: bool) -> dict[str, float | np.ndarray]:
    """Results of one structure under ASE's names."""
    energy = float(predictive.energy[0])
    results: dict[str, float | np.ndarray] = {
        "energy": energy,
        "free_energy": energy,
        "energies": predictive.atom_energies,
        "energy_std": float(predictive.energy_std[0]),
        "energy_std_aleatoric": float(predictive.energy_std_aleatoric[0]),
        "energy_std_epistemic": float(predictive.energy_std_epistemic[0]),
        "forces": predictive.forces,
        "forces_std": predictive.forces_std,
        "forces_std_aleatoric": predictive.forces_std_aleatoric,
        "forces_std_epistemic": predictive.forces_std_epistemic,
    }
    if predictive.energy_half_width is not None:
        results["energy_half_width"] = float(predictive.energy_half_width[0])
    if predictive.forces_half_width is not None:
        results["forces_half_width"] = predictive.forces_half_width
    if predictive.beyond_validated is not None:
        results["beyond_validated"] = predictive.beyond_validated
    if has_volume and predictive.stress is not None and predictive.stress_std_epistemic is not None:
        results["stress"] = full_3x3_to_voigt_6_stress(predictive.stress[0])
        results["stress_std_epistemic"] = full_3x3_to_voigt_6_stress(predictive.stress_std_epistemic[0])
    return results
