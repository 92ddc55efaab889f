"""The units of the datapath and of its control, each at the size that a configuration gives it.

The one list that `make verilog`, `make synth` and `make units` go by. What stands here beside a constructor is only how
its parameters follow from the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from amaranth.lib import data, wiring

from spatten.hw.control.job_control import JobControl, topk_sizes
from spatten.hw.control.key_reader import KeyReader
from spatten.hw.control.planner import Planner
from spatten.hw.control.query_reader import QueryReader
from spatten.hw.control.row_control import RowControl
from spatten.hw.control.sector_reader import SectorReader
from spatten.hw.control.state import StateLoad, StateStore
from spatten.hw.control.value_reader import ValueReader
from spatten.hw.datapath.converter import Converter
from spatten.hw.datapath.head_importance import HeadImportance
from spatten.hw.datapath.output_packer import OutputPacker
from spatten.hw.datapath.progressive import Progressive
from spatten.hw.datapath.pv import PvArray
from spatten.hw.datapath.qk import QkArray
from spatten.hw.datapath.quick_select import QuickSelect
from spatten.hw.datapath.softmax import Softmax
from spatten.hw.datapath.token_importance import TokenImportance
from spatten.hw.datapath.topk import PackedTopK, TopK
from spatten.hw.front.registers import Registers
from spatten.hw.lib.expander import Expander
from spatten.hw.lib.packer import Packer
from spatten.hw.lib.zero_eliminator import ZeroEliminator
from spatten.hw.memory.address_generator import AddressGenerator
from spatten.hw.memory.axi_reader import AxiReader
from spatten.hw.memory.axi_writer import AxiWriter
from spatten.hw.memory.fetch import Fetch
from spatten.hw.memory.ring_buffer import RingBuffer
from spatten.spec.config import Config
from spatten.spec.constants import AXI_ADDRESS_BITS, KEPT_SLOTS
from spatten.spec.errors import SpattenError
from spatten.spec.row_format import BANKS, key_ring_sectors, lsb_sectors, query_ring_sectors, value_ring_sectors

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
    """The unit at the size that a configuration gives it."""
    count: Callable[[Config], int] = lambda config: 1
    """How many such units the machine has."""
    simulated: bool = True
    """Whether a testbench measures the unit by itself; other units run in the testbench of the whole machine."""


def _row(config: Config) -> data.StructLayout:
    """What travels with a row: its context, head and query, and its length."""
    return data.StructLayout(
        {
            "context": max(1, (config.contexts - 1).bit_length()),
            "head": max(1, (config.heads_max - 1).bit_length()),
            "query": (config.tokens_max - 1).bit_length(),
            "length": config.tokens_max.bit_length(),
        }
    )


def _element(config: Config) -> data.StructLayout:
    """What the top-k engine moves: an importance, and the number of its token or head."""
    return data.StructLayout(
        {
            "importance": max(config.token_importance_bits, config.head_importance_bits),
            "index": max(1, (max(config.tokens_max, config.heads_max) - 1).bit_length()),
        }
    )


_UNITS = (
    Unit(
        name="fetch",
        what="addresses of K, V and Q rows, the data crossbar, and what has arrived",
        rate="a sector per channel and cycle, at least 95 % of that for random rows",
        block="fetcher",
        make=lambda config: Fetch(**_addresses(config)),
    ),
    Unit(
        name="address_generator",
        what="live ids of a plane's rows to sector requests, by channel",
        rate="a request per channel and cycle",
        make=lambda config: AddressGenerator(**_addresses(config)),
    ),
    Unit(
        name="key_buffer",
        what="K as it lies in DRAM, a lane for each slice of the array",
        rate="a window of every lane per cycle, and a sector written per bank and cycle",
        block="Q x K",
        make=lambda config: RingBuffer(
            lanes=config.slices,
            sectors=key_ring_sectors(config),
            banks=BANKS,
            linear=lsb_sectors(config),
            header=_row(config),
        ),
    ),
    Unit(
        name="key_converter",
        what="packed sectors of K to operands",
        rate="qk_multipliers operands per cycle",
        block="fetcher",
        make=lambda config: _converter(config, "key"),
    ),
    Unit(
        name="qk",
        what="Q x K array: exact scores",
        rate="min(softmax_lanes, qk_multipliers / D) keys per cycle",
        block="Q x K",
        make=lambda config: _qk(config),
    ),
    Unit(
        name="progressive",
        what="keeps the scores of a first pass, and asks for the LSBs of flat rows",
        rate="softmax_lanes scores per cycle",
        block="rest",
        make=lambda config: Progressive(
            lanes=config.softmax_lanes,
            score_bits=config.score_bits,
            row_max=config.tokens_max,
            slots=KEPT_SLOTS,
            header=_row(config),
        ),
    ),
    Unit(
        name="softmax",
        what="row maximum, exponentials, their sum, probabilities",
        rate="softmax_lanes keys per cycle, rows of any length",
        block="softmax",
        make=lambda config: Softmax(
            lanes=config.softmax_lanes,
            score_bits=config.score_bits,
            prob_bits=config.prob_bits,
            row_max=config.tokens_max,
            header=_row(config),
        ),
    ),
    Unit(
        name="value_topk",
        what="local V pruning: the k largest probabilities of a row, packed",
        rate="topk_lanes probabilities per cycle; row after row, 128 cycles for 1,024 by 16 lanes",
        block="top-k",
        make=lambda config: PackedTopK(
            width=config.prob_bits, lanes=config.topk_lanes, n_max=config.tokens_max, header=_row(config)
        ),
    ),
    Unit(
        name="value_buffer",
        what="V as it lies in DRAM, a lane for each slice of the array",
        rate="a window of every lane per cycle, and a sector written per bank and cycle",
        block="prob x V",
        make=lambda config: RingBuffer(
            lanes=config.slices, sectors=value_ring_sectors(config), banks=BANKS, header=_row(config)
        ),
    ),
    Unit(
        name="value_converter",
        what="packed sectors of V to operands",
        rate="pv_multipliers operands per cycle",
        block="fetcher",
        make=lambda config: _converter(config, "value"),
    ),
    Unit(
        name="pv",
        what="prob x V array: rows of a head's output",
        rate="min(softmax_lanes, pv_multipliers / D) keys per cycle",
        block="prob x V",
        make=lambda config: _pv(config),
    ),
    Unit(
        name="output_packer",
        what="rows of output to sector writes",
        rate="an output beat of slice_width elements per max(1, slice_width / (16 channels)) cycles",
        block="rest",
        make=lambda config: OutputPacker(
            lanes=config.slice_width,
            operand_bits=config.operand_bits,
            head_dim_max=config.head_dim_max,
            channels=config.channels,
            rows=config.tokens_max,
            heads=config.heads_max,
            address_bits=config.local_sector_bits,
        ),
    ),
    Unit(
        name="token_importance",
        what="importance of every token, and who the layer before kept",
        rate="softmax_lanes probabilities, topk_lanes tokens gathered and topk_lanes scattered per cycle",
        block="rest",
        make=lambda config: TokenImportance(
            tokens=config.tokens_max,
            prob_bits=config.prob_bits,
            importance_bits=config.token_importance_bits,
            prob_lanes=config.softmax_lanes,
            lanes=config.topk_lanes,
            contexts=config.contexts,
            slots=config.jobs_in_flight,
        ),
    ),
    Unit(
        name="head_importance",
        what="sums of the magnitudes of each head's output",
        rate="an output beat of slice_width elements per cycle",
        block="rest",
        make=lambda config: HeadImportance(
            lanes=config.slice_width,
            operand_bits=config.operand_bits,
            head_dim_max=config.head_dim_max,
            heads=config.heads_max,
            slots=config.contexts,
            bits=config.head_importance_bits,
        ),
    ),
    Unit(
        name="token_topk",
        what="token and head pruning: marks the k largest importances of a row",
        rate="topk_lanes importances per cycle; row after row, 128 cycles for 1,024 by 16 lanes",
        block="top-k",
        make=lambda config: TopK(**topk_sizes(config)),
    ),
    Unit(
        name="quick_select",
        what="of the token engine: the k-th largest importance, and how many of its equals to keep",
        rate="as the engine",
        make=lambda config: QuickSelect(**topk_sizes(config)),
    ),
    Unit(
        name="zero_eliminator",
        what="moves the live lanes of a row to its front",
        rate="a row of topk_lanes elements per cycle",
        make=lambda config: ZeroEliminator(
            shape=_element(config), lanes=config.topk_lanes, stages=min(3, ZeroEliminator.steps(config.topk_lanes))
        ),
    ),
    Unit(
        name="packer",
        what="joins rows with some live elements into full ones",
        rate="a row of topk_lanes elements per cycle",
        make=lambda config: Packer(shape=_element(config), lanes=config.topk_lanes),
    ),
    Unit(
        name="expander",
        what="importance by rank back to importance by token",
        rate="a row of topk_lanes elements per cycle",
        make=lambda config: Expander(shape=config.token_importance_bits + 1, lanes=config.topk_lanes),
    ),
    Unit(
        name="axi_reader",
        what="of each channel: sector addresses to AXI4 bursts, their beats to sectors",
        rate="a beat of channel_bits per cycle",
        block="fetcher",
        make=lambda config: AxiReader(**_channel(config)),
        count=lambda config: config.channels,
    ),
    Unit(
        name="axi_writer",
        what="of each channel: sector writes to AXI4 bursts",
        rate="a beat of channel_bits per cycle",
        block="rest",
        make=lambda config: AxiWriter(**_channel(config)),
        count=lambda config: config.channels,
    ),
    Unit(
        name="registers",
        what="registers behind AXI4-Lite, job queue, reports, counters, failures",
        rate="one access at a time in each direction",
        block="rest",
        make=lambda config: Registers(config=config),
    ),
    Unit(
        name="job_control",
        what="a job's beginning and its end: who is live, who stays, its report",
        rate="a line of topk_lanes tokens per cycle",
        block="rest",
        make=lambda config: JobControl(config=config),
        simulated=False,
    ),
    Unit(
        name="planner",
        what="blocks of queries, keys and values into their rings, ahead of the rows that need them",
        rate="a group of topk_lanes rows per cycle",
        block="rest",
        make=lambda config: Planner(config=config),
        simulated=False,
    ),
    Unit(
        name="row_control",
        what="which query rows meet which keys, as segments of rows",
        rate="a segment per cycle within a head",
        block="rest",
        make=lambda config: RowControl(config=config),
        simulated=False,
    ),
    Unit(
        name="query_reader",
        what="query rows from their ring to the array, as operands",
        rate="a beat of slice_width operands per cycle within a segment",
        block="rest",
        make=lambda config: QueryReader(config=config),
        simulated=False,
    ),
    Unit(
        name="key_reader",
        what="windows of the key ring, as their keys arrive",
        rate="a window per cycle, across rows and segments",
        block="rest",
        make=lambda config: KeyReader(config=config, places=_qk(config).places - 2),
        simulated=False,
    ),
    Unit(
        name="value_reader",
        what="windows of the value ring, as their values and probabilities arrive",
        rate="a window per cycle, across rows",
        block="rest",
        make=lambda config: ValueReader(config=config, places=_pv(config).latency + 1),
        simulated=False,
    ),
    Unit(
        name="sector_reader",
        what="bitmaps and saved states from memory",
        rate="one request at a time",
        block="rest",
        make=lambda config: SectorReader(config=config),
        simulated=False,
    ),
    Unit(
        name="state_store",
        what="writes a context's state",
        rate="about 4 cycles for each line of topk_lanes tokens and each sector",
        block="rest",
        make=lambda config: StateStore(config=config),
        simulated=False,
    ),
    Unit(
        name="state_load",
        what="reads a context's state back",
        rate="about 2 cycles for each line of topk_lanes tokens",
        block="rest",
        make=lambda config: StateLoad(config=config),
        simulated=False,
    ),
)
UNITS = {unit.name: unit for unit in _UNITS}
"""The units by name: the datapath in the order of the data's way, then control."""


