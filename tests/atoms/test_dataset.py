import ase
import jax
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from bnn_jax.atoms import Dataset, structure_mask
from bnn_jax.types import InputError


def make(size=6):
    """Molecules and crystals with every combination of labels, some forces masked atom by atom."""
    rng = np.random.default_rng(0)
    structures = []
    for i in range(size):
        symbols = ("H2O", "CH4", "SiO2")[i % 3]
        num_atoms = len(ase.Atoms(symbols))
        atoms = ase.Atoms(symbols, 1.5 * np.arange(num_atoms * 3).reshape(-1, 3) + rng.normal(size=(num_atoms, 3)) / 5)
        labels = {"energy": -100.0 * i, "forces": rng.normal(size=(num_atoms, 3))}
        if i % 3 == 2:
            atoms.set_cell(np.eye(3) * 15.0)
            atoms.pbc = True
            labels["stress"] = rng.normal(size=6)
        if i == 1:
            del labels["forces"]
        if i == 3:
            del labels["energy"]
        if i == 4:
            atoms.set_array("forces_mask", np.arange(num_atoms) < 2)
        atoms.calc = SinglePointCalculator(atoms, **labels)
        structures.append(atoms)
    return Dataset.from_atoms(structures)


def assert_same(first, second):
    assert first.fingerprint() == second.fingerprint()
    for name in ("numbers", "positions", "num_atoms", "cell", "pbc", "energy", "forces", "stress"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_from_atoms_and_back():
    dataset = make()
    assert len(dataset) == 6
    assert dataset.species == (1, 6, 8, 14)
    np.testing.assert_array_equal(dataset.composition[1], [4, 1, 0, 0])
    np.testing.assert_array_equal(np.isfinite(dataset.energy), [True, True, True, False, True, True])
    np.testing.assert_array_equal(
        np.isfinite(dataset.stress).all(axis=(1, 2)), [False, False, True, False, False, True]
    )
    known = [
        np.isfinite(atoms_forces).all(axis=1).sum() for atoms_forces in np.split(dataset.forces, dataset.offsets[1:-1])
    ]
    assert known == [3, 0, 3, 3, 2, 3]
    assert_same(Dataset.from_atoms(dataset.to_atoms()), dataset)


def test_an_index_gives_atoms_and_a_slice_gives_a_data_set():
    dataset = make()
    assert dataset[1].get_chemical_formula() == "CH4"
    assert dataset[-1].get_potential_energy() == -500.0
    assert [len(atoms) for atoms in dataset] == [3, 5, 3, 3, 5, 3]  # iteration ends
    with pytest.raises(IndexError, match="structure 6 of a data set of 6"):
        dataset[6]
    part = dataset[[4, 0]]
    np.testing.assert_array_equal(part.energy, [-400.0, 0.0])
    np.testing.assert_array_equal(part.positions, np.concatenate([dataset[4].positions, dataset[0].positions]))
    assert_same(dataset[1:3], dataset[np.arange(6) % 5 % 3 > 0][:2])
    assert_same(Dataset.concatenate([dataset[:2], dataset[2:]]), dataset)


def test_fingerprint_follows_the_content():
    dataset = make()
    assert make().fingerprint() == dataset.fingerprint()
    assert len({part.fingerprint() for part in (dataset, dataset[:5], dataset[::-1])}) == 3
    dataset.forces[0, 0] += 1e-12
    assert make().fingerprint() != dataset.fingerprint()


def numbered(size=20):
    """Structures whose energy is their number."""
    structures = [ase.Atoms("H") for _ in range(size)]
    for i, atoms in enumerate(structures):
        atoms.calc = SinglePointCalculator(atoms, energy=float(i))
    return Dataset.from_atoms(structures)


def taken(part):
    return part.energy.astype(int).tolist()


def test_split_by_count_and_fraction():
    train, valid, test = numbered().split(train=0.5, valid=4, test=0.3, seed=3)
    assert [len(part) for part in (train, valid, test)] == [10, 4, 6]
    assert sorted(taken(train) + taken(valid) + taken(test)) == list(range(20))
    again, *_ = numbered().split(train=10, seed=3)
    assert taken(again) == taken(train) != taken(numbered().split(train=10, seed=4)[0])
    larger, *_ = numbered().split(train=12, seed=3)
    assert taken(larger)[:10] == taken(train)


def test_fractions_that_add_up_to_one_fit():
    for size in range(10, 40):
        parts = numbered(size).split(0.7, 0.2, 0.1)
        assert size - 2 <= sum(map(len, parts)) <= size


def test_split_by_indices_and_files(tmp_path):
    (tmp_path / "index_train_01.csv").write_text("3\n1\n4\n")
    np.save(tmp_path / "valid.npy", np.array([5, 9]))
    train, valid, test = numbered().split(tmp_path / "index_train_01.csv", str(tmp_path / "valid.npy"), 15)
    assert taken(train) == [3, 1, 4]
    assert taken(valid) == [5, 9]
    assert sorted(taken(test)) == sorted(set(range(20)) - {3, 1, 4, 5, 9})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": 15, "test": 6}, "Split asks for 15 for train, 6 for test, but only 20 structures are left of 20"),
        ({"train": [0, 1], "test": 19}, "only 18 structures are left of 20; ask for fewer"),
        ({"train": [0, 1], "test": [1, 2]}, "structure 1 is taken twice in train and test; give disjoint indices"),
        ({"train": [0, 20]}, r"train holds index 20, but there are 20 structures \(0 to 19\)"),
        ({"train": [-1]}, "train holds index -1"),
        ({"train": 1.5}, "train=1.5 is no fraction between 0 and 1"),
        ({"train": 0.01}, "train=0.01 of 20 structures takes none"),
        ({"valid": -3}, "valid=-3 of 20 structures takes none"),
        ({"train": np.array([0.5])}, "train must be a non-empty list of integers, not float64"),
        ({"train": "absent.npy"}, "train file absent.npy cannot be read .No such file"),
    ],
)
def test_split_refuses(parts, message):
    with pytest.raises(InputError, match=message):
        numbered().split(**parts)


def test_split_refuses_a_file_of_words(tmp_path):
    (tmp_path / "index.txt").write_text("train\n1\n")
    with pytest.raises(InputError, match=r"index.txt does not hold one index a line"):
        numbered().split(tmp_path / "index.txt")


def test_batches_hold_everything_in_order_in_one_shape():
    dataset = make()
    statistics = dataset.statistics(3.0)
    batches = list(dataset.batches(4, 3.0, statistics))
    assert len({str(jax.tree.map(np.shape, batch)) for batch in batches}) == 1
    graphs = [batch.graph for batch in batches]
    num_atoms = np.concatenate([np.asarray(graph.n_node)[np.asarray(structure_mask(graph))] for graph in graphs])
    np.testing.assert_array_equal(num_atoms, dataset.num_atoms)
    positions = np.concatenate(
        [graph.nodes["positions"][: int(graph.n_node[:n].sum())] for graph, n in zip(graphs, (4, 2), strict=True)]
    )
    means = np.add.reduceat(dataset.positions, dataset.offsets[:-1]) / dataset.num_atoms[:, None]
    centred = dataset.positions - means[dataset.structure_index]
    np.testing.assert_allclose(positions, centred, rtol=1e-6, atol=1e-6)
    shifts = dataset.composition @ statistics.shifts
    energy = np.concatenate([batch.labels.energy[batch.labels.energy_mask] for batch in batches])
    known = np.isfinite(dataset.energy)
    np.testing.assert_allclose(energy, (dataset.energy - shifts)[known], atol=1e-4)
