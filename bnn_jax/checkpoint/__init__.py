"""Run folders and checkpoints on disk: written atomically, versioned, and verified when they are read."""

from bnn_jax.checkpoint.files import DamagedFileError, append_jsonl, read_jsonl, truncate_jsonl, write_text_atomic
from bnn_jax.checkpoint.run import RunFolder, create_run, latest_checkpoint, open_run, save_checkpoint
from bnn_jax.checkpoint.tree import load_arrays, load_tree, read_metadata, save_tree

__all__ = [
    "DamagedFileError",
    "RunFolder",
    "append_jsonl",
    "create_run",
    "latest_checkpoint",
    "load_arrays",
    "load_tree",
    "open_run",
    "read_jsonl",
    "read_metadata",
    "save_checkpoint",
    "save_tree",
    "truncate_jsonl",
    "write_text_atomic",
]
