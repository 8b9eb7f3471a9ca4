"""Rigidities of all weights against those of the last layer, as estimates of the errors of energies and forces.

The paper takes the last layer because the Hessian of all weights was out of reach (Chong et al. 2024, section 2.3).
Here both are exact, on the same networks.

From the repository's root::

    python experiments/rigidity/full_width.py

A killed run continues when it is started again; what is finished is not computed twice.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
from pieces import data_folder, environment, read_results, run_command

import bnn_jax
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.metrics import (
    bootstrap_difference,
    bootstrap_interval,
    error_percentile,
    gaussian_log_likelihood,
    mean_squared_z_score,
    outlier_auroc,
    spearman,
)
from bnn_jax.report import to_json
from bnn_jax.rigidity import (
    Network,
    SquareLoss,
    Weights,
    all_weights,
    calibration_factor,
    gauss_newton_matrix,
    jacobians,
    last_layer,
    outputs,
    weighted_rows,
)
from bnn_jax.rigidity.gauss_newton import absolute_zeta
from bnn_jax.units import EV_PER_KCAL_PER_MOL

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

NUM_NETWORKS = 3
NUM_FEATURES = 8
"""Of the preset ``tiny``: the weights of the energy readout."""
ZETAS = np.geomspace(1e-5, 10, 13)
"""Regularisers to choose from, in units of the root of the Hessian's mean diagonal element.

What a smaller one would tell apart, the rounding of the derivatives blurs.
"""
FORMS: dict[str, Callable[[Network], Weights]] = {"last layer": last_layer, "all weights": all_weights}
QUANTITIES = ("energy", "forces")
OUTLIERS = 80.0
"""Percentile of errors above which lie those that are to be found, of each test set."""
NUM_BINS = 20
FIGURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "Spearman": lambda errors, stds: spearman(np.abs(errors), stds),
    "ROC-AUC": lambda errors, stds: outlier_auroc(errors, stds, error_percentile(errors, OUTLIERS)),
    "MLL": lambda errors, stds: gaussian_log_likelihood(errors, stds, np.zeros_like(errors)),
    "mean squared z": mean_squared_z_score,
}


class Source(NamedTuple):
    """Where a data set lies and how much of it is used."""

    train: str
    num_train: int
    num_valid: int
    tests: dict[str, tuple[str, int]]
    """File and number of structures by the name of the test set."""

    @property
    def files(self) -> list[str]:
        """All files, below the reference data."""
        return [self.train, *(file for file, _ in self.tests.values())]


SETS = {
    "ethanol": Source("rmd17/ethanol/train.xyz.gz", 400, 100, {"ethanol": ("rmd17/ethanol/test.xyz.gz", 300)}),
    "3BPA": Source(
        "3bpa/train_300K.xyz.gz",
        400,
        100,
        {
            "300 K": ("3bpa/test_300K.xyz.gz", 150),
            "600 K": ("3bpa/test_600K.xyz.gz", 150),
            "1200 K": ("3bpa/test_1200K_from_mixedT.xyz.gz", 150),
        },
    ),
}


class Parts(NamedTuple):
    """The data of one set."""

    train: bnn_jax.Dataset
    valid: bnn_jax.Dataset
    tests: dict[str, bnn_jax.Dataset]


class Rows(NamedTuple):
    """Derivatives by the weights of all energies and of all force components of a data set."""

    energy: np.ndarray
    forces: np.ndarray


class Spectrum(NamedTuple):
    """Of a Hessian without a regulariser, so that one factorisation serves all regularisers."""

    values: np.ndarray
    """Eigenvalues, none below zero."""
    vectors: np.ndarray
    """Their vectors, one a column."""

    def squares(self, rows: np.ndarray) -> np.ndarray:
        """Squared lengths [row, eigenvalue] of derivatives along the vectors."""
        return np.square(rows @ self.vectors)

    def variances(self, squares: np.ndarray, zeta: float) -> np.ndarray:
        """One over the rigidities (Chong et al. 2024, table 1), from :meth:`squares`.

        Args:
            squares: of the derivatives.
            zeta: relative.
        """
        absolute = absolute_zeta(zeta, float(self.values.sum()), len(self.values))
        return squares @ (1 / (self.values + absolute**2))


class Estimate(NamedTuple):
    """How errors of one quantity are estimated by one Hessian."""

    zeta: float
    """Relative."""
    alpha: float


def read_parts(source: Source, root: Path, seed: int = 0) -> Parts:
    """Training, validation and test structures.

    Raises:
        InputError: a file holds too few structures.
    """
    train, valid = bnn_jax.load(root / source.train, require_labels=True).split(
        train=source.num_train, valid=source.num_valid, seed=seed
    )
    tests = {
        name: bnn_jax.load(root / file, require_labels=True).split(test=number, seed=seed)[0]
        for name, (file, number) in source.tests.items()
    }
    return Parts(train, valid, tests)


def configuration(num_steps: int, num_features: int) -> bnn_jax.Config:
    """Networks trained side by side on absolute errors, as a deep ensemble's members are."""
    config = bnn_jax.Config.preset("tiny")
    model = dataclasses.replace(config.model, num_features=num_features)
    ensemble = dataclasses.replace(config.ensemble, num_members=NUM_NETWORKS, loss="absolute")
    trainer = dataclasses.replace(config.trainer, num_steps=num_steps, patience=num_steps)
    return dataclasses.replace(config, method="ensemble", model=model, ensemble=ensemble, trainer=trainer)


