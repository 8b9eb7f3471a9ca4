"""What every method returns: a posterior that predicts, and that one file holds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import ase
import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.graph import gather_batch, pack
from bnn_jax.atoms.statistics import Statistics
from bnn_jax.checkpoint import load_tree, read_metadata, save_tree
from bnn_jax.config import Config, ModelConfig
from bnn_jax.model import nequip
from bnn_jax.predict import build_predictor, predict
from bnn_jax.types import AtomGraph, InputError, Params, Potential, Predictive

POSTERIOR_FILE = "posterior.safetensors"
FORMAT_VERSION = "1"


def fill_model_config(config: ModelConfig, statistics: Statistics) -> ModelConfig:
    """The model's configuration with what it must know of the training set."""
    return replace(
        config,
        species=statistics.species,
        avg_num_neighbors=float(statistics.avg_num_neighbors),
        scale=float(statistics.forces_rms),
    )


def example_graph(config: ModelConfig) -> AtomGraph:
    """A graph of one atom of each species, from which parameters take their shapes."""
    atoms = Dataset.from_atoms([ase.Atoms(numbers=[number]) for number in config.species])
    packed = pack(atoms, config.cutoff, config.species, np.zeros(len(config.species)))
    return gather_batch(packed, np.arange(len(config.species)), len(config.species) + 1, 1).graph


@dataclass(frozen=True)
class Posterior:
    """Samples of the weights and all that is needed to predict with them."""

    config: Config
    """As the run had it, with the model's data-dependent fields filled in."""
    statistics: Statistics
    samples: Params
    """Parameters with a leading sample axis: the samples of the first chain, then those of the next."""
    num_chains: int
    seed: int

    @cached_property
    def potential(self) -> Potential:
        """The potential whose parameters the samples are."""
        return nequip(self.config.model)

    @cached_property
    def _predictor(self):
        return build_predictor(self.potential.apply)

    @property
    def num_samples(self) -> int:
        """Samples of all chains together."""
        return int(jax.tree.leaves(self.samples)[0].shape[0])

    def predict(self, structures: Dataset | ase.Atoms | Sequence[ase.Atoms]) -> Predictive:
        """The posterior predictive of structures; see :class:`bnn_jax.types.Predictive` for units and shapes.

        Raises:
            InputError: there is no structure, or one holds an element that was not in training.
        """
        if isinstance(structures, ase.Atoms):
            structures = [structures]
        dataset = structures if isinstance(structures, Dataset) else Dataset.from_atoms(list(structures))
        return predict(self._predictor, self.samples, dataset, self.statistics, self.config.model.cutoff)

    def save(self, path: str | Path) -> Path:
        """Write one self-describing file (``posterior.safetensors`` if ``path`` is a folder); the path is returned.

        Raises:
            InputError: it cannot be written.
        """
        path = Path(path)
        path = path / POSTERIOR_FILE if path.is_dir() else path
        statistics = self.statistics._asdict() | {"shifts": self.statistics.shifts.tolist()}
        metadata = {
            "format": FORMAT_VERSION,
            "config": self.config.to_yaml(),
            "statistics": json.dumps(statistics),
            "num_chains": str(self.num_chains),
            "num_samples": str(self.num_samples),
            "seed": str(self.seed),
        }
        save_tree(path, self.samples, metadata)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote, from the file or the run folder that holds it.

        Raises:
            InputError: there is no such file (a run that was stopped has none yet), or it is damaged.
        """
        path = Path(path)
        file = path / POSTERIOR_FILE if path.is_dir() else path
        if path.is_dir() and not file.exists():
            raise InputError(f"{path} holds no {POSTERIOR_FILE}: its run has not finished; continue it with --resume.")
        metadata = read_metadata(file)
        if metadata.get("format") != FORMAT_VERSION:
            raise InputError(
                f"{file} has posterior format {metadata.get('format')}, not {FORMAT_VERSION};"
                " use the version that wrote it."
            )
        config = Config.from_yaml_text(metadata["config"], source=str(file))
        fields = json.loads(metadata["statistics"])
        statistics = Statistics(
            tuple(fields["species"]), np.array(fields["shifts"]), fields["forces_rms"], fields["avg_num_neighbors"]
        )
        num_samples = int(metadata["num_samples"])
        graph = example_graph(config.model)
        shapes = jax.eval_shape(nequip(config.model).init, jax.random.key(0), graph)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((num_samples, *leaf.shape), leaf.dtype), shapes)
        samples = jax.tree.map(jnp.asarray, load_tree(file, like))
        return cls(config, statistics, samples, int(metadata["num_chains"]), int(metadata["seed"]))
