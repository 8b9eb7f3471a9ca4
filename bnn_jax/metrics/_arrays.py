"""The checks that every metric makes on its arguments: shapes that broadcast, finite values, positive stds."""

import numpy as np
from jaxtyping import Float


def broadcast_float64(**arrays: Float[np.ndarray, "..."] | float) -> tuple[Float[np.ndarray, "..."], ...]:
    """Float64 views of the named arrays, broadcast to one shape.

    Only axes of length one and scalars are stretched: numpy's missing leading axes would silently turn ``[n]``
    beside ``[n, 1]`` into ``[n, n]``.

    Args:
        arrays: the arrays by the name that an error should use; one whose name begins with ``std`` must be positive,
            with ``half_width`` not negative.

    Raises:
        ValueError: the shapes do not broadcast, there is no element, or a value is not finite or not positive.
    """
    converted = {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
    shapes = ", ".join(f"{name} {array.shape}" for name, array in converted.items())
    mismatch = f"Shapes do not broadcast: {shapes}; pass arrays of one shape."
    if len({array.ndim for array in converted.values()} - {0}) > 1:
        raise ValueError(mismatch)
    try:
        broadcast = np.broadcast_arrays(*converted.values())
    except ValueError as error:
        raise ValueError(mismatch) from error
    if broadcast[0].size == 0:
        raise ValueError(f"There is no element to average over: {shapes}; pass at least one.")
    for name, array in converted.items():
        refuse(name, array, ~np.isfinite(array), "finite", "remove or mask it")
        if name.startswith("std"):
            refuse(name, array, array <= 0.0, "positive", "a prediction without spread has no density")
        if name.startswith("half_width"):
            refuse(name, array, array < 0.0, "positive or zero", "an interval has a length")
    return tuple(broadcast)


def refuse(name: str, array: np.ndarray, bad: np.ndarray | np.bool, wanted: str, remedy: str) -> None:
    """Raise an error that names the first bad entry of an array.

    Args:
        name: what the error calls the array.
        array: its values.
        bad: where they are bad, of the array's shape.
        wanted: what they should be.
        remedy: what to do.

    Raises:
        ValueError: an entry is bad.
    """
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{name}{list(index) if index else ''} is {array[index]}, not {wanted}; {remedy}.")