def square_loss(config: bnn_jax.Config) -> SquareLoss:
    """The weights of the training's absolute errors, for square ones in eV."""
    trainer = config.trainer
    return SquareLoss(*(weight / EV_PER_KCAL_PER_MOL**2 for weight in (trainer.energy_weight, trainer.forces_weight)))


def rows_of(network: Network, weights: Weights, dataset: bnn_jax.Dataset) -> Rows:
    """Derivatives of all predictions of a data set, structure after structure."""
    found = list(jacobians(network, weights, dataset, outputs(network, QUANTITIES)))
    return Rows(
        np.vstack([each.rows["energy"] for each in found]),
        np.vstack([each.rows["forces"].reshape(-1, len(weights.vector)) for each in found]),
    )


def errors_of(posterior: bnn_jax.Posterior, k: int, dataset: bnn_jax.Dataset) -> dict[str, np.ndarray]:
    """Predictions of network k minus labels, in eV and eV/Angstrom."""
    samples = jax.tree.map(lambda leaf: leaf[k : k + 1], posterior.samples)
    found = dataclasses.replace(posterior, samples=samples, num_chains=1).predict(dataset)
    return {"energy": found.energy - dataset.energy, "forces": (found.forces - dataset.forces).ravel()}


def spectrum_of(matrix: np.ndarray) -> Spectrum:
    """Of the Hessian without a regulariser."""
    values, vectors = np.linalg.eigh(matrix)
    return Spectrum(np.maximum(values, 0.0), vectors)


def choose_estimate(spectrum: Spectrum, squares: np.ndarray, errors: np.ndarray) -> Estimate:
    """The regulariser whose calibrated stds have the highest likelihood, and its calibration.

    Args:
        spectrum: of the Hessian.
        squares: of the derivatives of the predictions of the validation set.
        errors: of the same.
    """

    def calibrated(zeta: float) -> tuple[float, float]:
        variances = spectrum.variances(squares, zeta)
        alpha = calibration_factor(errors, 1 / variances)
        return gaussian_log_likelihood(errors, alpha * np.sqrt(variances), np.zeros_like(errors)), alpha

    found = [calibrated(zeta) for zeta in ZETAS]
    best = int(np.argmax([likelihood for likelihood, _ in found]))
    return Estimate(float(ZETAS[best]), found[best][1])


def judge(posterior: bnn_jax.Posterior, k: int, parts: Parts) -> dict[str, np.ndarray]:
    """Errors of one network on the test sets and the stds that both Hessians give, by name."""
    network, loss = posterior.network(k), square_loss(posterior.config)
    valid_errors = errors_of(posterior, k, parts.valid)
    found = {
        f"{test}/{name}/error": errors
        for test, dataset in parts.tests.items()
        for name, errors in errors_of(posterior, k, dataset).items()
    }
    for form, choose in FORMS.items():
        weights = choose(network)
        derivatives = jacobians(network, weights, parts.train, outputs(network, loss.names))
        matrix = gauss_newton_matrix(weighted_rows(derivatives, parts.train, np.zeros(len(parts.train)), loss))
        spectrum = spectrum_of(matrix)
        valid_rows = rows_of(network, weights, parts.valid)
        estimates = {
            name: choose_estimate(spectrum, spectrum.squares(getattr(valid_rows, name)), valid_errors[name])
            for name in QUANTITIES
        }
        for name, estimate in estimates.items():
            found[f"{name}/{form}/zeta"], found[f"{name}/{form}/alpha"] = map(np.array, estimate)
        for test, dataset in parts.tests.items():
            rows = rows_of(network, weights, dataset)
            for name, (zeta, alpha) in estimates.items():
                variances = spectrum.variances(spectrum.squares(getattr(rows, name)), zeta)
                found[f"{test}/{name}/{form}"] = alpha * np.sqrt(variances)
    return found


