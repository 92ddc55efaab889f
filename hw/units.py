"""The units of the datapath and of its control, each at the size that a configuration gives it.

The one list that `make verilog`, `make synth` and `make units` go by: each is the instance that stands in the
accelerator (`hw.instances`), or a part of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from amaranth.lib import wiring

from spatten.hw import instances
from spatten.spec.config import Config, Feature
from spatten.spec.errors import SpattenError

__all__ = ["UNITS", "Unit", "UnknownUnitError", "require_units"]


class UnknownUnitError(SpattenError, LookupError):
    """Raised for a name that no unit has."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit of the datapath or of its control."""

    name: str
    what: str
    """What the unit does, in a line."""
    rate: str
    """The rate that the unit must hold, with its formula."""
    block: str | None = None
    """The block of the paper's area table that the unit belongs to; None if it is part of another unit."""
    make: Callable[[Config], wiring.Component]
    """The unit as it stands in the accelerator of a configuration."""
    count: Callable[[Config], int] = lambda config: 1
    """How many such units the machine has; none if the unit serves a feature that the machine lacks."""
    simulated: bool = True
    """Whether a testbench measures the unit by itself; other units run in the testbench of the whole machine."""


def _with(feature: Feature) -> Callable[[Config], int]:
    """The count of a unit that stands in the machine only with a feature."""
    return lambda config: int(config.has(feature))


