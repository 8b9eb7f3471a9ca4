"""Promises 4 and 5 on random lists of structures: one compilation per padded shape, and vmap equals the plain loop."""

import ase
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from bnn_jax.atoms import Dataset, pack
from bnn_jax.predict import EDGES_PER_BATCH, GrowingSizes, build_predictor, every_sample, predict
from tests.properties.networks import CUTOFF, NUM_EDGES, NUM_NODES, SPECIES, evaluate, network
from tests.properties.strategies import for_all, structures, thoroughness
from tests.test_predict import NUM_SAMPLES, STATISTICS, sample, samples_of, shift_sums
from tests.test_traces import cheap_apply

pytestmark = pytest.mark.usefixtures("x64")

TOTAL_ATOMS = 40


def filled_up(atoms_list: list[ase.Atoms]) -> list[ase.Atoms]:
    """With a chain of carbon as the last structure, so that lists have one number of atoms and compile once."""
    rest = TOTAL_ATOMS - sum(map(len, atoms_list))
    return [*atoms_list, ase.Atoms(f"C{rest}", positions=np.arange(rest)[:, None] * [1.3, 0.2, 0.0])]


@thoroughness
def test_predictions_equal_the_loop_over_samples_and_structures(num_examples: int) -> None:
    """Of every sample, whatever the batch, the padding and the order of the list."""
    net = network("l_max 0")
    samples, predictor = samples_of(net), build_predictor(every_sample(net.apply))
    num_compiled = predictor._cache_size()  # other tests of this process share the predictor

    def of_list(atoms_list):
        sizes = GrowingSizes(num_nodes=NUM_NODES, num_edges=NUM_EDGES)
        return predict(predictor, samples, Dataset.from_atoms(atoms_list), STATISTICS, CUTOFF, sizes)

    @for_all(num_examples, st.lists(structures(max_atoms=9), min_size=1, max_size=4).map(filled_up))
    def check(atoms_list: list[ase.Atoms]) -> None:
        together, backwards = of_list(atoms_list), of_list(atoms_list[::-1])
        np.testing.assert_allclose(backwards.energy[::-1], together.energy, rtol=1e-14)
        np.testing.assert_allclose(backwards.energy_std[::-1], together.energy_std, rtol=1e-6, atol=1e-9)
        shifts = shift_sums(atoms_list)
        for index in range(NUM_SAMPLES):
            alone = net._replace(params=sample(samples, index))
            results = [evaluate(alone, [atoms])[0] for atoms in atoms_list]
            np.testing.assert_allclose(
                together.energy_samples[index], [result.energy for result in results] + shifts, rtol=1e-14
            )
            for name in ("forces", "forces_std"):
                expected = np.concatenate([getattr(result, name) for result in results])
                actual = getattr(together, f"{name}_samples")[index]
                np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-10, err_msg=name)

    assert predictor._cache_size() <= num_compiled + 2  # with a cell and without


def padded_shape(dataset: Dataset) -> tuple:
    """What a compilation of ``predict`` for a short list depends on."""
    num_edges = len(pack(dataset, CUTOFF, SPECIES, np.zeros(len(SPECIES))).senders)
    assert num_edges <= EDGES_PER_BATCH
    counts = (len(dataset), len(dataset.numbers), len(dataset.numbers) + 1, num_edges)
    return bool(dataset.pbc.any()), *(max(8, 2 ** int(np.ceil(np.log2(count)))) for count in counts)


@thoroughness
def test_one_compilation_per_padded_shape(num_examples: int) -> None:
    predictor, samples = build_predictor(every_sample(cheap_apply)), jnp.arange(3.0)
    shapes = []

    @for_all(num_examples, st.lists(structures(), min_size=1, max_size=24))
    def check(atoms_list: list[ase.Atoms]) -> None:
        for part in (atoms_list, atoms_list[::-1]):
            dataset = Dataset.from_atoms(part)
            predictive = predict(predictor, samples, dataset, STATISTICS, CUTOFF)
            species = np.searchsorted(SPECIES, dataset.numbers)
            np.testing.assert_allclose(predictive.forces, np.tile(species[:, None], 3))  # the mean of 0, 1 and 2 is 1
        shapes.append(padded_shape(dataset))
        assert predictor._cache_size() <= len(set(shapes))

    assert predictor._cache_size() < 0.8 * len(shapes)  # some of those random lists shared one
