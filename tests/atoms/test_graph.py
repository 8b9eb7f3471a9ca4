import functools

import ase
import jax
import jraph
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from bnn_jax.atoms import (
    Dataset,
    batch_size_needed,
    edge_mask,
    gather_batch,
    node_mask,
    node_structure,
    pack,
    pair_mask,
    pair_vectors,
    size_ladder,
    structure_mask,
)
from bnn_jax.atoms.neighbors import near_origin
from bnn_jax.types import InputError

CUTOFF = 3.0
SPECIES = (1, 8, 14)
SHIFTS = np.array([-13.5, -2041.25, -7900.0])


def structure(symbols, seed, cell=None, labels=("energy", "forces", "stress")):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)[: len(ase.Atoms(symbols))]
    positions = 1.3 * grid + rng.normal(scale=0.1, size=grid.shape)
    atoms = ase.Atoms(symbols, positions, cell=cell, pbc=cell is not None)
    shift = sum(SHIFTS[SPECIES.index(number)] for number in atoms.numbers)
    values = {"energy": shift + rng.normal(), "forces": rng.normal(size=positions.shape), "stress": rng.normal(size=6)}
    if cell is None:
        values.pop("stress")
    atoms.calc = SinglePointCalculator(atoms, **{key: values[key] for key in labels if key in values})
    return atoms


def mixed():
    return Dataset.from_atoms(
        [
            structure("H2O", 0),
            structure("Si2O4", 1, cell=[[2.6, 0, 0], [0.3, 4.1, 0], [0, 0.5, 4.0]]),
            structure("H", 2),
            structure("OH", 3, labels=("forces",)),
            structure("SiO2", 4, cell=np.eye(3) * 4.2, labels=("energy",)),
        ]
    )


def molecules():
    return Dataset.from_atoms([structure("H2O", 0), structure("O2", 1), structure("H2O2", 2)])


def batch_by_jraph(packed, indices, num_nodes, num_edges):
    """The independent way: single graphs, then jraph's own batching and padding."""
    graphs = []
    for i in indices:
        atoms = slice(packed.node_offset[i], packed.node_offset[i + 1])
        pairs = slice(packed.edge_offset[i], packed.edge_offset[i + 1])
        graphs.append(
            jraph.GraphsTuple(
                nodes={"species": packed.species[atoms], "positions": packed.positions[atoms]},
                edges={"shifts": packed.shifts[pairs].astype(packed.positions.dtype)},
                globals={} if packed.cell is None else {"cell": packed.cell[i][None]},
                senders=packed.senders[pairs],
                receivers=packed.receivers[pairs],
                n_node=np.array([atoms.stop - atoms.start]),
                n_edge=np.array([pairs.stop - pairs.start]),
            )
        )
    return jraph.pad_with_graphs(jraph.batch(graphs), num_nodes, num_edges, len(indices) + 1)


