"""The steps in which jobs are started and finished: the sequencers' registers, which the units around them go by."""

from __future__ import annotations

import enum

__all__ = ["FinishStep", "StartStep"]


class StartStep(enum.Enum):
    """Where the start of a job is (`hw.control.job.job_start.JobStart`); the numbers have no meaning.

    A job that loads no state leaves out LOAD and LOADED, one without bitmaps ASK and ROW; one with both bitmaps takes
    these twice.
    """

    IDLE = 0
    """Waits for a job, a slot, the job's context, and the ageing of heads."""
    LOAD = 2
    """The context's state is loaded."""
    LOADED = 3
    """The kept heads that were loaded give the live heads."""
    SHAPE = 1
    """The job takes its slot; one cycle."""
    ASK = 5
    """A bitmap is asked for."""
    ROW = 7
    """The bitmap comes."""
    GATHER = 4
    """The token importance unit is told to gather the job's tokens."""
    LINES = 8
    """The bitmaps' lines go to it, and the live list comes from it."""
    GATHERED = 9
    """How many tokens and rows are live is known; one cycle."""
    START = 10
    """The job is taken from the queue; one cycle."""
    EMPTY = 6
    """The job has nothing to compute. Only a reset ends this."""


class FinishStep(enum.Enum):
    """Where the end of a job is (`hw.control.job.job_finish.JobFinish`); the numbers have no meaning.

    A job that does not prune tokens leaves out TOKENS, one that does not prune heads READ to CHOOSE, one whose state is
    not stored SAVE.
    """

    IDLE = 0
    """Waits for the probabilities of all rows."""
    SCATTER = 1
    """The token importance unit is told to write the importance back."""
    TOKENS = 3
    """The top-k engine chooses the tokens."""
    HEADS = 2
    """Waits, if heads are to be pruned, until all rows have been added to the head importance and no head is aged."""
    READ = 5
    """The importance of the live heads is read."""
    SEND = 7
    """The top-k engine chooses the heads."""
    CHOOSE = 8
    """Its answer is noted; one cycle."""
    STORE = 4
    """Waits, if the state is to be stored, until it can be read."""
    SAVE = 10
    """The importance of all heads is read for the state."""
    END = 9
    """Waits until the token importance unit and the heads are done."""
