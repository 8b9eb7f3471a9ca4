"""The PyTorch peer: a training step of mir-group/nequip 0.19 on the CPU, built through its own Python API.

Runs in an environment of its own (PyTorch and nequip; neither JAX nor ``bnn_jax``), from the repository's root::

    python -m benchmarks.peers.nequip_step --l-max 1 --num-features 32 --num-blocks 3 --batch-size 10

prints one JSON line. With ``--serve`` it answers requests of :mod:`benchmarks.peers.compare` on standard input instead.
"""

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from nequip.data import AtomicDataDict
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state

from benchmarks.peers.systems import SPECIES, MoleculeBatch, ethanol_batch


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


def to_torch(batch: MoleculeBatch) -> AtomicDataDict.Type:
    """The dictionary that nequip takes. Geometry and labels are float64, nequip's choice whatever the model's dtype."""
    structure_index = torch.as_tensor(batch.structure_index)
    return {
        AtomicDataDict.POSITIONS_KEY: torch.as_tensor(batch.positions, dtype=torch.float64),
        AtomicDataDict.ATOM_TYPE_KEY: torch.as_tensor(batch.species),
        # nequip's first index is the centre that receives, its second the neighbour that sends
        AtomicDataDict.EDGE_INDEX_KEY: torch.stack([torch.as_tensor(batch.receivers), torch.as_tensor(batch.senders)]),
        AtomicDataDict.BATCH_KEY: structure_index,
        AtomicDataDict.NUM_NODES_KEY: torch.bincount(structure_index),
        AtomicDataDict.TOTAL_ENERGY_KEY: torch.as_tensor(batch.energy, dtype=torch.float64).reshape(-1, 1),
        AtomicDataDict.FORCE_KEY: torch.as_tensor(batch.forces, dtype=torch.float64),
    }


def build_step(model: torch.nn.Module, data: AtomicDataDict.Type, learning_rate: float = 1e-3) -> Callable[[], float]:
    """An Adam step on the mean squared errors of energies and forces; calling it returns the loss before the step."""
    model.train()  # keeps the graph of the forces, so that the loss can be differentiated through them
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        output = model(data.copy())
        loss = sum(torch.mean((output[key] - data[key]) ** 2) for key in ("total_energy", "forces"))
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def time_steps(step: Callable[[], Any], num_steps: int) -> list[float]:
    """Wall time of each of ``num_steps`` steps, in ms."""
    times = []
    for _ in range(num_steps):
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def serve() -> None:
    """Answer JSON requests, one a line, until the input ends.

    ``{"build": config, "batch_size": n, "compile_mode": mode}`` builds and warms up, ``{"steps": n}`` times n steps.
    A failure is answered by ``{"error": text}``.
    """
    step: Callable[[], float] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "build" in request:
                config = request["build"]
                model = build_model(config, compile_mode=request["compile_mode"])
                data = to_torch(ethanol_batch(request["batch_size"], config["cutoff"]))
                step = build_step(model, data)
                time_steps(step, 5)
                answer = {"num_parameters": sum(p.numel() for p in model.parameters()), "versions": versions()}
            elif step is None:
                answer = {"error": "nothing was built yet"}
            else:
                answer = {"times_ms": time_steps(step, request["steps"])}
        except Exception as error:  # the comparison goes on without this peer and says why
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(answer), flush=True)


def versions() -> dict[str, str]:
    """Versions of what was timed, and the number of threads."""
    from importlib.metadata import version

    return {name: version(name) for name in ("nequip", "torch", "e3nn")} | {"threads": str(torch.get_num_threads())}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="answer requests of the comparison on standard input")
    parser.add_argument("--l-max", type=int, default=1)
    parser.add_argument("--num-features", type=int, default=32)
    parser.add_argument("--num-blocks", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile-mode", choices=("eager", "compile"), default="eager")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if arguments.serve:
        return serve()

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
        "species": SPECIES,
        "avg_num_neighbors": 8.0,
        "scale": 1.0,
    }
    model = build_model(config, compile_mode=arguments.compile_mode)
    step = build_step(model, to_torch(ethanol_batch(arguments.batch_size, config["cutoff"])))
    time_steps(step, 5)
    times = time_steps(step, arguments.steps)
    parameters = sum(p.numel() for p in model.parameters())
    result = {"median_ms": statistics.median(times), "min_ms": min(times), "n": len(times), "parameters": parameters}
    print(json.dumps(result | versions()))


if __name__ == "__main__":
    main()