def structures_of(dataset: bnn_jax.Dataset, quantity: str) -> np.ndarray:
    """The structure of each energy or force component."""
    index = np.arange(len(dataset))
    return index if quantity == "energy" else np.repeat(index, 3 * dataset.num_atoms)


def compare(arrays: list[dict[str, np.ndarray]], test: str, quantity: str, owners: np.ndarray, resamples: int) -> dict:
    """Figures of both forms, their differences, and the rank correlation of the two, mean over networks.

    Args:
        arrays: of each network.
        test: name of the test set.
        quantity: energy or forces.
        owners: structure of each element.
        resamples: of the structures, for the intervals.
    """

    def mean_of(figure: Callable, form: str) -> Callable[[np.ndarray], float]:
        pairs = [(each[f"{test}/{quantity}/error"], each[f"{test}/{quantity}/{form}"]) for each in arrays]
        return lambda index: float(np.mean([figure(errors[index], stds[index]) for errors, stds in pairs]))

    table: dict[str, Any] = {}
    for name, figure in FIGURES.items():
        by_form = {form: mean_of(figure, form) for form in FORMS}
        found = {form: bootstrap_interval(each, owners, resamples)[:3] for form, each in by_form.items()}
        first, second = by_form["all weights"], by_form["last layer"]
        table[name] = found | {"difference": bootstrap_difference(first, second, owners, resamples)[:3]}
    table["agreement"] = [
        spearman(each[f"{test}/{quantity}/last layer"], each[f"{test}/{quantity}/all weights"]) for each in arrays
    ]
    errors = [each[f"{test}/{quantity}/error"] for each in arrays]
    table["MAE"] = [float(np.abs(each).mean()) for each in errors]
    for form in FORMS:
        table[f"zeta, {form}"] = [float(each[f"{quantity}/{form}/zeta"]) for each in arrays]
    return table