def require_units(names: Iterable[str]) -> None:
    """Raise `UnknownUnitError` for a name that is not in `UNITS`."""
    for name in names:
        if name not in UNITS:
            raise UnknownUnitError(f"unit must be one of {', '.join(UNITS)}, not {name!r}")


def _addresses(config: Config) -> dict[str, Any]:
    return {
        "channels": config.channels,
        "rows": config.topk_lanes,
        "lanes": config.slices,
        "id_bits": (config.tokens_max - 1).bit_length(),
        "sector_bits": config.sector_bits,
        "ring_sectors": (query_ring_sectors(config), key_ring_sectors(config), value_ring_sectors(config)),
        "linear_sectors": lsb_sectors(config),
    }


def _channel(config: Config) -> dict[str, int]:
    return {
        "address_bits": AXI_ADDRESS_BITS,
        "local_bits": config.local_sector_bits,
        "channel_bits": config.channel_bits,
    }


def _qk(config: Config) -> QkArray:
    return QkArray(
        multipliers=config.qk_multipliers,
        lanes=config.softmax_lanes,
        slice_width=config.slice_width,
        operand_bits=config.operand_bits,
        head_dim_max=config.head_dim_max,
        header=_row(config),
    )


def _pv(config: Config) -> PvArray:
    return PvArray(
        multipliers=config.pv_multipliers,
        lanes=config.softmax_lanes,
        slice_width=config.slice_width,
        operand_bits=config.operand_bits,
        prob_bits=config.prob_bits,
        head_dim_max=config.head_dim_max,
        header=_row(config),
    )


def _converter(config: Config, tensor: str) -> Converter:
    return Converter(
        tensor=tensor,
        slices=config.slices,
        slice_width=config.slice_width,
        lanes=config.softmax_lanes,
        operand_bits=config.operand_bits,
        banks=BANKS,
        header=_row(config),
    )
