"""Jobs, reports and events as the circuit moves them: the lists of spec/job.py as payloads."""

from __future__ import annotations

from amaranth.hdl import unsigned
from amaranth.lib import data

from spatten.spec.config import SCALE_MANTISSA_BITS, Config
from spatten.spec.constants import SCALE_SHIFT_BITS
from spatten.spec.job import event_limits, job_fields, report_widths

__all__ = ["events_layout", "job_layout", "report_layout", "score_scale"]


def score_scale() -> data.StructLayout:
    """The scale of a head's scores: mantissa x 2**-shift."""
    return data.StructLayout({"mantissa": SCALE_MANTISSA_BITS, "shift": SCALE_SHIFT_BITS})


def job_layout(config: Config) -> data.StructLayout:
    """A job as the queue holds it; `scales` has the score scale of every head."""
    members = {
        field.name: unsigned(field.width)
        for field in job_fields(config)
        if not field.name.startswith(("mantissa", "shift"))
    }
    return data.StructLayout({**members, "scales": data.ArrayLayout(score_scale(), config.heads_max)})


def report_layout(config: Config) -> data.StructLayout:
    """What a job reports (`spec.job.report_widths`)."""
    return data.StructLayout({name: unsigned(width) for name, width in report_widths(config).items()})


def events_layout(config: Config) -> data.StructLayout:
    """What happens in a cycle (`spec.job.event_limits`): each member adds its value to the counter of its name."""
    return data.StructLayout({name: range(most + 1) for name, most in event_limits(config).items()})
