"""The units as they stand in the accelerator: each made at the size that a configuration gives it.

The only place where the sizes of units follow from a configuration. A unit that serves a feature
(`spec.config.Feature`) stands in the accelerator only with it; `hw.units` counts none without. `hw.core.Core` and
`hw.spatten.Spatten` join these instances, and `hw.units` lists them for `make verilog`, `make synth`, `make units` and
the benches that measure them.
"""

from __future__ import annotations

from amaranth.hdl import ShapeLike
from amaranth.lib import data

from spatten.hw.control.job_control import JobControl, topk_sizes
from spatten.hw.control.job_slots import row_layout
from spatten.hw.control.key_reader import KeyReader
from spatten.hw.control.local_values import LocalValues
from spatten.hw.control.output_router import OutputRouter
from spatten.hw.control.planner import Planner
from spatten.hw.control.prob_router import ProbRouter, softmax_header
from spatten.hw.control.query_reader import QueryReader
from spatten.hw.control.query_ring import QueryRing
from spatten.hw.control.row_control import RowControl
from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.control.saved_states import SavedStates
from spatten.hw.control.sector_reader import SectorReader
from spatten.hw.control.segments import key_header
from spatten.hw.control.state import StateLoad, StateStore
from spatten.hw.control.value_reader import ValueReader
from spatten.hw.control.write_merger import WriteMerger
from spatten.hw.datapath.converter import Converter
from spatten.hw.datapath.head_importance import HeadImportance
from spatten.hw.datapath.output_packer import OutputPacker
from spatten.hw.datapath.progressive import Progressive
from spatten.hw.datapath.pv import PvArray
from spatten.hw.datapath.qk import QkArray
from spatten.hw.datapath.quick_select import QuickSelect
from spatten.hw.datapath.softmax import Softmax
from spatten.hw.datapath.token_importance import TokenImportance
from spatten.hw.datapath.tokens.context_writer import final_token
from spatten.hw.datapath.topk import TopK
from spatten.hw.datapath.widen import Widen
from spatten.hw.front.registers import Registers
from spatten.hw.lib.expander import Expander
from spatten.hw.lib.packer import Packer
from spatten.hw.lib.zero_eliminator import ZeroEliminator
from spatten.hw.memory.address_generator import AddressGenerator
from spatten.hw.memory.axi_reader import AxiReader
from spatten.hw.memory.axi_writer import AxiWriter
from spatten.hw.memory.fetch import Fetch
from spatten.hw.memory.ring_buffer import RingBuffer
from spatten.spec.config import Config, Feature
from spatten.spec.constants import AXI_ADDRESS_BITS, STASH_SLOTS
from spatten.spec.row_format import BANKS, key_ring_sectors, lsb_sectors, value_ring_sectors

SPARE_SCORES = 6
"""Score beats that the Q x K array's output queue holds beyond those in its pipeline, so that reading runs on while a
row changes in softmax."""


def fetch(config: Config) -> Fetch:
    planner = Planner(config=config, sequence_bits=config.sequence_bits)
    return Fetch(
        channels=config.channels,
        rows=config.topk_lanes,
        lanes=config.slices,
        id_bits=planner.id_bits,
        sector_bits=config.sector_bits,
        ring_sectors=planner.ring_sectors,
        linear_sectors=lsb_sectors(config),
        sequence_bits=config.sequence_bits,
        outstanding=config.outstanding,
    )


def address_generator(config: Config) -> AddressGenerator:
    """The part of the fetch unit that makes its requests."""
    return fetch(config).generator


def query_ring(config: Config) -> QueryRing:
    return QueryRing(config=config)


def key_ring(config: Config) -> RingBuffer:
    return RingBuffer(
        lanes=config.slices,
        sectors=key_ring_sectors(config),
        banks=BANKS,
        linear=lsb_sectors(config),
        header=key_reader(config).header,
    )


def value_ring(config: Config) -> RingBuffer:
    return RingBuffer(
        lanes=config.slices, sectors=value_ring_sectors(config), banks=BANKS, header=value_reader(config).header
    )


def key_converter(config: Config) -> Converter:
    header = key_reader(config).header.members
    names = ("count", "group", "dim", "last", "scores")
    return _converter(config, "key", data.StructLayout({name: header[name] for name in names}))


def value_converter(config: Config) -> Converter:
    return _converter(config, "value", 1)


def _converter(config: Config, tensor: str, header: ShapeLike) -> Converter:
    return Converter(
        tensor=tensor,
        slices=config.slices,
        slice_width=config.slice_width,
        lanes=config.softmax_lanes,
        operand_bits=config.operand_bits,
        head_dims=config.head_dims,
        widths=config.plane_bits,
        banks=BANKS,
        header=header,
    )


def qk(config: Config) -> QkArray:
    return QkArray(
        multipliers=config.qk_multipliers,
        lanes=config.softmax_lanes,
        slice_width=config.slice_width,
        operand_bits=config.operand_bits,
        head_dim_max=config.head_dim_max,
        head_dim_min=config.head_dim_min,
        header=key_header(config),
        spare=SPARE_SCORES,
    )