_UNITS = (
    Unit(
        name="fetch",
        what="addresses of K, V and Q rows, the data crossbar, and what has arrived",
        rate="a sector per channel and cycle, at least 95 % of that for random rows",
        block="fetcher",
        make=instances.fetch,
    ),
    Unit(
        name="address_generator",
        what="live ids of a plane's rows to sector requests, by channel",
        rate="a request per channel and cycle",
        make=instances.address_generator,
    ),
    Unit(
        name="query_ring",
        what="Q, bitmaps and saved states as they lie in DRAM, and who reads them",
        rate="a window per cycle, and a sector written per bank and cycle",
        block="rest",
        make=instances.query_ring,
        simulated=False,
    ),
    Unit(
        name="key_ring",
        what="K as it lies in DRAM, a lane for each slice of the array",
        rate="a window of every lane per cycle, and a sector written per bank and cycle",
        block="Q x K",
        make=instances.key_ring,
    ),
    Unit(
        name="key_converter",
        what="packed sectors of K to operands",
        rate="qk_multipliers operands per cycle",
        block="fetcher",
        make=instances.key_converter,
    ),
    Unit(
        name="qk",
        what="Q x K array: exact scores",
        rate="min(softmax_lanes, qk_multipliers / D) keys per cycle",
        block="Q x K",
        make=instances.qk,
    ),
    Unit(
        name="progressive",
        what="stashes the scores of a first pass, and asks for the LSBs of flat rows",
        rate="softmax_lanes scores per cycle",
        block="rest",
        make=instances.progressive,
        count=_with(Feature.PROGRESSIVE),
    ),
    Unit(
        name="softmax",
        what="row maximum, exponentials, their sum, probabilities",
        rate="softmax_lanes keys per cycle, rows of any length",
        block="softmax",
        make=instances.softmax,
    ),
    Unit(
        name="prob_router",
        what="probabilities to their values, to local pruning and to the importance",
        rate="softmax_lanes probabilities per cycle",
        block="rest",
        make=instances.prob_router,
        simulated=False,
    ),
    Unit(
        name="widen",
        what="beats of probabilities joined for the top-k engine",
        rate="softmax_lanes probabilities per cycle",
        block="top-k",
        make=instances.widen,
        count=_with(Feature.PRUNE_VALUES),
        simulated=False,
    ),
    Unit(
        name="value_topk",
        what="local V pruning: marks the k largest probabilities of a row",
        rate="topk_lanes probabilities per cycle; row after row, 128 cycles for 1,024 by 16 lanes",
        block="top-k",
        make=instances.value_topk,
        count=_with(Feature.PRUNE_VALUES),
    ),
    Unit(
        name="local_values",
        what="what local pruning keeps of a row, packed: ids and probabilities",
        rate="topk_lanes probabilities per cycle",
        block="top-k",
        make=instances.local_values,
        count=_with(Feature.PRUNE_VALUES),
        simulated=False,
    ),
    Unit(
        name="value_ring",
        what="V as it lies in DRAM, a lane for each slice of the array",
        rate="a window of every lane per cycle, and a sector written per bank and cycle",
        block="prob x V",
        make=instances.value_ring,
    ),
    Unit(
        name="value_converter",
        what="packed sectors of V to operands",
        rate="pv_multipliers operands per cycle",
        block="fetcher",
        make=instances.value_converter,
    ),
    Unit(
        name="pv",
        what="prob x V array: rows of a head's output",
        rate="min(softmax_lanes, pv_multipliers / D) keys per cycle",
        block="prob x V",
        make=instances.pv,
    ),
    Unit(
        name="output_router",
        what="output to memory and to the head importance",
        rate="a beat of slice_width elements per cycle",
        block="rest",
        make=instances.output_router,
        simulated=False,
    ),
    Unit(
        name="output_packer",
        what="rows of output to sector writes",
        rate="an output beat of slice_width elements per max(1, slice_width / (16 channels)) cycles",
        block="rest",
        make=instances.output_packer,
    ),
    Unit(
        name="write_merger",
        what="sectors of outputs and of saved states to their channels",
        rate="a sector per channel and cycle",
        block="rest",
        make=instances.write_merger,
        count=_with(Feature.SAVED_STATES),
        simulated=False,
    ),
    Unit(
        name="token_importance",
        what="importance of every token, and who the layer before kept",
        rate="softmax_lanes probabilities, topk_lanes tokens gathered and topk_lanes scattered per cycle",
        block="rest",
        make=instances.token_importance,
    ),
    Unit(
        name="head_importance",
        what="sums of the magnitudes of each head's output",
        rate="an output beat of slice_width elements per cycle",
        block="rest",
        make=instances.head_importance,
        count=_with(Feature.PRUNE_HEADS),
    ),
    Unit(
        name="token_topk",
        what="token and head pruning: marks the k largest importances of a row",
        rate="topk_lanes importances per cycle; row after row, 128 cycles for 1,024 by 16 lanes",
        block="top-k",
        make=instances.token_topk,
    ),
    Unit(
        name="quick_select",
        what="of the token engine: the k-th largest importance, and how many of its equals to keep",
        rate="as the engine",
        make=instances.quick_select,
    ),
    Unit(
        name="zero_eliminator",
        what="moves the live lanes of a row to its front",
        rate="a row of topk_lanes elements per cycle",
        make=instances.zero_eliminator,
        count=_with(Feature.PRUNE_VALUES),
    ),
    Unit(
        name="packer",
        what="joins rows with some live elements into full ones",
        rate="a row of topk_lanes elements per cycle",
        make=instances.packer,
        count=_with(Feature.PRUNE_VALUES),
    ),
    Unit(
        name="expander",
        what="importance by rank back to importance by token",
        rate="a row of topk_lanes elements per cycle",
        make=instances.expander,
    ),
    Unit(
        name="axi_reader",
        what="of each channel: sector addresses to AXI4 bursts, their beats to sectors",
        rate="a beat of channel_bits per cycle",
        block="fetcher",
        make=instances.axi_reader,
        count=lambda config: config.channels,
    ),
    Unit(
        name="axi_writer",
        what="of each channel: sector writes to AXI4 bursts",
        rate="a beat of channel_bits per cycle",
        block="rest",
        make=instances.axi_writer,
        count=lambda config: config.channels,
    ),
    Unit(
        name="registers",
        what="registers behind AXI4-Lite, job queue, reports, counters, failures",
        rate="one access at a time in each direction",
        block="rest",
        make=instances.registers,
    ),
    Unit(
        name="job_control",
        what="a job's beginning and its end: who is live, who stays, its report",
        rate="a line of topk_lanes tokens per cycle",
        block="rest",
        make=instances.job_control,
        simulated=False,
    ),
    Unit(
        name="planner",
        what="blocks of queries, keys and values into their rings, ahead of the rows that need them",
        rate="a group of topk_lanes rows per cycle",
        block="rest",
        make=instances.planner,
        simulated=False,
    ),
    Unit(
        name="row_control",
        what="which query rows meet which keys, as segments of rows",
        rate="a segment per cycle within a head",
        block="rest",
        make=instances.row_control,
        simulated=False,
    ),
    Unit(
        name="query_reader",
        what="query rows from their ring to the array, as operands",
        rate="a beat of slice_width operands per cycle within a segment",
        block="rest",
        make=instances.query_reader,
        simulated=False,
    ),
    Unit(
        name="key_reader",
        what="windows of the key ring, as their keys arrive",
        rate="a window per cycle, across rows and segments",
        block="rest",
        make=instances.key_reader,
        simulated=False,
    ),
    Unit(
        name="value_reader",
        what="windows of the value ring, as their values and probabilities arrive",
        rate="a window per cycle, across rows",
        block="rest",
        make=instances.value_reader,
        simulated=False,
    ),
    Unit(
        name="sector_reader",
        what="bitmaps and saved states from memory",
        rate="one request at a time",
        block="rest",
        make=instances.sector_reader,
        simulated=False,
    ),
    Unit(
        name="saved_states",
        what="loads and stores states of contexts",
        rate="those of its parts",
        block="rest",
        make=instances.saved_states,
        count=_with(Feature.SAVED_STATES),
        simulated=False,
    ),
    Unit(
        name="state_store",
        what="of saved_states: writes a context's state",
        rate="about 4 cycles for each line of topk_lanes tokens and each sector",
        make=instances.state_store,
        count=_with(Feature.SAVED_STATES),
        simulated=False,
    ),
    Unit(
        name="state_load",
        what="of saved_states: reads a context's state back",
        rate="about 2 cycles for each line of topk_lanes tokens",
        make=instances.state_load,
        count=_with(Feature.SAVED_STATES),
        simulated=False,
    ),
)
UNITS = {unit.name: unit for unit in _UNITS}
"""The units by name: the datapath in the order of the data's way, then control."""


def require_units(names: Iterable[str], config: Config) -> None:
    """Raise `UnknownUnitError` for a name that is not in `UNITS`, or that of a unit which the machine lacks."""
    for name in names:
        if name not in UNITS:
            raise UnknownUnitError(f"unit must be one of {', '.join(UNITS)}, not {name!r}")
        if not UNITS[name].count(config):
            there = ", ".join(unit.name for unit in UNITS.values() if unit.count(config))
            raise UnknownUnitError(
                f"unit must be one that the configuration {config.name!r} has ({there}), not {name!r}"
            )
