"""What rigidities cost: force rows of the last layer, and the Hessian's forms against the size of the network.

From the repository's root::

    python -m benchmarks.rigidity rows
    python -m benchmarks.rigidity forms --presets tiny small
    python -m benchmarks.rigidity products --presets small paper

``rows``: derivatives of the forces of one ethanol by the weights of the energy readout, in one compiled call, against
one evaluation of the forces and against one backward pass for each feature, as the paper's code makes them. They take
turns.

``forms``: seconds to make each form of the Hessian of energies and forces and to judge the total energies of targets,
what it agrees with, and the peak memory of the process.

``products``: milliseconds of one product of the matrix-free form for each vector and structure. Block conjugate
gradients take tens of them for all targets at once.
"""

import argparse
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import PRESETS, Case, build_case
from benchmarks.peers.systems import displaced_structures
from benchmarks.timing import environment, head, median_ratio, paired, row
from bnn_jax.atoms import Dataset, gather_batch
from bnn_jax.model import with_readout
from bnn_jax.rigidity import FormOptions, Network, SquareLoss, fit_rigidity, outputs
from bnn_jax.rigidity.jacobian import Derivative, jacobian_of_structure
from bnn_jax.rigidity.matrix_free import VECTORS_AT_ONCE, gauss_newton_product
from bnn_jax.rigidity.network import all_weights, last_layer

ZETA = 1e-2
"""In units of the root of the mean diagonal."""
PRODUCT_STRUCTURES = 4
"""In the data set of ``products``."""
OPTIONS = FormOptions(num_directions=50, tolerance=1e-5, num_buckets=4000)


def network_of(case: Case) -> Network:
    """One network of the case."""
    params = jax.tree.map(lambda leaf: leaf[0], case.params(1))
    return Network(case.potential.apply, params, case.statistics, case.config.model.cutoff)


def compare_rows(preset: str, num_rounds: int) -> str:
    """A line of the table of force rows."""
    case = build_case(preset)  # pyright: ignore[reportArgumentType]
    network = network_of(case)
    weights = last_layer(network)
    counts = np.diff(np.asarray(case.packed.edge_offset))
    sizes = (10, int(counts.max()))
    index = jnp.int32(0)
    of_what = Derivative(network.apply, weights.put, outputs(network, ("energy", "forces")))

    @jax.jit
    def forces(vector: jax.Array) -> jax.Array:
        return network.apply(
            weights.put(network.params, vector), gather_batch(case.packed, index[None], *sizes).graph
        ).forces

    @jax.jit
    def rows(vector: jax.Array) -> jax.Array:
        graph = gather_batch(case.packed, index[None], *sizes).graph
        return jacobian_of_structure(network.params, vector, graph, of_what)[1]["forces"]

    @jax.jit
    def one_feature(direction: jax.Array) -> jax.Array:
        return network.apply(
            with_readout(network.params, direction), gather_batch(case.packed, index[None], *sizes).graph
        ).forces

    units = jnp.eye(len(weights.vector))
    calls = {
        "forces": lambda: forces(weights.vector),
        "rows": lambda: rows(weights.vector),
        "one by one": lambda: [one_feature(unit) for unit in units],
    }
    np.testing.assert_allclose(
        np.asarray(rows(weights.vector)), np.stack(calls["one by one"](), axis=-1), rtol=1e-3, atol=1e-3
    )
    times = paired(calls, num_rounds)
    median = {name: f"{np.median(values):.2f}" for name, values in times.items()}
    ratios = (f"{median_ratio(times[a], times[b]):.1f}" for a, b in (("rows", "forces"), ("one by one", "rows")))
    return row(preset, len(weights.vector), *median.values(), *ratios)


def time_form(preset: str, form: str, num_structures: int, num_targets: int) -> str:
    """A line of the table of forms, without the agreement; in a process of its own for its memory."""
    case = build_case(preset, num_structures=num_structures)  # pyright: ignore[reportArgumentType]
    network = network_of(case)
    structures = displaced_structures(num_structures + num_targets, "ethanol")
    train, targets = (Dataset.from_atoms(part) for part in (structures[:num_structures], structures[num_structures:]))
    start = time.perf_counter()
    model = fit_rigidity(network, train, SquareLoss(1.0, 1.0), ZETA, form, zeta_is_relative=True, options=OPTIONS)
    made = time.perf_counter()
    rigidities = model.energies(targets)
    judged = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    listed = ",".join(f"{value:.8e}" for value in rigidities)
    return f"{len(model.weights.vector)} {made - start:.2f} {judged - made:.2f} {peak:.2f} {listed}"


def compare_forms(presets: list[str], forms: list[str], num_structures: int, num_targets: int) -> None:
    """The table of forms; what fails is named."""
    print(head("preset", "form", "weights", "make, s", "judge, s", "peak, GB", "median deviation from kernel"))
    for preset in presets:
        exact: np.ndarray | None = None
        for form in forms:
            command = [sys.executable, "-m", "benchmarks.rigidity", "one", "--presets", preset, "--forms", form]
            command += ["--structures", str(num_structures), "--targets", str(num_targets)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(row(preset, form, "-", done.stderr.strip().splitlines()[-1][:120], "", "", ""), flush=True)
                continue
            weights, made, judged, peak, listed = done.stdout.strip().splitlines()[-1].split()
            rigidities = np.array([float(value) for value in listed.split(",")])
            exact = rigidities if form == "kernel" else exact
            is_comparable = exact is not None and form != "last-layer"
            deviation = f"{np.median(np.abs(rigidities / exact - 1)):.1e}" if is_comparable else "-"
            print(row(preset, form, weights, made, judged, peak, deviation), flush=True)


def time_products(preset: str, num_rounds: int) -> str:
    """A line of the table of products."""
    case = build_case(preset)  # pyright: ignore[reportArgumentType]
    network = network_of(case)
    train = Dataset.from_atoms(displaced_structures(PRODUCT_STRUCTURES, "ethanol"))
    weights = all_weights(network)
    product = gauss_newton_product(network, weights, train, SquareLoss(1.0, 1.0))
    vectors = np.random.default_rng(0).normal(size=(VECTORS_AT_ONCE, len(weights.vector)))
    times = paired({"product": lambda: product(vectors)}, num_rounds)["product"]
    return row(preset, len(weights.vector), f"{np.median(times) / (len(train) * len(vectors)):.2f}")


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("rows", "forms", "products", "one"))
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["tiny", "small"])
    parser.add_argument("--forms", nargs="+", default=["kernel", "last-layer", "dense", "matrix-free", "sketched"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--structures", type=int, default=200)
    parser.add_argument("--targets", type=int, default=100)
    given = parser.parse_args()
    if given.what == "one":
        print(time_form(given.presets[0], given.forms[0], given.structures, given.targets))
        return
    print(f"{environment()}\n")
    if given.what == "rows":
        print(
            head("preset", "features", "forces, ms", "rows, ms", "one by one, ms", "rows / forces", "one by one / rows")
        )
        for preset in given.presets:
            print(compare_rows(preset, given.rounds), flush=True)
    elif given.what == "products":
        print(head("preset", "weights", "ms a vector and structure"))
        for preset in given.presets:
            print(time_products(preset, given.rounds), flush=True)
    else:
        compare_forms(given.presets, given.forms, given.structures, given.targets)


if __name__ == "__main__":
    main()
