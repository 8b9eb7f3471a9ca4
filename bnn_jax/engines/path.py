"""``python -m bnn_jax.engines.path ipi``: the file that an engine asks for."""

import sys
from importlib.util import find_spec

FILES = {"ipi": "ipi_driver"}


def main() -> None:
    """Print it."""
    if len(sys.argv) != 2 or sys.argv[1] not in FILES:
        sys.exit(f"usage: python -m bnn_jax.engines.path {'|'.join(FILES)}")
    spec = find_spec(f"bnn_jax.engines.{FILES[sys.argv[1]]}")
    assert spec is not None
    print(spec.origin)


if __name__ == "__main__":
    main()
