"""A posterior as a compiled program inside LAMMPS, on many processes: ``pair_style jax/kk`` of the lammps-jax plugin.

A bundle has energies and forces and no channel for error bars. Where those are wanted, write one for each sample and
take them along the trajectory with LAMMPS's ``rerun``, or its frames to ``bnn-jax predict``.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import ase.data
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.compose import Edges
from bnn_jax.compose.edges import graph_of
from bnn_jax.methods import Posterior
from bnn_jax.types import InputError


def write_bundle(
    posterior: Posterior,
    path: str | Path,
    elements: Sequence[str],
    max_atoms: int,
    max_pairs: int,
    sample: int | None = None,
    platform: Literal["cpu", "cuda"] = "cuda",
) -> Path:
    """Write a program of fixed size for LAMMPS, with ``units metal`` and Newton's third law on.

    Each process needs the atoms around its own as far as the network sees, ``num_blocks`` times the cutoff, as ghosts;
    the plugin asks LAMMPS for them. Energies are above the atomic shifts (``Statistics.shifts``).

    Args:
        posterior: samples and their network.
        path: of the file to write.
        elements: chemical symbols of atom types 1, 2 and so on.
        max_atoms: of one process, ghosts included.
        max_pairs: likewise, of atoms within the cutoff, each pair counted once.
        sample: number of the one whose energy it is; the mean of all if not given.
        platform: that the program will run on.

    Returns:
        The path.

    Raises:
        InputError: lammps-jax is not installed, a type has no element or one that was not in training, there is no such
            sample or platform, a size is not positive, or the file cannot be written.
    """
    try:
        from lammps_jax.export import export_model  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("A bundle for LAMMPS needs lammps-jax; pip install 'bnn_jax[engines]'.") from error
    if min(max_atoms, max_pairs) < 1:
        raise InputError(f"max_atoms is {max_atoms} and max_pairs {max_pairs}; both must be at least 1.")
    if platform not in ("cpu", "cuda"):
        raise InputError(f"There is no platform {platform!r:.20}; choose cpu or cuda.")
    bundle = export_model(
        energy_fn=atom_energies_fn(posterior, elements, max_atoms, sample, platform),
        path=os.devnull,  # what it writes by itself could be left half written
        max_atoms=max_atoms,
        max_edges=max_pairs,
        cutoff=posterior.config.model.cutoff,
        unit_style="metal",
        newton="on",
        n_hops=num_hops(posterior),
        half_edges=True,
        n_species=len(elements),
        platform=platform,
    )
    write_text_atomic(path, json.dumps(bundle, indent=2, sort_keys=True) + "\n")
    return Path(path)


def num_hops(posterior: Posterior) -> int:
    """How many cutoffs around its own atoms a process must know; two for a network of one block, as the format has it.

    Args:
        posterior: whose network counts.
    """
    return max(posterior.config.model.num_blocks, 2)


def atom_energies_fn(
    posterior: Posterior, elements: Sequence[str], max_atoms: int, sample: int | None, platform: str
) -> Any:
    """``fn(positions, species, graph)``: energies of all atoms, as lammps-jax asks for them.

    ``species`` counts LAMMPS's types from zero, and ``graph`` has ``senders`` and ``receivers`` of each pair once, the
    pairs that there are first, and ``edge_mask``, whether there is one. Ghosts are atoms like others.

    Args:
        posterior: samples and their network.
        elements: chemical symbols of the types.
        max_atoms: rows of the positions.
        sample: number of one, or None for the mean.
        platform: ``cpu`` or ``cuda``.

    Raises:
        InputError: as :func:`write_bundle`.
    """
    known = posterior.statistics.species
    for name in elements:
        if ase.data.atomic_numbers.get(name) not in known:
            symbols = ", ".join(ase.data.chemical_symbols[number] for number in known)
            raise InputError(f"{name!r:.20} is no element that the potential knows; it knows {symbols}.")
    predictor = posterior.predictor if sample is None else posterior.predictor.of_sample(sample)
    species_of_type = jnp.array([known.index(ase.data.atomic_numbers[name]) for name in elements], jnp.int32)
    at_once = 1 if platform == "cpu" else predictor.num_samples

    def atom_energies(positions: Float[Array, "atom 3"], species: Int[Array, " atom"], graph: Any) -> Array:
        none = jnp.int32(max_atoms)
        edges = Edges(
            senders=jnp.where(graph.edge_mask, graph.senders, none),
            receivers=jnp.where(graph.edge_mask, graph.receivers, none),
            shifts=jnp.zeros((len(graph.senders), 3), jnp.int32),
            num_pairs=jnp.sum(graph.edge_mask, dtype=jnp.int32),
            overflow=jnp.array(False),
            positions=positions,
            cell=jnp.zeros((3, 3), positions.dtype),
        )
        types = jnp.clip(species, 0, len(elements) - 1)  # rows without an atom may hold anything
        whole = graph_of(species_of_type[types], positions, None, edges)
        prediction = predictor.apply_samples(predictor.samples, whole, at_once)
        return prediction.atom_energies.mean(axis=0)[:max_atoms]

    return atom_energies
