"""Jobs, reports and events as the circuit moves them: the lists of spec/job.py as payloads."""

from __future__ import annotations

from amaranth.hdl import Const, Value, unsigned
from amaranth.lib import data

from spatten.spec.config import SCALE_MANTISSA_BITS, Config
from spatten.spec.constants import SCALE_SHIFT_BITS
from spatten.spec.job import Flag, event_limits, flags_of, job_fields, report_widths

__all__ = ["events_layout", "flag_of", "job_layout", "report_layout", "score_scale"]


def score_scale() -> data.StructLayout:
    """The scale of a head's scores: mantissa x 2**-shift."""
    return data.StructLayout({"mantissa": SCALE_MANTISSA_BITS, "shift": SCALE_SHIFT_BITS})


def job_layout(config: Config) -> data.StructLayout:
    """A job as the queue holds it; `flags` are those that the machine has (`flag_of`), and `scales` has the score scale
    of every head."""
    members = {
        field.name: unsigned(field.width)
        for field in job_fields(config)
        if not field.name.startswith(("mantissa", "shift"))
    }
    members["flags"] = unsigned(len(flags_of(config)))
    return data.StructLayout({**members, "scales": data.ArrayLayout(score_scale(), config.heads_max)})


def flag_of(config: Config, flags: Value, which: Flag) -> Value:
    """A flag of a job; zero where the machine has no such flag."""
    known = flags_of(config)
    return flags[known.index(which)] if which in known else Const(0, 1)


def report_layout(config: Config) -> data.StructLayout:
    """What a job reports (`spec.job.report_widths`)."""
    return data.StructLayout({name: unsigned(width) for name, width in report_widths(config).items()})


def events_layout(config: Config) -> data.StructLayout:
    """What happens in a cycle (`spec.job.event_limits`): each member adds its value to the counter of its name."""
    return data.StructLayout({name: range(most + 1) for name, most in event_limits(config).items()})
