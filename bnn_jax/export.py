"""A predictor as one file: the compiled program's portable form beside the samples, free of this package's model code.

The file is a safetensors file of ``program`` (bytes of ``jax.export``, StableHLO for CPU, CUDA and TPU with symbolic
numbers of samples, atoms, pairs of edges and structures) and ``samples``. The program takes the samples by name and a
padded graph as one dictionary of arrays, those of ``AtomGraph`` (:mod:`bnn_jax.atoms.graph`):

- ``positions`` [atom, 3] in Angstrom, ``species`` int32 [atom]; ``n_node``, ``n_edge`` int32 [structure];
- ``senders``, ``receivers`` int32 [edge], ``shifts`` [edge, 3]; ``cell`` [structure, 3, 3] in Angstrom, zero for none;

and gives a dictionary of the fields of :class:`bnn_jax.types.Prediction` with a leading sample axis. JAX promises to
read such programs for six months after the version that wrote them, at least; keep the posterior itself for longer.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bnn_jax.atoms.statistics import Statistics
from bnn_jax.calibration import Calibration
from bnn_jax.checkpoint import DamagedFileError, load_arrays, read_metadata, save_tree
from bnn_jax.predict import Predictor, every_sample
from bnn_jax.types import AtomGraph, InputError, Params, PickledByFields, Prediction, Verdict
from bnn_jax.validated import ValidatedRange

FORMAT = "predictor 2"
PLATFORMS = ("cpu", "cuda", "tpu")
_AXES = {
    **dict.fromkeys(("positions", "species"), "atom"),
    **dict.fromkeys(("senders", "receivers", "shifts"), "edge"),
    **dict.fromkeys(("cell", "n_node", "n_edge"), "structure"),
}
_HARMLESS_CALLS = re.compile(r"stablehlo\.\w+|shape_assertion")
"""What a program may call by name. Others run code of the host, which a stranger's file shall not choose."""


def export(
    apply: Callable[..., Prediction],
    predictor: Predictor,
    path: str | Path,
    platforms: Sequence[str] = PLATFORMS,
) -> Path:
    """Write the predictor and the program of its potential to one file.

    Args:
        apply: ``Potential.apply``, whose samples the predictor has.
        predictor: with its samples and all that the file shall tell of them.
        path: of the file.
        platforms: that the program is lowered for.

    Returns:
        The path.

    Raises:
        InputError: it cannot be written, or a platform is unknown.
    """
    if unknown := set(platforms) - set(PLATFORMS):
        raise InputError(f"There is no platform {sorted(unknown)[0]!r}; choose among {', '.join(PLATFORMS)}.")
    samples = {
        jax.tree_util.keystr(key, simple=True, separator="/"): np.asarray(leaf)
        for key, leaf in jax.tree_util.tree_leaves_with_path(predictor.samples)
    }
    names, structure = list(samples), jax.tree.structure(predictor.samples)
    one_after_another, together = every_sample(apply), jax.vmap(apply, in_axes=(0, None))

    def program(samples: dict[str, Array], arrays: dict[str, Array]) -> dict[str, Array]:
        graph = _graph(arrays)
        prediction = jax.lax.platform_dependent(
            jax.tree.unflatten(structure, [samples[name] for name in names]),
            cpu=lambda samples: one_after_another(samples, graph, 1),
            default=lambda samples: together(samples, graph)._replace(features=None),
        )
        return {name: value for name, value in prediction._asdict().items() if value is not None}

    exported = jax.export.export(jax.jit(program), platforms=list(platforms))(*_shapes(samples))
    metadata = {
        "format": FORMAT,
        "statistics": predictor.statistics.to_json(),
        "cutoff": repr(predictor.cutoff),
        "verdict": json.dumps(None if predictor.verdict is None else predictor.verdict.to_dict()),
    }
    if predictor.calibration is not None:
        metadata["calibration"] = predictor.calibration.to_json()
    if predictor.validated is not None:
        metadata["validated"] = predictor.validated.to_json()
    path = Path(path)
    save_tree(path, {"program": np.frombuffer(exported.serialize(), np.uint8), "samples": samples}, metadata)
    return path


def is_exported(path: str | Path) -> bool:
    """Whether a file is one of :func:`export`.

    Raises:
        InputError: it cannot be read, or is damaged.
    """
    return not Path(path).is_dir() and read_metadata(path).get("format") == FORMAT


