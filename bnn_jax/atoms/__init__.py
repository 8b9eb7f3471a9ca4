"""Structures, their labels, and the graphs that a potential sees."""

from bnn_jax.atoms.dataset import Dataset as Dataset
from bnn_jax.atoms.files import read_file as read_file
from bnn_jax.atoms.graph import PackedData as PackedData
from bnn_jax.atoms.graph import batch_bound as batch_bound
from bnn_jax.atoms.graph import batch_size_needed as batch_size_needed
from bnn_jax.atoms.graph import edge_mask as edge_mask
from bnn_jax.atoms.graph import gather_batch as gather_batch
from bnn_jax.atoms.graph import node_mask as node_mask
from bnn_jax.atoms.graph import node_structure as node_structure
from bnn_jax.atoms.graph import pack as pack
from bnn_jax.atoms.graph import pair_mask as pair_mask
from bnn_jax.atoms.graph import pair_vectors as pair_vectors
from bnn_jax.atoms.graph import size_ladder as size_ladder
from bnn_jax.atoms.graph import structure_mask as structure_mask
from bnn_jax.atoms.isolation import warn_of_isolated_atoms as warn_of_isolated_atoms
from bnn_jax.atoms.neighbors import neighbor_list as neighbor_list
from bnn_jax.atoms.parts import check_parts as check_parts
from bnn_jax.atoms.statistics import Statistics as Statistics
from bnn_jax.atoms.statistics import atomic_shift_sum as atomic_shift_sum
