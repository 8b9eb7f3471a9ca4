"""What goes wrong with a label, and not with the loop that asked for it."""


class LabelError(RuntimeError):
    """A structure could not be labelled: not converged, not finite, out of time. There is no number for it."""