def assert_equal(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def with_last_padded_node(graph):
    """jraph joins padded edges to the first padded node; ours join the last."""
    real = np.asarray(jraph.get_edge_padding_mask(graph))
    last = graph.nodes["positions"].shape[0] - 1
    return graph._replace(senders=np.where(real, graph.senders, last), receivers=np.where(real, graph.receivers, last))


@pytest.mark.parametrize("make", [mixed, molecules])
@pytest.mark.parametrize("indices", [[0, 1], [2, 0, 2], [1]])
def test_gather_batch_equals_jraph(make, indices):
    packed = pack(make(), CUTOFF, SPECIES, SHIFTS)
    sizes = batch_size_needed(packed, np.array(indices))
    batch = gather_batch(packed, np.array(indices), *sizes)
    assert_equal(batch.graph, with_last_padded_node(batch_by_jraph(packed, indices, *sizes)))
    np.testing.assert_array_equal(batch.graph.senders[::2], batch.graph.receivers[1::2])
    np.testing.assert_array_equal(batch.graph.receivers[::2], batch.graph.senders[1::2])
    for array in (batch.graph.senders, batch.graph.receivers, batch.graph.nodes["species"], batch.graph.n_node):
        assert array.dtype == np.int32


def test_vmapped_gather_equals_one_by_one():
    packed = pack(mixed(), CUTOFF, SPECIES, SHIFTS)
    plan = np.array([[0, 1], [4, 3], [2, -1]])
    sizes = batch_size_needed(packed, plan)
    gather = functools.partial(gather_batch, num_nodes=sizes[0], num_edges=sizes[1])
    stacked = jax.vmap(gather, in_axes=(None, 0))(packed, plan)
    for i, indices in enumerate(plan):
        assert_equal(jax.tree.map(lambda leaf, i=i: leaf[i], stacked), gather(packed, indices))


def test_empty_structures_come_after_the_padding():
    packed = pack(mixed(), CUTOFF, SPECIES, SHIFTS)
    full, short = (gather_batch(packed, np.array(indices), 16, 512) for indices in ([0, 1], [0, 1, -1, -1]))
    graph = short.graph
    np.testing.assert_array_equal(graph.n_node, [3, 6, 7, 0, 0])
    np.testing.assert_array_equal(structure_mask(graph), [True, True, False, False, False])
    np.testing.assert_array_equal(short.labels.energy[:2], full.labels.energy[:2])
    assert not np.any(short.labels.energy_mask[2:])
    assert_equal(graph.nodes, full.graph.nodes)
    np.testing.assert_array_equal(graph.receivers, full.graph.receivers)


def test_labels_are_residuals_in_float64_and_missing_ones_are_masked_zeros():
    dataset = mixed()
    packed = pack(dataset, CUTOFF, SPECIES, SHIFTS)
    batch = gather_batch(packed, np.arange(5), *batch_size_needed(packed, np.arange(5)))
    labels = batch.labels
    shift = [sum(SHIFTS[SPECIES.index(number)] for number in atoms.numbers) for atoms in dataset.to_atoms()]
    expected = np.nan_to_num(dataset.energy - shift)
    # A float32 of the residual, not the difference of float32 totals: those resolve 5e-4 eV at best.
    np.testing.assert_allclose(labels.energy, np.append(expected, 0), rtol=1e-6)
    np.testing.assert_array_equal(labels.energy_mask, [True, True, True, False, True, False])
    np.testing.assert_array_equal(labels.stress_mask, [False, True, False, False, False, False])
    np.testing.assert_array_equal(labels.forces_mask[:15], [True] * 12 + [False] * 3)
    np.testing.assert_allclose(labels.forces[:12], dataset.forces[:12], rtol=1e-6)
    np.testing.assert_allclose(labels.stress[1], dataset.stress[1], rtol=1e-6)
    assert not np.any(labels.forces_mask[15:])
    assert all(np.isfinite(leaf).all() for leaf in labels)
    assert not np.any(labels.forces[12:])


def test_energy_keeps_a_tenth_of_a_millielectronvolt_of_a_large_total():
    atoms = ase.Atoms("Si8", np.arange(24).reshape(8, 3) * 2.0)
    atoms.calc = SinglePointCalculator(atoms, energy=8 * -7900.0 + 1.2345)
    packed = pack(Dataset.from_atoms([atoms]), CUTOFF, SPECIES, SHIFTS)
    assert packed.energy[0] == pytest.approx(1.2345, abs=1e-6)


def test_pair_vectors_are_those_of_the_neighbour_list():
    dataset = mixed()
    packed = pack(dataset, CUTOFF, SPECIES, SHIFTS)
    batch = gather_batch(packed, np.arange(5), *batch_size_needed(packed, np.arange(5)))
    vectors = np.asarray(jax.jit(pair_vectors)(batch.graph))
    real = np.asarray(pair_mask(batch.graph))
    np.testing.assert_array_equal(np.repeat(real, 2), edge_mask(batch.graph))
    num_edges = np.diff(packed.edge_offset)
    np.testing.assert_array_equal(np.asarray(batch.graph.n_edge)[:5], num_edges)
    expected = [atoms.get_all_distances(mic=False)[0, 1] for atoms in dataset[:1].to_atoms()]
    ends = np.stack([batch.graph.receivers[::2], batch.graph.senders[::2]], axis=1)
    first = (np.sort(ends, axis=1) == [0, 1]).all(axis=1)
    np.testing.assert_allclose(np.linalg.norm(vectors[first], axis=1), expected, rtol=1e-6)
    lengths = np.linalg.norm(vectors, axis=1)
    assert (lengths[real] < CUTOFF).all() and (lengths[real] > 0.5).all()
    assert not lengths[~real].any()
    # Periodic image: the same crystal doubled along its first lattice vector has twice the edges of equal lengths.
    crystal = dataset[1]
    double = Dataset.from_atoms([crystal, crystal.repeat((2, 1, 1))])
    packed = pack(double, CUTOFF, SPECIES, SHIFTS)
    batch = gather_batch(packed, np.arange(2), *batch_size_needed(packed, np.arange(2)))
    lengths = np.linalg.norm(jax.jit(pair_vectors)(batch.graph), axis=1)
    offset = packed.edge_offset // 2
    single, both = lengths[: offset[1]], lengths[offset[1] : offset[2]]
    np.testing.assert_allclose(np.sort(np.tile(single, 2)), np.sort(both), atol=1e-5)


def test_masks_and_owners_of_nodes():
    packed = pack(mixed(), CUTOFF, SPECIES, SHIFTS)
    graph = gather_batch(packed, np.array([0, 3]), 8, 64).graph
    np.testing.assert_array_equal(jax.jit(node_structure)(graph), [0, 0, 0, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(node_mask(graph), [True] * 5 + [False] * 3)
    np.testing.assert_array_equal(structure_mask(graph), [True, True, False])
    assert int(edge_mask(graph).sum()) == 8  # six in water, two in OH


def test_a_data_set_without_edges_can_be_batched():
    dataset = Dataset.from_atoms([structure("H", 0), structure("O", 1)])
    packed = pack(dataset, CUTOFF, SPECIES, SHIFTS)
    batch = gather_batch(packed, np.array([0, 1]), *batch_size_needed(packed, np.array([0, 1])))
    np.testing.assert_array_equal(batch.graph.n_edge, [0, 0, 16])
    assert not np.any(edge_mask(batch.graph))


def test_cell_is_absent_only_if_nothing_is_periodic():
    assert "cell" not in gather_batch(pack(molecules(), CUTOFF, SPECIES, SHIFTS), np.array([0]), 8, 64).graph.globals
    boxed = structure("H2O", 0)
    boxed.cell = np.eye(3) * 9.0  # a box alone does not make a molecule periodic
    assert pack(Dataset.from_atoms([boxed]), CUTOFF, SPECIES, SHIFTS).cell is None
    packed = pack(Dataset.from_atoms([boxed, structure("SiO2", 1, cell=np.eye(3) * 4.0)]), CUTOFF, SPECIES, SHIFTS)
    assert packed.cell is not None
    np.testing.assert_array_equal(packed.cell, [np.zeros((3, 3)), np.eye(3) * 4.0])


def test_a_batch_that_does_not_fit_is_not_a_number():
    packed = pack(mixed(), CUTOFF, SPECIES, SHIFTS)
    num_nodes, num_edges = batch_size_needed(packed, np.array([0, 1]))
    assert np.isfinite(gather_batch(packed, np.array([0, 1]), num_nodes, num_edges).graph.nodes["positions"]).all()
    for sizes in ((9, num_edges), (num_nodes, int(packed.edge_offset[2]) - 2)):
        assert np.isnan(gather_batch(packed, np.array([0, 1]), *sizes).graph.nodes["positions"]).all()


def test_half_a_pair_of_edges_is_refused():
    packed = pack(mixed(), CUTOFF, SPECIES, SHIFTS)
    with pytest.raises(ValueError, match="num_edges is 63; edges come in pairs"):
        gather_batch(packed, np.array([0]), 8, 63)


def test_one_compile_for_all_batches_of_one_shape():
    packed = pack(mixed(), CUTOFF, SPECIES, SHIFTS)
    traces = []

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def gather(indices, num_nodes, num_edges):
        traces.append(indices.shape)
        return gather_batch(packed, indices, num_nodes, num_edges)

    plan = np.array([[0, 1], [2, 3], [4, -1]])
    sizes = batch_size_needed(packed, plan)
    for indices in plan:
        gather(indices, *sizes)
    assert len(traces) == 1


def test_float64_batches_keep_float64():
    with jax.enable_x64(True):
        packed = pack(mixed(), CUTOFF, SPECIES, SHIFTS, dtype=np.float64)
        batch = gather_batch(packed, np.array([1, 0]), *batch_size_needed(packed, np.array([1, 0])))
        assert batch.graph.nodes["positions"].dtype == batch.labels.forces.dtype == np.float64
        positions = mixed().positions[:3]
        np.testing.assert_allclose(batch.graph.nodes["positions"][6:9], positions - positions.mean(axis=0), rtol=1e-15)


@pytest.mark.parametrize("size", [1, 8, 9, 15, 16, 17, 31, 32, 33, 100, 257, 1000, 12345, 10**6])
def test_size_ladder(size):
    rung = size_ladder(size)
    assert rung >= size
    assert size < 8 or rung <= 1.125 * size
    assert size_ladder(rung) == rung
    while rung >= 16:
        assert rung % 2 == 0
        rung //= 2
    assert 8 <= rung <= 15


def test_size_ladder_is_short():
    assert len({size_ladder(size) for size in range(1, 10_001)}) < 8 * 11 + 1


def test_an_unknown_element_is_named():
    with pytest.raises(InputError, match=r"^Structure 1 holds Si, which the potential does not know \(it knows H, O\)"):
        pack(mixed(), CUTOFF, (1, 8), SHIFTS[:2])


def float32_vectors(atoms):
    packed = pack(Dataset.from_atoms([atoms]), CUTOFF, SPECIES, SHIFTS)
    graph = gather_batch(packed, np.array([0]), *batch_size_needed(packed, np.array([0]))).graph
    vectors = np.asarray(jax.jit(pair_vectors)(graph))[np.asarray(pair_mask(graph))]
    return packed, vectors[np.lexsort(np.round(np.abs(vectors), 4).T)]


@pytest.mark.parametrize("distance", [3e3, 3e4])
def test_a_molecule_far_from_the_origin_has_the_same_vectors(distance):
    """Before positions become float32, which at 30,000 Angstrom know 2e-3 Angstrom."""
    here, there = structure("Si2O4", 1), structure("Si2O4", 1)
    there.positions += distance * np.array([1.0, -0.7, 0.3])
    np.testing.assert_allclose(float32_vectors(there)[1], float32_vectors(here)[1], atol=1e-6)


@pytest.mark.parametrize("pbc", [True, [True, True, False]])
def test_atoms_that_left_the_cell_long_ago_have_the_same_vectors(pbc):
    """As in trajectories that were never wrapped; along a direction without periods they stay where they are."""
    cell = [[4.6, 0, 0], [0.3, 4.1, 0], [0, 0.5, 4.0]]
    here = structure("Si2O4", 1, cell=cell)
    here.pbc = pbc
    there = here.copy()
    there.positions += np.random.default_rng(0).integers(-2000, 2000, (6, 3)) * np.array(pbc) @ np.array(cell)
    (near, vectors), (far, expected) = float32_vectors(there), float32_vectors(here)
    assert near.shifts.dtype == far.shifts.dtype == np.int8
    np.testing.assert_allclose(np.abs(vectors), np.abs(expected), atol=2e-6)


def test_atoms_about_the_cell_stay_where_they_are():
    """So that an atom that crosses a side of the cell does not jump, which would change the rounding of its energy."""
    atoms = structure("Si2O4", 1, cell=np.eye(3) * 4.0)
    atoms.positions[0] -= 3.0
    positions = near_origin(atoms.positions, atoms.cell.array, atoms.pbc)
    np.testing.assert_allclose(positions - positions[0], atoms.positions - atoms.positions[0], atol=1e-12)
    np.testing.assert_allclose(positions.mean(axis=0), 0, atol=1e-12)
