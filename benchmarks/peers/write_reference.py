"""Write tests/references/data/nequip_0_19.npz: a small float64 model of mir-group/nequip 0.19, its energies and forces.

Run from the repository's root in an environment with PyTorch and nequip (and nothing of this package)::

    python -m benchmarks.peers.write_reference
"""

import json
from pathlib import Path

import numpy as np

from benchmarks.peers.nequip_step import build_model, to_torch
from benchmarks.peers.systems import SPECIES, displaced_batch

CONFIG = {
    "cutoff": 3.0,
    "num_blocks": 4,
    "num_features": 3,
    "l_max": 2,
    "parity": True,
    "num_bessel": 5,
    "polynomial_cutoff": 6,
    "radial_hidden": [7, 7],
    "layer_norm": False,
    "species_self_connection": True,
    "species": list(SPECIES),
    "avg_num_neighbors": 6.5,
    "scale": 2.5,
}
"""Within 3 Angstrom some pairs of ethanol are no neighbours, and others feel the envelope."""
NUM_STRUCTURES = 2
PATH = Path(__file__).parents[2] / "tests" / "references" / "data" / "nequip_0_19.npz"


def main() -> None:
    """Evaluate in float64 and save."""
    model = build_model(CONFIG, seed=3, dtype="float64").eval()
    batch = displaced_batch(NUM_STRUCTURES, CONFIG["cutoff"])
    output = model(to_torch(batch))
    weights = {f"weight:{name}": tensor.detach().numpy() for name, tensor in model.named_parameters()}
    # e3nn estimates the second moments of its activations from random numbers: part of the model, though no parameter
    moments = {
        f"moment:{name}": np.array(module.cst) for name, module in model.named_modules() if hasattr(module, "cst")
    }
    PATH.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        PATH,
        config=json.dumps(CONFIG),
        num_structures=NUM_STRUCTURES,
        species=batch.species,
        positions=batch.positions,
        senders=batch.senders,
        receivers=batch.receivers,
        structure_index=batch.structure_index,
        energy=output["total_energy"].detach().numpy()[:, 0],
        forces=output["forces"].detach().numpy(),
        **weights,
        **moments,
    )


if __name__ == "__main__":
    main()
