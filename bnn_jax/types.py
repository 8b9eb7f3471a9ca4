"""The types that every room shares, and the order of their axes: ``sample, structure | atom | edge, xyz``."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import jax
import jraph
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bnn_jax.supported import check_jax

check_jax()  # here, for every room imports this one

PRNGKey = jax.Array
Params = Any
"""A pytree of arrays. Stacked parameters carry a leading ``sample`` axis on every leaf."""

if TYPE_CHECKING:

    class AtomGraph(NamedTuple):
        """What a type checker should know of the :class:`jraph.GraphsTuple` that it is."""

        nodes: dict[str, Array]
        edges: dict[str, Array]
        receivers: Array
        senders: Array
        globals: dict[str, Array]
        n_node: Array
        n_edge: Array
else:
    AtomGraph = jraph.GraphsTuple
"""A padded batch of structures; :mod:`bnn_jax.atoms.graph` says what its fields hold."""


class Labels(NamedTuple):
    """Reference values of a padded batch. A mask of zero drops the term from the likelihood."""

    energy: Float[Array, " structure"]
    """Energy above the sum of the atomic shifts, in eV."""
    energy_mask: Bool[Array, " structure"]
    forces: Float[Array, "atom 3"]
    """Forces, in eV/Angstrom."""
    forces_mask: Bool[Array, " atom"]
    stress: Float[Array, "structure 3 3"]
    """Stress in eV/Angstrom^3, positive under tension (ASE's sign)."""
    stress_mask: Bool[Array, " structure"]


class Batch(NamedTuple):
    """A minibatch: a padded graph and its labels."""

    graph: AtomGraph
    labels: Labels


class Prediction(NamedTuple):
    """What a potential says of a padded batch at one set of parameters."""

    energy: Float[Array, " structure"]
    """Energy above the sum of the atomic shifts, in eV."""
    forces: Float[Array, "atom 3"]
    """Minus the gradient of the energy, in eV/Angstrom."""
    stress: Float[Array, "structure 3 3"] | None
    """Strain derivative of the energy over the volume, in eV/Angstrom^3; None without a cell."""
    energy_std: Float[Array, " structure"]
    """Standard deviation of the energy, in eV."""
    forces_std: Float[Array, " atom"]
    """One isotropic standard deviation per atom for its three force components, in eV/Angstrom."""
    atom_energies: Float[Array, " atom"]
    """Energy of each atom above its shift, in eV."""
    features: Float[Array, "atom feature"] | None
    """Invariant features that the readout is linear in, dimensionless; None where they were dropped to save memory."""
    energy_std_epistemic: Float[Array, " structure"] | None = None
    """What one set of parameters says of its own error, beside the noise, in eV; None where only several tell."""
    forces_std_epistemic: Float[Array, "atom 3"] | None = None
    score: Float[Array, " atom"] | None = None
    """What atoms are to be ranked by, where that is no std of the forces."""


class Potential(NamedTuple):
    """A stochastic interatomic potential as a pair of pure functions.

    A std of zero says that the potential has no such part, NaN that it says nothing of the matter.
    """

    init: Callable[[PRNGKey, AtomGraph], Params]
    """``init(rng_key, graph) -> params``."""
    apply: Callable[..., Prediction]
    """``apply(params, graph, *, rng_key=None) -> Prediction``."""
    start: Callable[[Params, Any], Params] = lambda params, _: params
    """``start(params, batch) -> params``: initial parameters from which a likelihood is learnt well, given training
    structures."""
    centre: Callable[[Params, Any], Params] = lambda params, _: params
    """``centre(params, batch) -> params``: parameters on the way whose energies of these structures are right on
    average, for while a likelihood is learnt."""


class Predictive(NamedTuple):
    """The posterior predictive of a list of structures, as host arrays.

    Atoms of all structures follow one another; ``num_atoms`` cuts them apart. The mean is that of the equal
    mixture over samples. The aleatoric variance is the mean of the samples' predicted variances, the epistemic
    variance the spread of the samples' means (ddof = 1; zero for a single sample), and the total their sum. Where the
    posterior was calibrated on a validation set, the total is what that says, and its parts are as before.

    What no label of the training set has taught is NaN. Without energies that is every ``energy_std``: the zero of the
    energies is anybody's guess, and only their differences between structures of the same atoms mean something; the
    std of such a difference is that of ``energy_samples[:, i] - energy_samples[:, j]``. Without forces it is the
    aleatoric part of ``forces_std``, and with it the total.
    """

    energy: Float[np.ndarray, " structure"]
    """Mean total energy in eV, atomic shifts included, float64."""
    energy_std: Float[np.ndarray, " structure"]
    energy_std_aleatoric: Float[np.ndarray, " structure"]
    energy_std_epistemic: Float[np.ndarray, " structure"]
    forces: Float[np.ndarray, "atom 3"]
    """Mean forces in eV/Angstrom."""
    forces_std: Float[np.ndarray, "atom 3"]
    forces_std_aleatoric: Float[np.ndarray, " atom"]
    forces_std_epistemic: Float[np.ndarray, "atom 3"]
    stress: Float[np.ndarray, "structure 3 3"] | None
    """Mean stress in eV/Angstrom^3; None unless every structure has a cell."""
    stress_std_epistemic: Float[np.ndarray, "structure 3 3"] | None
    """Spread of the stress over samples; the model has no aleatoric stress."""
    atom_energies: Float[np.ndarray, " atom"]
    """Mean energy of each atom in eV, its shift included; those of a structure add up to its energy."""
    energy_samples: Float[np.ndarray, "sample structure"]
    energy_std_samples: Float[np.ndarray, "sample structure"]
    forces_samples: Float[np.ndarray, "sample atom 3"]
    forces_std_samples: Float[np.ndarray, "sample atom"]
    num_atoms: Int[np.ndarray, " structure"]
    score: Float[np.ndarray, " atom"] | None = None
    """What atoms are ranked by, where that is not the std of their forces: the mean over samples of their scores."""
    energy_half_width: Float[np.ndarray, " structure"] | None = None
    """Half the width of the interval about the energy, in eV, where the posterior was calibrated to intervals."""
    forces_half_width: Float[np.ndarray, "atom 3"] | None = None
    """The same of force components, in eV/Angstrom."""
    beyond_validated: Bool[np.ndarray, " atom"] | None = None
    """Which atoms' expected error is larger than any that labels could check, or have neighbours out of the range of
    the labelled structures (:mod:`bnn_jax.validated`); None where there was no validation set."""
    stress_samples: Float[np.ndarray, "sample structure 3 3"] | None = None
    """None where ``stress`` is."""

    def take(self, structures: Int[np.ndarray, " chosen"]) -> Self:
        """That of some of the structures.

        Args:
            structures: their indices.
        """
        places = np.split(np.arange(self.num_atoms.sum()), np.cumsum(self.num_atoms)[:-1])
        atoms = np.concatenate([places[i] for i in structures])

        def taken(name: str, values: np.ndarray | None) -> np.ndarray | None:
            if values is None:
                return None
            axis = int(name.endswith("_samples"))
            is_of_structures = name == "num_atoms" or name.startswith(("energy", "stress"))
            return np.take(values, structures if is_of_structures else atoms, axis=axis)

        return type(self)(**{name: taken(name, values) for name, values in self._asdict().items()})  # pyright: ignore[reportArgumentType]

    @property
    def structures_beyond_validated(self) -> Bool[np.ndarray, " structure"] | None:
        """Which structures hold an atom beyond the validated range."""
        if self.beyond_validated is None:
            return None
        return np.logical_or.reduceat(self.beyond_validated, np.cumsum(self.num_atoms) - self.num_atoms)

    @property
    def forces_score(self) -> Float[np.ndarray, "atom 3"]:
        """Grows with the error that is expected of a force component: its std, or the atom's score.

        Without force labels in training that is the epistemic part of the std, the only one that is known.
        """
        if self.score is not None:
            return np.broadcast_to(self.score[:, None], self.forces.shape)
        return np.where(np.isnan(self.forces_std), self.forces_std_epistemic, self.forces_std)

    @property
    def energy_score(self) -> Float[np.ndarray, " structure"]:
        """Grows with the error that is expected of an energy: its std, or the mean score of the structure's atoms."""
        if self.score is None:
            return self.energy_std
        first = np.cumsum(self.num_atoms) - self.num_atoms
        return np.add.reduceat(self.score, first) / self.num_atoms


class Criterion(NamedTuple):
    """The answer to one question of a verdict."""

    holds: bool | None
    """None where it cannot be told."""
    sentence: str
    """What was found."""
    advice: str
    """What to do about it; empty where there is nothing to do."""
    figures: dict[str, float]
    """By name, without unit."""


class Verdict(NamedTuple):
    """Whether the error bars of a run can be trusted, for one who does not know the diagnostics."""

    is_trusted: bool
    """Whether they were found to be both calibrated and reproducible."""
    sentence: str
    """Why, or why not and what to do."""
    remarks: tuple[str, ...]
    """What else one who uses the run should know."""
    calibrated: Criterion
    """Are they right where labels were held back from training?"""
    reproducible: Criterion
    """Would another run give the same?"""
    mixed: Criterion
    """Are the samples draws of one posterior?"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        criteria = {name: getattr(self, name)._asdict() for name in ("calibrated", "reproducible", "mixed")}
        return self._asdict() | criteria | {"remarks": list(self.remarks)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From what JSON made of :meth:`to_dict`."""
        criteria = []
        for name in ("calibrated", "reproducible", "mixed"):
            each = values[name]
            holds = None if each["holds"] is None else bool(each["holds"])
            figures = {str(key): float("nan" if value is None else value) for key, value in each["figures"].items()}
            criteria.append(Criterion(holds, str(each["sentence"]), str(each["advice"]), figures))
        remarks = tuple(str(remark) for remark in values["remarks"])
        return cls(bool(values["is_trusted"]), str(values["sentence"]), remarks, *criteria)


class PickledByFields:
    """Base of dataclasses that travel to other processes without what they have cached or compiled."""

    def __getstate__(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}  # pyright: ignore[reportArgumentType]


class TrustWarning(UserWarning):
    """What is used was judged not to be trusted when it was made."""


class InputError(ValueError):
    """What the user gave cannot be used: one sentence that says what, where and what to do (exit code 2)."""


def nearest_name(name: object, known: Iterable[str]) -> tuple[str, str]:
    """What was asked for, short enough for an error's sentence, and the known name that is nearest to it.

    Args:
        name: unknown.
        known: all names, at least one.
    """
    shown = " ".join(str(name)[:40].split())
    return shown, difflib.get_close_matches(shown, known, n=1, cutoff=0.0)[0]


class InputWarning(UserWarning):
    """What the user gave can be used, but probably does not say what they mean: one sentence, as in an error."""
