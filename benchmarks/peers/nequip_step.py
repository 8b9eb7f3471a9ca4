"""The PyTorch peer: training steps and predictions of mir-group/nequip 0.19, built through its own Python API.

Runs in an environment of its own (PyTorch and nequip; neither JAX nor ``bnn_jax``), from the repository's root::

    python -m benchmarks.peers.nequip_step --l-max 1 --num-features 32 --num-blocks 3 --batch-size 10

prints one JSON line. With ``--serve`` it answers requests of :mod:`benchmarks.peers.compare` on standard input instead.
It computes on a GPU where PyTorch sees one. Compile mode, which needs a C++ compiler on a CPU, is nequip's own: for
training ``torch.compile``, for predictions the ahead-of-time compilation of ``nequip-compile``, whose models its ASE
calculator loads.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nequip.data import AtomicDataDict
from nequip.model import NequIPGNNModel
from nequip.nn.compile import DictInputOutputWrapper
from nequip.utils.aot import aot_export_model
from nequip.utils.global_state import set_global_state

from benchmarks.peers.systems import SYSTEMS, StructureBatch, displaced_batch, species_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LABELS = (AtomicDataDict.TOTAL_ENERGY_KEY, AtomicDataDict.FORCE_KEY)
MODES = ("eager", "compile")


def build_model(
    config: dict[str, Any], seed: int = 0, dtype: str = "float32", compile_mode: str = "eager"
) -> torch.nn.Module:
    """NequIP with the hyper-parameters of a ``bnn_jax`` ``ModelConfig``, given as a dictionary of its fields.

    One more key, ``type_embed_num_features``, sets the width of the species embedding; its default is nequip's own,
    ``num_features``. The self-connections are tensor products with that embedding, where ``bnn_jax`` has a matrix per
    species: a width of the number of species gives as many weights there, but as few channels into the first layer.

    Raises:
        ValueError: nequip has no counterpart of what the configuration asks for.
    """
    widths = set(config["radial_hidden"])
    if len(widths) != 1 or config["layer_norm"] or not config["species_self_connection"]:
        raise ValueError(
            "nequip needs radial layers of one width, no layer norm and species-dependent self-connections."
        )
    set_global_state()
    return NequIPGNNModel(
        seed=seed,
        model_dtype=dtype,
        compile_mode=compile_mode,
        r_max=config["cutoff"],
        type_names=[f"Z{number}" for number in config["species"]],
        num_layers=config["num_blocks"],
        l_max=config["l_max"],
        parity=config["parity"],
        num_features=config["num_features"],
        type_embed_num_features=config.get("type_embed_num_features", config["num_features"]),
        radial_mlp_depth=len(config["radial_hidden"]),
        radial_mlp_width=widths.pop(),
        num_bessels=config["num_bessel"],
        bessel_trainable=False,
        polynomial_cutoff_p=config["polynomial_cutoff"],
        avg_num_neighbors=config["avg_num_neighbors"],
        per_type_energy_scales=config["scale"],
        per_type_energy_shifts=0.0,
    )


def to_torch(batch: StructureBatch) -> AtomicDataDict.Type:
    """The dictionary that nequip takes. Geometry and labels are float64, nequip's choice whatever the model's dtype."""
    structure_index = torch.as_tensor(batch.structure_index)
    data = {
        AtomicDataDict.POSITIONS_KEY: torch.as_tensor(batch.positions, dtype=torch.float64),
        AtomicDataDict.ATOM_TYPE_KEY: torch.as_tensor(batch.species),
        # nequip's first index is the centre that receives, its second the neighbour that sends
        AtomicDataDict.EDGE_INDEX_KEY: torch.stack([torch.as_tensor(batch.receivers), torch.as_tensor(batch.senders)]),
        AtomicDataDict.TOTAL_ENERGY_KEY: torch.as_tensor(batch.energy, dtype=torch.float64).reshape(-1, 1),
        AtomicDataDict.FORCE_KEY: torch.as_tensor(batch.forces, dtype=torch.float64),
    }
    if batch.num_structures > 1:  # nequip takes a single structure without them
        data[AtomicDataDict.BATCH_KEY] = structure_index
        data[AtomicDataDict.NUM_NODES_KEY] = torch.bincount(structure_index)
    if batch.cell.any():
        data[AtomicDataDict.CELL_KEY] = torch.as_tensor(batch.cell, dtype=torch.float64)
        data[AtomicDataDict.EDGE_CELL_SHIFT_KEY] = torch.as_tensor(batch.shifts, dtype=torch.float64)
    return AtomicDataDict.to_(data, DEVICE)


def build_step(model: torch.nn.Module, data: AtomicDataDict.Type, learning_rate: float = 1e-3) -> Callable[[], float]:
    """An Adam step on the mean squared errors of energies and forces; calling it returns the loss before the step.

    Raises:
        ValueError: a single structure, which nequip would compute without compilation, for a model to be compiled.
    """
    if getattr(model, "is_compile_graph_model", False) and AtomicDataDict.num_frames(data) < 2:
        raise ValueError("nequip's compile mode trains on a single structure as its eager mode does.")
    model.train()  # keeps the graph of the forces, so that the loss can be differentiated through them
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        output = model(data.copy())
        loss = sum(torch.mean((output[key] - data[key]) ** 2) for key in LABELS)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def build_predict(model: torch.nn.Module, data: AtomicDataDict.Type) -> Callable[[], AtomicDataDict.Type]:
    """Energies and forces of the batch, by an eager model."""
    model.eval()
    return lambda: model(data.copy())


def build_compiled_predict(model: torch.nn.Module, data: AtomicDataDict.Type) -> Callable[[], AtomicDataDict.Type]:
    """Energies and forces of the batch, by what ``nequip-compile --mode aotinductor`` makes of an eager model."""
    inputs = [key for key in data if key not in LABELS]
    structures, atoms, edges = (torch.export.Dim(name, min=2) for name in ("num_frames", "num_nodes", "num_edges"))
    if AtomicDataDict.num_frames(data) < 2:
        structures = torch.export.Dim.STATIC
    with tempfile.TemporaryDirectory() as folder:
        path = aot_export_model(
            model,
            DEVICE,
            inputs,
            list(LABELS),
            data,
            {"graph": structures, "node": atoms, "edge": edges},
            str(Path(folder) / "model.nequip.pt2"),
        )
        compiled = DictInputOutputWrapper(torch._inductor.aoti_load_package(path), inputs, list(LABELS))
    return lambda: compiled(data)


def build_call(config: dict[str, Any], task: str, system: str, batch_size: int, mode: str) -> tuple[Callable, int]:
    """What is to be timed, warm, and the number of the model's parameters.

    Args:
        config: as :func:`build_model` takes it.
        task: ``step`` or ``predict``.
        system: a name of ``SYSTEMS``.
        batch_size: number of structures.
        mode: one of :data:`MODES`.
    """
    ahead_of_time = task == "predict" and mode == "compile"
    model = build_model(config, compile_mode="eager" if ahead_of_time else mode).to(DEVICE)
    builders = {"step": build_step, "predict": build_compiled_predict if ahead_of_time else build_predict}
    call = builders[task](model, to_torch(displaced_batch(batch_size, config["cutoff"], system)))
    time_calls(call, 5)
    return call, sum(p.numel() for p in model.parameters())


def time_calls(call: Callable[[], Any], num_calls: int) -> list[float]:
    """Wall time of each of ``num_calls`` calls, in ms."""
    times = []
    for _ in range(num_calls):
        start = time.perf_counter()
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def serve() -> None:
    """Answer JSON requests, one a line, until the input ends.

    ``{"build": arguments}`` calls :func:`build_call` with them, ``{"time": task, "num_calls": n}`` times n calls of
    what was built last for the task. A failure is answered by ``{"error": text}``.
    """
    calls: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "build" in request:
                calls.pop(request["build"]["task"], None)
                call, num_parameters = build_call(**request["build"])
                calls[request["build"]["task"]] = call
                answer = {"num_parameters": num_parameters, "versions": versions()}
            else:
                answer = {"times_ms": time_calls(calls[request["time"]], request["num_calls"])}
        except Exception as error:  # the comparison goes on without this peer and says why
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(answer), flush=True)


def versions() -> dict[str, str]:
    """Versions of what was timed, its device and the number of threads."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("nequip", "torch", "e3nn")}
    return packages | {"nequip on": DEVICE, "threads": str(torch.get_num_threads())}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="answer requests of the comparison on standard input")
    parser.add_argument("--task", choices=("step", "predict"), default="step")
    parser.add_argument("--system", choices=SYSTEMS, default="ethanol")
    parser.add_argument("--l-max", type=int, default=1)
    parser.add_argument("--num-features", type=int, default=32)
    parser.add_argument("--num-blocks", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--num-calls", type=int, default=20)
    parser.add_argument("--compile-mode", choices=MODES, default="eager")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if arguments.serve:
        return serve()

    batch = displaced_batch(arguments.batch_size, 5.0, arguments.system)
    config = {
        "cutoff": 5.0,
        "num_blocks": arguments.num_blocks,
        "num_features": arguments.num_features,
        "l_max": arguments.l_max,
        "parity": True,
        "num_bessel": 8,
        "polynomial_cutoff": 6,
        "radial_hidden": [64],
        "layer_norm": False,
        "species_self_connection": True,
        "species": species_of(arguments.system),
        "avg_num_neighbors": batch.avg_num_neighbors,
        "scale": 1.0,
    }
    call, num_parameters = build_call(
        config, arguments.task, arguments.system, arguments.batch_size, arguments.compile_mode
    )
    times = time_calls(call, arguments.num_calls)
    result = {"median_ms": statistics.median(times), "min_ms": min(times), "parameters": num_parameters}
    print(json.dumps(result | versions()))


if __name__ == "__main__":
    main()