def load_exported(path: str | Path) -> Predictor:
    """Read what :func:`export` wrote; neither the model's code nor its configuration is needed.

    Only harmless programs are run: one that would call code of the host by name is refused.

    Args:
        path: of the file.

    Returns:
        The predictor, for :class:`bnn_jax.BNNCalculator` too.

    Raises:
        InputError: there is no such file, it is damaged or something else, or its program does not run on this
            machine's devices or with this version of JAX.
    """
    path = Path(path)
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} has the format {metadata.get('format')!r:.30}, not {FORMAT!r}; export it again, or load a"
            " posterior with Posterior.load."
        )
    arrays = load_arrays(path)
    try:
        program = Program(arrays.pop("['program']").tobytes())
        exported = program.exported
        called = set(re.findall(r"stablehlo\.custom_call @([\w.]+)", str(exported.mlir_module())))
        statistics, cutoff = Statistics.from_json(metadata["statistics"]), float(metadata["cutoff"])
        verdict = json.loads(metadata["verdict"])
        verdict = None if verdict is None else Verdict.from_dict(verdict)
        calibration = Calibration.from_json(metadata["calibration"]) if "calibration" in metadata else None
        validated = ValidatedRange.from_json(metadata["validated"]) if "validated" in metadata else None
    except Exception as error:  # whatever the reader of a foreign format raises
        raise DamagedFileError(
            f"{path} holds no program that this version of JAX reads ({error!r:.200}); export it again."
        ) from error
    if strange := sorted(name for name in called if not _HARMLESS_CALLS.fullmatch(name)):
        raise InputError(f"The program of {path} calls {strange[0]:.50} of the host; export the posterior again.")
    samples = {name[len("['samples']['") : -2]: array for name, array in arrays.items()}
    if np.result_type(*samples.values()) == np.float64 and not jax.config.read("jax_enable_x64"):
        raise InputError(f"{path} is in float64, which this process does not use; set jax_enable_x64.")
    _check_devices(path, exported.platforms)
    return Predictor(program, samples, statistics, cutoff, verdict, calibration, validated)


def _check_devices(path: Path, platforms: Sequence[str]) -> None:
    platform = "cuda" if jax.default_backend() == "gpu" else jax.default_backend()
    if platform not in platforms:
        raise InputError(
            f"{path} was exported for {', '.join(platforms)} and JAX computes on {platform}; export it for that."
        )


@dataclass(frozen=True)
class Program(PickledByFields):
    """``apply_samples`` of a file: for so many samples at a time; unlike what it calls it can be pickled."""

    serialized: bytes

    @cached_property
    def exported(self) -> jax.export.Exported:
        """What JAX makes of it."""
        return jax.export.deserialize(bytearray(self.serialized))

    def __call__(self, samples: Params, graph: AtomGraph, at_once: int | None = None) -> Prediction:
        arrays, call = _arrays(graph), self.exported.call
        num_samples = jax.tree.leaves(samples)[0].shape[0]
        at_once = min(at_once or num_samples, num_samples)
        num_whole = num_samples // at_once * at_once
        whole = jax.tree.map(lambda leaf: leaf[:num_whole].reshape(-1, at_once, *leaf.shape[1:]), samples)
        fields = jax.lax.map(lambda chunk: call(chunk, arrays), whole)
        fields = {name: value.reshape(num_whole, *value.shape[2:]) for name, value in fields.items()}
        if num_whole < num_samples:
            rest = call(jax.tree.map(lambda leaf: leaf[num_whole:], samples), arrays)
            fields = {name: jnp.concatenate([value, rest[name]]) for name, value in fields.items()}
        return Prediction(**fields, features=None)


def _shapes(samples: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Abstract arguments of the program, with a symbol for every number that the program does not fix."""
    sample, atom, pair, structure = jax.export.symbolic_shape(
        "sample, atom, pair, structure", constraints=["sample >= 1", "atom >= 2", "pair >= 1", "structure >= 2"]
    )
    sizes = {"atom": atom, "edge": 2 * pair, "structure": structure}
    dtype = next(iter(samples.values())).dtype
    rest = {"positions": ((3,), dtype), "shifts": ((3,), dtype), "cell": ((3, 3), dtype)}
    arrays = {}
    for name, axis in _AXES.items():
        shape, kind = rest.get(name, ((), np.int32))
        arrays[name] = jax.ShapeDtypeStruct((sizes[axis], *shape), kind)
    stacked = {name: jax.ShapeDtypeStruct((sample, *array.shape[1:]), array.dtype) for name, array in samples.items()}
    return stacked, arrays


def _arrays(graph: AtomGraph) -> dict[str, Array]:
    """A graph as the program takes it: plain, and always with a cell."""
    positions, num_structures = graph.nodes["positions"], graph.n_node.shape[0]
    no_cell = jnp.zeros((num_structures, 3, 3), positions.dtype)
    return {
        **graph.nodes,
        **graph.edges,
        "cell": graph.globals.get("cell", no_cell),
        "senders": graph.senders,
        "receivers": graph.receivers,
        "n_node": graph.n_node,
        "n_edge": graph.n_edge,
    }


def _graph(arrays: dict[str, Array]) -> AtomGraph:
    """The inverse of :func:`_arrays`."""
    return AtomGraph(
        nodes={name: arrays[name] for name in ("species", "positions")},
        edges={"shifts": arrays["shifts"]},
        globals={"cell": arrays["cell"]},
        **{name: arrays[name] for name in ("senders", "receivers", "n_node", "n_edge")},
    )
