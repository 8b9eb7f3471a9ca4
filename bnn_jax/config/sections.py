"""The sections of a configuration. Every number has its range beside it."""

import reprlib
from dataclasses import dataclass
from typing import Literal

from bnn_jax.config.fields import check_ranges, positive, within
from bnn_jax.types import InputError

MassName = Literal["diagonal", "kronecker"]
StdGrowth = Literal["bounded", "exponential"]
OptimizerName = Literal["amsgrad", "adam"]
RateSchedule = Literal["cosine", "plateau"]
Variant = Literal["paper", "code"]
"""Where Tan et al. (2023) print one thing and their code does another."""
MAX_LAYERS = 16
"""Hidden layers of a network."""


@dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters of the stochastic NequIP (Batzner 2022; Rensmeyer 2024, section 3.2).

    ``species``, ``avg_num_neighbors`` and ``scale`` are properties of the training set and are filled in by
    ``fit``; give them only to build a potential without one.
    """

    cutoff: float = positive(5.0, 50)
    """Cutoff radius, in Angstrom."""
    num_blocks: int = within(3, 1, 16)
    num_features: int = within(32, 1, 1024)
    """Channels of each irreducible representation."""
    l_max: int = within(1, 0, 4)
    parity: bool = True
    """Carry even and odd features of each l; otherwise only those of the spherical harmonics' parity."""
    num_bessel: int = within(8, 1, 128)
    polynomial_cutoff: int = within(6, 2, 64)
    """Exponent p of the polynomial envelope."""
    radial_hidden: tuple[int, ...] = within((64,), 1, 4096)
    """Widths of the hidden layers of the radial network."""
    layer_norm: bool = False
    species_self_connection: bool = True
    """One self-connection matrix per species; otherwise one for all."""
    std_hidden: tuple[int, ...] = within((32, 16), 1, 4096)
    """Widths of the hidden layers of the two networks that predict standard deviations."""
    std_growth: StdGrowth = "bounded"
    """How standard deviations grow far from the training data: ``exponential`` with the networks' output, as published,
    or ``bounded``: the same up to ``scale``, and never beyond ten times that (:func:`bnn_jax.model.heads.bounded`)."""
    species: tuple[int, ...] = within((), 0, 118)
    """Atomic numbers the potential knows, ascending; 0 is ASE's X, a bead of a coarse-grained model."""
    avg_num_neighbors: float = positive(1.0, 1e6)
    scale: float = positive(1.0, 1e6)
    """Unit of energies and standard deviations: the root mean square of the training forces, in eV/Angstrom."""

    def __post_init__(self) -> None:
        check_ranges(self, "model")
        for name in ("radial_hidden", "std_hidden"):
            if len(getattr(self, name)) > MAX_LAYERS:
                raise InputError(
                    f"model.{name} has {len(getattr(self, name))} widths; it must have {MAX_LAYERS} at most."
                )
        if list(self.species) != sorted(set(self.species)):
            raise InputError(
                f"model.species is {reprlib.repr(self.species)}; it must ascend and name each atomic number once."
            )


@dataclass(frozen=True)
class PosteriorConfig:
    """Prior and likelihood."""

    prior_std: float = positive(1.0, 1e6)
    """Standard deviation of the normal prior of every weight (Rensmeyer 2024, section 3.2)."""
    stress_std: float = positive(0.002, 1e6)
    """Standard deviation of a diagonal stress component, in eV/Angstrom^3, used where stress labels are given; that of
    an off-diagonal one is smaller by the root of two, so that the density does not depend on the orientation."""

    def __post_init__(self) -> None:
        check_ranges(self, "posterior")


