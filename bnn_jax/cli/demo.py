"""``bnn-jax demo``: from the packaged ammonia data to error bars, in a few minutes on a laptop."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.sources import load
from bnn_jax.cli import fit
from bnn_jax.cli.commands import Demo, Fit
from bnn_jax.report import energy_path, save


def run(command: Demo) -> None:
    """Fit, evaluate and plot; an earlier demo in the same folder is continued.

    Raises:
        InputError: the folder holds something else, or cannot be written.
        DivergenceError: a chain's state is no longer finite.
    """
    out = Path(command.out)
    if (out / "run.json").exists():
        print(f"{out} holds a demo already, which is continued or finished.")
    posterior = fit.run(
        Fit(
            data=("ammonia",),
            out=command.out,
            preset="quick",
            valid="8",
            test="ammonia/test",
            seed=command.seed,
            resume=True,
        )
    )
    path, train = load("ammonia/path"), load("ammonia")
    plot = out / "plots" / "umbrella_inversion.png"
    if not plot.exists():
        coordinate = nitrogen_height(path)
        order, covered = np.argsort(coordinate), nitrogen_height(train)
        figure = energy_path(
            coordinate[order],
            posterior.predict(path.take(order)),
            path.energy[order],
            coordinate_label="Height of N above the plane of the three H (Å)",
            known=(float(covered.min()), float(covered.max())),
        )
        save(figure, plot)
    print(f"The energy along ammonia's umbrella inversion, with error bars: {plot}")
    print(f"Errors against error bars, validated or beyond: {out / 'plots' / 'test' / 'forces_reliability.png'}")


def nitrogen_height(molecules: Dataset) -> Float[np.ndarray, " structure"]:
    """Signed distance of N from the plane of the hydrogens of ammonia molecules (N, H, H, H), in Angstrom.

    Args:
        molecules: all with their atoms in that order, so that the sign tells the two pyramids apart.
    """
    nitrogen, *hydrogens = np.moveaxis(molecules.positions.reshape(-1, 4, 3), 1, 0)
    normal = np.cross(hydrogens[1] - hydrogens[0], hydrogens[2] - hydrogens[0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return np.sum((nitrogen - hydrogens[0]) * normal, axis=1)
