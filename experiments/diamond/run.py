"""Diamond from a posterior of strained crystals: cold curve, elastic constants and phonons, each with an error bar.

From the repository's root, with a folder of labelled files as ``shared/data`` has them::

    python experiments/diamond/run.py --data FOLDER --out runs/diamond --minutes 10

Trained on 200 strained diamond and 200 strained graphite cells and 20 amorphous structures of C-GAP-17 (LDA); nothing
that is computed was trained on. Beside it stand measured values, which LDA itself misses by a few per cent. A killed
run continues when it is started again.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# XLA runs the small arrays of one chain on one core: each core is a device. The choice must precede JAX.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count()))

import ase
import ase.build
import numpy as np

import bnn_jax
from bnn_jax import properties
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.properties import Propagated
from bnn_jax.report import save
from bnn_jax.report.property_plots import cold_curve_plot, dispersion_plot

FILES = ("carbon_gap17/train_bulk_cryst", "carbon_gap17/train_bulk_amo_20")
NUM_TRAIN, NUM_VALID = 378, 42
SIDE = 3.53
"""Angstrom, to start from: LDA's, about a per cent below the measured one."""
THZ_PER_WAVE_NUMBER = 0.0299792458
MEASURED = {
    "side, Å": 3.567,
    # H. J. McSkimin, P. Andreatch, J. Appl. Phys. 43, 2944 (1972)
    "C11, GPa": 1079.0,
    "C12, GPa": 124.0,
    "C44, GPa": 578.0,
    "bulk modulus, GPa": 442.0,
    # J. L. Warren et al., Phys. Rev. 158, 805 (1967), as listed by P. Pavone et al., Phys. Rev. B 48, 3156 (1993); 1/cm
    **{
        f"{name}, THz": THZ_PER_WAVE_NUMBER * wave_number
        for name, wave_number in (
            ("optical at Γ", 1332.0),
            ("TA at X", 807.0),
            ("TO at X", 1072.0),
            ("LA, LO at X", 1185.0),
            ("TA at L", 550.0),
            ("LA at L", 1029.0),
            ("TO at L", 1206.0),
            ("LO at L", 1252.0),
        )
    },
}
BRANCHES = {
    "G": {"optical at Γ": 5},
    "X": {"TA at X": 0, "TO at X": 2, "LA, LO at X": 4},
    "L": {"TA at L": 0, "LA at L": 2, "TO at L": 3, "LO at L": 5},
}
"""Place of a branch among the six at a point, ascending."""


class Row(NamedTuple):
    """A quantity of the table."""

    name: str
    mean: float
    std: float


def fitted(data: Path, out: Path, minutes: float, seed: int) -> bnn_jax.Posterior:
    """The posterior, from the folder or made there."""
    crystals = bnn_jax.load([str(data / f"{name}.xyz.gz") for name in FILES])
    train, valid = crystals.split(train=NUM_TRAIN, valid=NUM_VALID, seed=seed)
    config = bnn_jax.Config.preset("quick")
    return bnn_jax.fit(train, valid, config, seed, out / "run", minutes=minutes, resume=True, allow_missing_labels=True)


def computed(posterior: bnn_jax.Posterior, out: Path) -> list[Row]:
    """Every quantity, and the pictures."""
    start = ase.build.bulk("C", "diamond", a=SIDE)
    at_rest = properties.relaxed_geometry(posterior, start, max_force=0.005, cell=True)
    sides = np.cbrt(4 * np.abs(np.linalg.det(at_rest.draws["cell"])))  # a primitive cell is a quarter of the cube
    crystal = ase.build.bulk("C", "diamond", a=float(sides.mean()))
    curve = properties.cold_curve(posterior, crystal, crystal.get_volume() * np.linspace(0.85, 1.15, 13))
    save(cold_curve_plot(curve), out / "cold_curve.png")
    constants = properties.elastic_constants(posterior, crystal)
    modulus = properties.equation_of_state(curve).bulk_modulus
    rows = [Row("side, Å", float(sides.mean()), float(sides.std(ddof=1)))]
    rows += [
        Row(f"C{i + 1}{j + 1}, GPa", float(constants.mean[i, j]), float(constants.std[i, j]))
        for i, j in ((0, 0), (0, 1), (3, 3))
    ]
    rows += [Row("bulk modulus, GPa", float(modulus.mean), float(modulus.std))]
    dispersion = properties.phonons(posterior, crystal, (4, 4, 4), path="GXWGL", num_points=120)
    save(dispersion_plot(dispersion), out / "phonons.png")
    places = {name: int(np.argmin(np.abs(dispersion.distances - place))) for place, name in dispersion.labels}
    return rows + [
        row for point, names in BRANCHES.items() for row in _at(dispersion.frequencies, places[point], names)
    ]


def _at(frequencies: Propagated, place: int, names: Mapping[str, int]) -> list[Row]:
    mean, std = frequencies.mean[place], frequencies.std[place]
    return [Row(f"{name}, THz", float(mean[band]), float(std[band])) for name, band in names.items()]


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| quantity | posterior | measured | difference | in stds |", "|---|---:|---:|---:|---:|"]
    for name, mean, std in rows:
        measured = MEASURED[name]
        apart = f"{mean / measured - 1:+.1%} | {(mean - measured) / std:+.1f}"
        lines.append(f"| {name} | {mean:.4g} ± {std:.2g} | {measured:.4g} | {apart} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run, the pictures and the table")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    posterior = fitted(options.data, options.out, options.minutes, options.seed)
    assert posterior.verdict is not None
    text = f"{posterior.verdict.sentence}\n\n{table(computed(posterior, options.out))}\n"
    write_text_atomic(options.out / "table.md", text)
    print(text)


if __name__ == "__main__":
    main()