def binned(errors: np.ndarray, stds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Root mean variance and root mean square error in bins of equal count by the std."""
    parts = np.array_split(np.argsort(stds), NUM_BINS)
    return tuple(np.array([np.sqrt(np.mean(values[part] ** 2)) for part in parts]) for values in (stds, errors))


def draw(arrays: dict[str, list[dict[str, np.ndarray]]], sets: dict[str, Source], out: Path) -> None:
    """Error against estimate, of every test set and both quantities, as ``full_width.png``."""
    panels = [(name, test) for name in arrays for test in sets[name].tests]
    figure, axes = plt.subplots(2, len(panels), figsize=(3 * len(panels), 6), squeeze=False, layout="constrained")
    for column, (name, test) in enumerate(panels):
        for axis, quantity in zip(axes[:, column], QUANTITIES, strict=True):
            for form, marker in zip(FORMS, "os", strict=True):
                for k, each in enumerate(arrays[name]):
                    stds, errors = binned(each[f"{test}/{quantity}/error"], each[f"{test}/{quantity}/{form}"])
                    colour = "C0" if form == "last layer" else "C1"
                    label = form if k == 0 else None
                    axis.loglog(stds * 1e3, errors * 1e3, marker, color=colour, ms=3, alpha=0.7, label=label)
            low, high = np.array([axis.get_xlim(), axis.get_ylim()]).T
            ends = min(low), max(high)
            axis.plot(ends, ends, "k-", lw=0.8)
            axis.set(xlim=ends, ylim=ends, aspect="equal")
            unit = "meV" if quantity == "energy" else "meV/Å"
            axis.set_xlabel(f"estimated std, {unit}")
            for each in (axis.xaxis, axis.yaxis):
                each.set_major_locator(LogLocator(subs=(1, 2, 5)))
                each.set_major_formatter(ScalarFormatter())
                each.set_minor_formatter(NullFormatter())
        axes[0, column].set_title(name if name == test else f"{name}, {test}", fontsize=10)
    for axis, quantity in zip(axes[:, 0], QUANTITIES, strict=True):
        unit = "meV" if quantity == "energy" else "meV/Å"
        axis.set_ylabel(f"RMSE of the {quantity} in the bin, {unit}")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(out / "full_width.png", dpi=90)
    plt.close(figure)


def table_of(results: dict[str, dict[str, Any]]) -> str:
    """Markdown, a line for each form of each quantity of each test set."""
    names = list(FIGURES)
    lines = [f"| test set | quantity | MAE, meV or meV/Å | form | {' | '.join(names)} | agreement |"]
    lines.append("|---|---|---:|---|" + "---:|" * (len(names) + 1))
    for title, table in results.items():
        test, quantity = title.split("/")
        for form in (*FORMS, "difference"):
            cells = ["{:.3g} [{:.3g}, {:.3g}]".format(*table[name][form]) for name in names]
            agreement = f"{np.mean(table['agreement']):.2f}" if form == "all weights" else ""
            mae = f"{1e3 * np.mean(table['MAE']):.3g}" if form == "last layer" else ""
            lines.append(f"| {test} | {quantity} | {mae} | {form} | {' | '.join(cells)} | {agreement} |")
    return "\n".join(lines) + "\n"


class Settings(NamedTuple):
    """Of a run."""

    num_steps: int
    """Of the training of each network."""
    num_features: int
    seed: int
    """Of the split, the training and the redrawing of test sets."""
    num_resamples: int = 300
    """Of each test set, for the intervals."""


def run(sets: dict[str, Source], root: Path, out: Path, settings: Settings, progress: bool) -> str:
    """Networks, rigidities, table and figure of every set; finished pieces are read again."""
    config = configuration(settings.num_steps, settings.num_features)
    parts = {name: read_parts(source, root, settings.seed) for name, source in sets.items()}
    out.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, list[dict[str, np.ndarray]]] = {}
    results: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        posterior = bnn_jax.fit(
            part.train,
            part.valid,
            config,
            settings.seed,
            out / f"networks-{name}",
            resume=True,
            progress=progress,
        )
        arrays[name] = []
        for k in range(NUM_NETWORKS):
            path = out / f"rigidities-{name}-{k}.npz"
            if not path.exists():
                print(f"{name}, network {k}: rigidities", flush=True)
                held = path.with_suffix(".part.npz")
                np.savez_compressed(held, **judge(posterior, k, part))
                held.replace(path)
            with np.load(path) as stored:
                arrays[name].append(dict(stored))
        for test, dataset in part.tests.items():
            for quantity in QUANTITIES:
                title = f"{name if name == test else f'{name}, {test}'}/{quantity}"
                owners = structures_of(dataset, quantity)
                results[title] = compare(arrays[name], test, quantity, owners, settings.num_resamples)
    draw(arrays, sets, out)
    described = {"environment": environment(), **settings._asdict(), "networks": NUM_NETWORKS, "zetas": ZETAS.tolist()}
    data = {name: part.train.fingerprint() for name, part in parts.items()}
    write_text_atomic(out / "results.json", to_json({"settings": described, "train": data, "results": results}))
    text = table_of(results)
    write_text_atomic(out / "table.md", text)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the reference data; default: $BNN_JAX_TEST_DATA")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--steps", type=int, default=10_000, help="of the training of each network")
    parser.add_argument("--features", type=int, default=NUM_FEATURES, help="of the last layer; costs grow as its cube")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the training")
    parser.add_argument("--out", type=Path, help="default: runs/rigidity-full-width-FEATURES")
    parser.add_argument("--table-only", action="store_true", help="print the table of the results in --out")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / f"rigidity-full-width-{options.features}"
    if options.table_only:
        print(table_of(read_results(out)["results"]))
        return
    sets = {name: SETS[name] for name in options.sets}
    root = data_folder(options.data, [file for source in sets.values() for file in source.files])
    print(run(sets, root, out, Settings(options.steps, options.features, options.seed), progress=True))


if __name__ == "__main__":
    run_command(main)
