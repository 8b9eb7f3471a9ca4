"""Second derivatives of the energy by atoms and strain, exact, in one compilation for all samples."""

from collections.abc import Callable

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bnn_jax.compose import samples_fn
from bnn_jax.predict import Predictor
from bnn_jax.types import Params

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Components of a strain in Voigt's order; shears are counted double (engineering strains)."""
HessianFn = Callable[[Predictor, ase.Atoms], Float[np.ndarray, "row row"]]


def hessian_fn(predictor: Predictor, atoms: ase.Atoms, *, with_strain: bool = False) -> HessianFn:
    """``fn(one, atoms)``: second derivatives of the energy at a structure by its coordinates, atom by atom.

    Args:
        predictor: that samples come from.
        atoms: like those that the function is called with; how many neighbours there may be is that of these and a half
            more.
        with_strain: six rows and columns of Voigt's strains in front; units are then eV, eV/Angstrom and
            eV/Angstrom^2.

    Returns:
        A function of the predictor of one sample (:meth:`bnn_jax.Predictor.of_sample`) and atoms.
    """
    predict, num_strains = samples_fn(predictor, atoms, headroom=0.5), 6 * with_strain

    def energy(moves: Array, samples: Params, positions: Array, cell: Array) -> Array:
        strain, moved = jnp.zeros((3, 3)), positions + moves[num_strains:].reshape(-1, 3)
        for (i, j), value in zip(VOIGT, moves[:num_strains], strict=False):
            strain = strain.at[i, j].add(value / 2).at[j, i].add(value / 2)
        deform = jnp.eye(3) + strain
        return predict(moved @ deform, cell @ deform, None, samples).energy[0, 0]

    @jax.jit
    def hessian(samples: Params, positions: Array, cell: Array) -> Array:
        here = jnp.zeros(num_strains + positions.size)
        gradient = jax.grad(energy)
        # Rows one after another on a CPU, where several at a time are no faster and take as much more memory.
        at_once = None if jax.default_backend() == "cpu" else 16
        row = lambda tangent: jax.jvp(lambda x: gradient(x, samples, positions, cell), (here,), (tangent,))[1]  # noqa: E731
        return jax.lax.map(row, jnp.eye(len(here)), batch_size=at_once)

    def of(one: Predictor, atoms: ase.Atoms) -> np.ndarray:
        found = hessian(one.samples, jnp.asarray(atoms.positions), jnp.asarray(atoms.cell.array))
        values = np.asarray(found, np.float64)
        return (values + values.T) / 2

    return of