@dataclass(frozen=True)
class SamplerConfig:
    """SGHMC with an AMSGrad mass that is frozen before the first sample (Rensmeyer 2024, algorithm 1)."""

    num_samples: int = within(8, 1, 100_000)
    """Posterior samples of each chain."""
    num_chains: int = within(1, 1, 1024)
    chains_at_once: int = within(0, 0, 1024)
    """Chains that run side by side, in groups one after another; it divides ``num_chains``. 0 runs all together."""
    batch_size: int = within(10, 1, 100_000)
    alpha: float = positive(0.1, 1)
    """Friction."""
    beta: float = within(0.999, 0, 1, "high")
    """Decay of the running mean of squared gradients."""
    stability: float = positive(1e-5, 1e6)
    """Added to the mass."""
    mass: MassName = "diagonal"
    """Diagonal in the weights, as algorithm 1 has it, or in the eigenvectors of the Kronecker factors of the squared
    gradient (:mod:`bnn_jax.sampling.kronecker`), which are learnt and frozen with it."""
    basis_every: int = within(20, 1, 10**9)
    """Steps between turns of that basis while it is learnt."""
    centre_every: int = within(20, 0, 10**9)
    """Steps between corrections of the mean error of the energies, while the mass is learnt: left to its gradient, it
    can grow large in cells of many atoms (:mod:`bnn_jax.model.start`). 0 makes none."""
    convergence_steps: int = within(10_000, 1, 10**9)
    """Steps before the first sample."""
    step_size_first: float = positive(1e-2, 1e30)
    step_size_last: float = positive(1e-5, 1e30)
    """The step size decays exponentially between these during the convergence steps."""
    freeze_fraction: float = within(0.9, 0, 1)
    """Fraction of the convergence steps after which the mass is kept constant."""
    cycle_steps: int = within(2_000, 1, 10**9)
    """Steps of a cosine cycle, from step size zero up to ``cycle_step_size`` and back; a sample ends each cycle."""
    cycle_step_size: float = positive(1e-3, 1e30)
    temperature: float = within(1.0, 0, 1e6)
    """Scales the variance of the injected noise; 1 samples the posterior."""
    warm_start_fraction: float = within(0.0, 0, 1)
    """Fraction of the convergence steps at ``warm_start_temperature`` (Rensmeyer 2024, section 5)."""
    warm_start_temperature: float = within(0.01, 0, 1e6)
    log_every: int = within(200, 1, 10**9)
    """Steps between rows of the log."""

    def __post_init__(self) -> None:
        check_ranges(self, "sampler")


@dataclass(frozen=True)
class TrainerConfig:
    """How networks are trained where a method does not sample them."""

    optimizer: OptimizerName = "amsgrad"
    batch_size: int = within(10, 1, 100_000)
    num_steps: int = within(10_000, 1, 10**9)
    """Steps of each network, at most."""
    learning_rate: float = positive(1e-2, 1e30)
    schedule: RateSchedule = "cosine"
    """``cosine`` falls to zero over ``num_steps``; ``plateau`` multiplies the rate by ``plateau_factor`` whenever the
    validation loss has not improved for ``plateau_patience`` rows of the log (Tan et al. 2023, SI section I)."""
    plateau_factor: float = within(0.5, 0, 1, "low")
    plateau_patience: int = within(10, 1, 10**9)
    patience: int = within(50, 1, 10**9)
    """Rows without improvement of the validation loss after which a network is trained no further."""
    average_decay: float = within(0.99, 0, 1, "high")
    """Of the exponential moving average of the weights, which is what is validated and kept."""
    centre_every: int = within(20, 0, 10**9)
    """As for the sampler, all along, of the networks of ensembles, dropout and IVON."""
    energy_weight: float = within(0.1, 0, 1e6)
    """Of absolute energy errors in kcal/mol (Tan et al. 2023, SI eq. 1)."""
    forces_weight: float = within(1.0, 0, 1e6)
    """Of the loss of the forces in kcal/mol/Angstrom."""
    log_every: int = within(200, 1, 10**9)
    """Steps between rows of the log, each of which has the validation loss."""

    def __post_init__(self) -> None:
        check_ranges(self, "trainer")


