"""The base of every error that is expected: what a command line ends in one line, without a traceback."""

__all__ = ["SpattenError"]


class SpattenError(Exception):
    """Something that was asked for cannot be had, or was done and came out wrong; the message says what.

    A class of errors derives from this one, and also from the built-in error that describes it best. An exception
    that does not derive from this one is a mistake in the program, and keeps its traceback.
    """

    exit_status = 2
    """The status of a command line that ends with this error: 2 where what was asked for cannot be done (bad input, a
    missing tool, a place that cannot be written), 1 where it was done and the answer is no (a difference, a proof that
    fails, an accelerator, a simulator or another tool that stops)."""
