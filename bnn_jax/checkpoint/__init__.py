"""Run folders and checkpoints on disk: written atomically, versioned, and verified when they are read."""

from bnn_jax.checkpoint.files import (
    DamagedFileError,
    append_jsonl,
    read_jsonl,
    require_room,
    truncate_jsonl,
    write_bytes_atomic,
    write_text_atomic,
)
from bnn_jax.checkpoint.run import (
    RunFolder,
    create_run,
    environment,
    extend_run,
    has_checkpoint,
    is_leftover,
    latest_checkpoint,
    locked,
    open_run,
    refuse_occupied,
    save_checkpoint,
)
from bnn_jax.checkpoint.tree import load_arrays, load_tree, read_metadata, save_tree, tree_bytes, tree_digest

__all__ = [
    "DamagedFileError",
    "RunFolder",
    "append_jsonl",
    "create_run",
    "environment",
    "extend_run",
    "has_checkpoint",
    "is_leftover",
    "latest_checkpoint",
    "load_arrays",
    "load_tree",
    "locked",
    "open_run",
    "read_jsonl",
    "read_metadata",
    "refuse_occupied",
    "require_room",
    "save_checkpoint",
    "save_tree",
    "tree_bytes",
    "tree_digest",
    "truncate_jsonl",
    "write_bytes_atomic",
    "write_text_atomic",
]