def progressive(config: Config) -> Progressive:
    return Progressive(
        lanes=config.softmax_lanes,
        score_bits=config.score_bits,
        row_max=config.tokens_max,
        slots=STASH_SLOTS,
        header=row_layout(config),
    )


def softmax(config: Config) -> Softmax:
    return Softmax(
        lanes=config.softmax_lanes,
        score_bits=config.score_bits,
        prob_bits=config.prob_bits,
        row_max=config.tokens_max,
        header=softmax_header(config),
        decides=config.has(Feature.PROGRESSIVE),
    )


def prob_router(config: Config) -> ProbRouter:
    return ProbRouter(config=config)


def widen(config: Config) -> Widen:
    return Widen(
        width=config.prob_bits,
        lanes=config.softmax_lanes,
        wide=config.topk_lanes,
        n_max=config.tokens_max,
        header=row_layout(config),
    )


def value_topk(config: Config) -> TopK:
    return TopK(width=config.prob_bits, lanes=config.topk_lanes, n_max=config.tokens_max, header=row_layout(config))


def local_values(config: Config) -> LocalValues:
    return LocalValues(config=config)


def zero_eliminator(config: Config) -> ZeroEliminator:
    """A part of `local_values`."""
    return local_values(config).compactor.eliminator


def packer(config: Config) -> Packer:
    """A part of `local_values`."""
    return local_values(config).compactor.packer


def pv(config: Config) -> PvArray:
    return PvArray(
        multipliers=config.pv_multipliers,
        lanes=config.softmax_lanes,
        slice_width=config.slice_width,
        operand_bits=config.operand_bits,
        prob_bits=config.prob_bits,
        head_dim_max=config.head_dim_max,
        head_dim_min=config.head_dim_min,
        header=row_layout(config),
    )


def output_router(config: Config) -> OutputRouter:
    return OutputRouter(config=config)


def output_packer(config: Config) -> OutputPacker:
    return OutputPacker(
        lanes=config.slice_width,
        operand_bits=config.operand_bits,
        head_dim_max=config.head_dim_max,
        channels=config.channels,
        rows=config.tokens_max,
        heads=config.heads_max,
        address_bits=config.local_sector_bits,
        head_dim_min=config.head_dim_min,
    )


def write_merger(config: Config) -> WriteMerger:
    return WriteMerger(config=config)


def token_importance(config: Config) -> TokenImportance:
    return TokenImportance(
        tokens=config.tokens_max,
        prob_bits=config.prob_bits,
        importance_bits=config.token_importance_bits,
        prob_lanes=config.softmax_lanes,
        lanes=config.topk_lanes,
        contexts=config.contexts,
        slots=config.jobs_in_flight,
        has_access=config.has(Feature.SAVED_STATES),
    )


def expander(config: Config) -> Expander:
    """A part of `token_importance`."""
    return Expander(shape=final_token(layouts(config)), lanes=config.topk_lanes)


def head_importance(config: Config) -> HeadImportance:
    return HeadImportance(
        lanes=config.slice_width,
        operand_bits=config.operand_bits,
        head_dim_max=config.head_dim_max,
        heads=config.heads_max,
        slots=config.contexts,
        bits=config.head_importance_bits,
    )


def token_topk(config: Config) -> TopK:
    return TopK(**topk_sizes(config))


def quick_select(config: Config) -> QuickSelect:
    """The part of `token_topk` that finds the threshold."""
    return QuickSelect(**topk_sizes(config))


def job_control(config: Config) -> JobControl:
    return JobControl(config=config)


def planner(config: Config) -> Planner:
    return Planner(config=config, sequence_bits=config.sequence_bits)


def row_control(config: Config) -> RowControl:
    return RowControl(config=config)


def query_reader(config: Config) -> QueryReader:
    return QueryReader(config=config)


def key_reader(config: Config) -> KeyReader:
    return KeyReader(config=config, places=qk(config).places - 2)


def value_reader(config: Config) -> ValueReader:
    return ValueReader(config=config, places=pv(config).latency + 1)


def sector_reader(config: Config) -> SectorReader:
    return SectorReader(config=config)


def saved_states(config: Config) -> SavedStates:
    return SavedStates(config=config)


def state_store(config: Config) -> StateStore:
    """The part of `saved_states` that stores."""
    return StateStore(config=config)


def state_load(config: Config) -> StateLoad:
    """The part of `saved_states` that loads."""
    return StateLoad(config=config)


def registers(config: Config) -> Registers:
    return Registers(config=config)


def axi_reader(config: Config) -> AxiReader:
    return AxiReader(
        address_bits=AXI_ADDRESS_BITS,
        local_bits=config.local_sector_bits,
        channel_bits=config.channel_bits,
        outstanding=config.outstanding,
    )


def axi_writer(config: Config) -> AxiWriter:
    return AxiWriter(
        address_bits=AXI_ADDRESS_BITS, local_bits=config.local_sector_bits, channel_bits=config.channel_bits
    )