@dataclass(frozen=True)
class EnsembleConfig:
    """Deep ensemble."""

    num_members: int = within(8, 2, 1024)
    loss: Literal["likelihood", "absolute"] = "likelihood"
    """Minus log likelihood of stochastic networks (Rensmeyer 2024, section 4.1), or absolute errors of deterministic
    ones (Tan et al. 2023, SI eq. 1)."""
    batches: Literal["separate", "shared"] = "separate"
    """Whether each member has minibatches of its own; in Tan's code only the initial weights differ."""
    bootstrap: bool = False
    """Whether each member has a resampled training set, drawn with replacement."""

    def __post_init__(self) -> None:
        check_ranges(self, "ensemble")


@dataclass(frozen=True)
class ShallowConfig:
    """Shallow ensemble."""

    num_readouts: int = within(16, 2, 1024)
    """Linear readouts of one network."""

    def __post_init__(self) -> None:
        check_ranges(self, "shallow")


@dataclass(frozen=True)
class DropoutConfig:
    """Monte Carlo dropout."""

    rate: float = within(0.01, 0, 1, "high")
    """Probability that a channel is dropped."""
    num_passes: int = within(8, 2, 100_000)
    """Masks that the predictive averages over."""

    def __post_init__(self) -> None:
        check_ranges(self, "dropout")


@dataclass(frozen=True)
class IVONConfig:
    """Variational learning with the improved variational online Newton optimiser (Shen et al. 2024, algorithm 1).

    Batches, schedule and learning rate are those of the trainer; the rate is multiplied by the initial curvature, so
    that the first step is one of gradient descent.
    """

    num_samples: int = within(8, 2, 100_000)
    """Networks that are drawn from the normal distribution when training ends."""
    hess_init: float = positive(1000.0, 1e30)
    """Curvature h that every weight starts with, of the loss of a structure; the larger, the narrower the start."""
    beta1: float = within(0.9, 0, 1, "high")
    """Decay of the running mean of gradients."""
    beta2: float = within(0.9999, 0, 1, "high")
    """Decay of the running mean of curvatures: it forgets ``hess_init`` within some 1 / (1 - beta2) steps."""
    clip_radius: float = positive(1e-3, 1e30)
    """Bound on the Newton step of each weight, before the learning rate and the initial curvature multiply it."""

    def __post_init__(self) -> None:
        check_ranges(self, "ivon")


@dataclass(frozen=True)
class MeanVarianceConfig:
    """Mean-variance estimation."""

    variant: Variant = "paper"
    """``paper``: three components of each force with one variance; ``code``: its error's norm, as one number."""


@dataclass(frozen=True)
class EvidentialConfig:
    """Deep evidential regression."""

    variant: Variant = "paper"
    """As for mean-variance estimation."""
    regulariser: float = within(0.2, 0, 1e6)
    """Lambda of Tan et al. (2023), SI eq. 8."""

    def __post_init__(self) -> None:
        check_ranges(self, "evidential")


@dataclass(frozen=True)
class MixtureConfig:
    """Gaussian mixture on the features of the atoms."""

    num_components: int = within(0, 0, 1000)
    """0 chooses it by the Bayesian information criterion and the silhouette score."""
    max_components: int = within(8, 1, 1000)
    """Of that choice."""

    def __post_init__(self) -> None:
        check_ranges(self, "mixture")


@dataclass(frozen=True)
class LaplaceConfig:
    """Laplace approximation of the last layer."""

    zeta: float = positive(1e-3, 1e6)
    """Regulariser of the Hessian, relative to the root of its mean diagonal element."""
    num_samples: int = within(0, 0, 100_000)
    """Last layers to draw; 0 keeps the covariance itself."""

    def __post_init__(self) -> None:
        check_ranges(self, "laplace")
        if self.num_samples == 1:
            raise InputError("laplace.num_samples is 1, which has no spread; give 2 at least, or 0 for the covariance.")
