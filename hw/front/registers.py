"""The control front end: registers behind AXI4-Lite, the job queue, reports, counters, and what happens on failure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job_layouts import events_layout, flag_of, job_layout, report_layout
from spatten.hw.front.axi_lite import AxiLite
from spatten.hw.lib.assertions import check_stream
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.logic import one_of
from spatten.hw.memory.axi import Response
from spatten.spec.config import HEAD_DIMS, MULTIPLIER_FRACTION, SCALE_SHIFT_MIN, Config, Feature
from spatten.spec.constants import PAGE_BITS
from spatten.spec.job import JOB_WORDS, Flag, KeyFetch, Mode, flags_of, ignored_bits, index_bits, job_fields
from spatten.spec.register_map import (
    ADDRESS_BITS,
    CORE_ERROR_BITS,
    NO_WORD,
    QUEUED_JOBS,
    QUEUED_REPORTS,
    Access,
    ErrorCode,
    Register,
    RegisterMap,
    RejectReason,
    event_names,
)
from spatten.spec.row_format import CODE_BITS
from spatten.spec.version import DESCRIPTOR_VERSION

__all__ = ["Registers", "channel_error_layout", "core_error_layout"]

_BYTE_BITS = 8
_WORD_BITS = 32
_WORD_BYTES = _WORD_BITS // _BYTE_BITS
_WORD_SHIFT = _WORD_BYTES.bit_length() - 1
"""Bits of a byte address within a word."""
_NUMBER_BITS = NO_WORD.bit_length()
"""Width of the number of a descriptor's word."""
DRAIN_CYCLES = 8
"""Least cycles of a drain: in these the job queue runs empty, and `channels_idle` follows `stop`."""


def channel_error_layout(config: Config) -> data.StructLayout:
    """An error in a channel's response."""
    return data.StructLayout({"valid": 1, "is_write": 1, "is_decode": 1, "channel": index_bits(config.channels)})


def core_error_layout() -> data.StructLayout:
    """An error that the machine found itself: an `ErrorCode` below 16."""
    return data.StructLayout({"valid": 1, "code": CORE_ERROR_BITS})


class Registers(wiring.Component):
    """AXI4-Lite registers as `spec.register_map` declares them, and all that lies between them and the machine.

    A job is written into the descriptor's registers, which keep it, and the doorbell checks every field of it
    (`RejectReason`) and either queues it or says why not. Fields of features that the machine lacks are not kept, but
    for the flags that ask for these. Reports come back through a queue, and hold the interrupt. Counters add up the
    machine's events.

    A soft reset, an error of a channel, an error of the machine, or `busy` without `activity` for TIMEOUT cycles starts
    a drain: `core_reset` and `stop` are set, and jobs in the queue are dropped. Since an AXI transfer cannot be taken
    back, a drain lasts until all bits of `channels_idle` are set, at least `DRAIN_CYCLES`. If it takes more than
    TIMEOUT cycles, CHANNELS_STUCK names the channels that are not idle, and the drain goes on. After an error doorbells
    are refused until the host has cleared ERROR.

    The first error wins; of errors in the same cycle a channel's goes before the machine's, and that before a time-out.
    Errors in a drain are not recorded, as all that they could spoil is thrown away. An error in the cycle in which
    ERROR is cleared is recorded. A time-out needs TIMEOUT cycles in a row; cycles in which a report waits for room in
    the queue do not count.

    Parameters
    ----------
    config : Config
        At most 32 channels.

    Ports
    -----
    s_axi : AXI4-Lite slave; one read and one write at a time, which do not wait for each other
    o_job : stream of `job_layout(config)`, out; it may end without a transfer, but then with `core_reset`
    i_report : stream of `report_layout(config)`, in; not taken during `core_reset`
    i_events : `events_layout(config)`, in; each counted in every cycle
    busy : in, set from the cycle after a job is taken to the cycle in which its report is taken
    activity : in, data move in this cycle
    channels_idle : in, bit c: nothing is in flight on channel c
    channel_error : in, `channel_error_layout(config)`; valid for a cycle
    core_error : in, `core_error_layout()`; valid for a cycle
    core_reset : out, from a register: the machine is to be in reset
    stop : out, from a register: channels are to begin nothing, and to finish what they began; the same as
        `core_reset`, for the units that are not reset
    base : out, for each channel the first byte of its memory, in units of 4 KiB
    irq : out, from a register; high while an enabled interrupt is pending

    Latency: from the later of a write's address and data 2 cycles to its response; of the doorbell 4, and 5 cycles to
    `o_job.valid` if the queue is empty. From a read's address 2 cycles to its data. `core_reset` rises in the cycle
    after an error, and TIMEOUT + 3 cycles after the last activity.

    Checks of the descriptor are made all the time, in three stages of registers; the check of a field is done when a
    doorbell that is written right after the field is answered.
    """

    def __init__(self, *, config: Config) -> None:
        self.map = RegisterMap(config)
        self.config = config
        super().__init__(
            {
                "s_axi": In(AxiLite(address_bits=ADDRESS_BITS)),
                "o_job": Out(stream.Signature(job_layout(config))),
                "i_report": In(stream.Signature(report_layout(config))),
                "i_events": In(events_layout(config)),
                "busy": In(1),
                "activity": In(1),
                "channels_idle": In(config.channels),
                "channel_error": In(channel_error_layout(config)),
                "core_error": In(core_error_layout()),
                "core_reset": Out(1),
                "stop": Out(1),
                "base": Out(PAGE_BITS).array(config.channels),
                "irq": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        writable = [register.word for register in self.map.values() if register.access is not Access.RO]
        write = _Write(m, self.s_axi, writable)
        chosen, reads = self._read_port(m)
        values: dict[str, Value] = {
            register.name: Const(register.reset, _WORD_BITS)
            for register in self.map.values()
            if register.access in (Access.RO, Access.WO)
        }

        # Registers that keep what is written.
        timeout = self._held(m, write, values, "TIMEOUT")
        enable = self._held(m, write, values, "INTERRUPT_ENABLE")
        for channel, base in enumerate(self.base):
            m.d.comb += base.eq(self._held(m, write, values, f"BASE{channel}"))

        draining = Signal()
        report_valid = Signal()
        error_valid = Signal()
        job_level = self._jobs(m, write, values, draining, error_valid)
        report_level = self._reports(m, write, values, draining, report_valid)
        self._failure(m, write, values, timeout, draining, error_valid)
        high = self._counters(m, write, values, chosen, reads)

        pending = self._packed("INTERRUPT_STATUS", done=report_valid, error=error_valid)
        m.d.sync += self.irq.eq((pending & enable).any())
        values["INTERRUPT_STATUS"] = pending
        values["STATUS"] = self._packed(
            "STATUS",
            idle=~(self.busy | draining | (job_level != 0)),
            busy=self.busy,
            draining=draining,
            failed=error_valid,
            queue_free=QUEUED_JOBS - job_level,
            reports=report_level,
        )
        self._write_responses(m, write)
        self._read_values(m, values, high, chosen, reads)
        check_stream(m, platform, self.i_report, "i_report", ends=draining)
        return m

    def _packed(self, name: str, **fields: Value) -> Value:
        """The word of a register with these values in its fields."""
        word: Value = Const(0, _WORD_BITS)
        for field_name, value in fields.items():
            field = self.map[name].field(field_name)
            word = word | (value[: field.width] << field.bit)
        return word[:_WORD_BITS]

    def _held(self, m: Module, write: _Write, values: dict[str, Value], name: str) -> Signal:
        """A register that keeps what is written; its fields are one run of bits from bit 0 on."""
        register = self.map[name]
        held = Signal(register.mask.bit_length(), name=name.lower(), init=register.reset)
        with m.If(write.to(register)):
            m.d.sync += held.eq(write.merged(held))
        values[name] = held
        return held

    # -- Bus ----------------------------------------------------------------------------------------------------------

    def _write_responses(self, m: Module, write: _Write) -> None:
        with m.If(self.s_axi.bvalid & self.s_axi.bready):
            m.d.sync += self.s_axi.bvalid.eq(0)
        with m.If(write.executes & ~write.rings):
            m.d.sync += [
                self.s_axi.bvalid.eq(1),
                self.s_axi.bresp.eq(Mux(write.is_known, Response.OKAY, Response.SLVERR)),
            ]
        with m.If(write.decides):
            m.d.sync += [
                self.s_axi.bvalid.eq(1),
                self.s_axi.bresp.eq(Mux(write.refused, Response.SLVERR, Response.OKAY)),
            ]

    def _read_port(self, m: Module) -> tuple[dict[str, Signal], Signal]:
        """A bit for each register, which is set for the one that is read, and whether one is read in this cycle.

        The bits are made of the address as it comes, so that the words have the whole cycle in which one is read.
        """
        bus = self.s_axi
        held = Signal()
        chosen = {
            register.name: Signal(name=f"reads_{register.name.lower()}", reset_less=True)
            for register in self.map.values()
        }
        reads = Signal()
        m.d.comb += [bus.arready.eq(~held), reads.eq(held & ~bus.rvalid)]
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += held.eq(1)
            m.d.sync += [
                chosen[register.name].eq(bus.araddr[_WORD_SHIFT:] == register.word) for register in self.map.values()
            ]
        with m.If(reads):
            m.d.sync += [held.eq(0), bus.rvalid.eq(1)]
        with m.If(bus.rvalid & bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        return chosen, reads

    def _read_values(
        self, m: Module, values: Mapping[str, Value], high: Value, chosen: Mapping[str, Signal], reads: Signal
    ) -> None:
        highs = [self.map.counter(name)[1].name for name in event_names(self.config)]
        words = {name: value for name, value in values.items() if name not in highs}
        value = one_of([chosen[name] for name in words], list(words.values())) | Mux(
            Cat(chosen[name] for name in highs).any(), high, 0
        )
        is_known = Cat(chosen.values()).any()
        with m.If(reads):
            m.d.sync += [
                self.s_axi.rdata.eq(value),
                self.s_axi.rresp.eq(Mux(is_known, Response.OKAY, Response.SLVERR)),
            ]

    # -- Jobs ---------------------------------------------------------------------------------------------------------

    def _jobs(
        self, m: Module, write: _Write, values: dict[str, Value], draining: Signal, error_valid: Signal
    ) -> Signal:
        """The descriptor's registers, the doorbell and the queue; returns how many jobs are in the queue."""
        job = Signal(job_layout(self.config), name="descriptor")
        lacking = Signal(len(Flag) - len(flags_of(self.config)), name="lacking_flags")
        reserved = self._descriptor(m, write, values, job, lacking)
        reason, word, fails = _first_failure(m, _checks(self.config, job, lacking, reserved))

        # One of the queue's places is its output register.
        m.submodules.jobs = jobs = Fifo(shape=job_layout(self.config), depth=QUEUED_JOBS - 1)
        m.d.comb += [
            jobs.i.payload.eq(job),
            jobs.i.valid.eq(write.decides & ~write.refused),
            self.o_job.payload.eq(jobs.o.payload),
            self.o_job.valid.eq(jobs.o.valid & ~draining),
            jobs.o.ready.eq(self.o_job.ready | draining),
        ]

        doorbell = self.map["DOORBELL"]
        wrong_version = Signal(reset_less=True)
        waits = Signal()
        m.d.comb += write.rings.eq(write.to(doorbell))
        m.d.sync += [
            waits.eq(write.rings),
            write.decides.eq(waits),
            wrong_version.eq(Mux(write.rings, write.data != DESCRIPTOR_VERSION, wrong_version)),
        ]
        m.d.comb += write.waits.eq(waits | write.decides)
        found = Signal(RejectReason)
        found_word = Signal(_NUMBER_BITS, init=NO_WORD)
        with m.If(wrong_version):
            m.d.comb += found.eq(RejectReason.VERSION)
        with m.Elif(draining):
            m.d.comb += found.eq(RejectReason.DRAINING)
        with m.Elif(error_valid):
            m.d.comb += found.eq(RejectReason.FAILED)
        with m.Elif(~jobs.i.ready):
            m.d.comb += found.eq(RejectReason.QUEUE_FULL)
        with m.Elif(fails):
            m.d.comb += [found.eq(reason), found_word.eq(word)]
        m.d.comb += write.refused.eq(wrong_version | draining | error_valid | ~jobs.i.ready | fails)
        last_reason = Signal(RejectReason)
        last_word = Signal(_NUMBER_BITS)
        with m.If(write.decides):
            m.d.sync += [last_reason.eq(found), last_word.eq(Mux(write.refused, found_word, 0))]
        values["REJECT"] = self._packed("REJECT", reason=Value.cast(last_reason), word=last_word)
        return jobs.level

    def _descriptor(self, m: Module, write: _Write, values: dict[str, Value], job: Any, lacking: Signal) -> list[Value]:
        """Keeps the fields in `job`, and in `lacking` the flags that ask for what the machine lacks; returns for each
        word whether a bit of no field was written as one."""
        reserved: list[Value] = []
        ignored = ignored_bits(self.config)
        for number in range(JOB_WORDS):
            register = self.map[f"JOB{number}"]
            parts = [(field, _part(self.config, job, lacking, field.name)) for field in register.fields]
            known = register.mask | ignored.get(number, 0)
            held: Value = Const(0, _WORD_BITS)
            for field, part in parts:
                held = held | (part << field.bit)
            values[register.name] = held[:_WORD_BITS]
            stray = Signal(_WORD_BYTES, name=f"stray{number}")
            merged = write.merged(held[:_WORD_BITS])
            with m.If(write.to(register)):
                m.d.sync += [part.eq(merged[field.bit : field.bit + field.width]) for field, part in parts]
                for byte in range(_WORD_BYTES):
                    mask = ~known >> _BYTE_BITS * byte & (1 << _BYTE_BITS) - 1
                    with m.If(write.strobes[byte] & bool(mask)):
                        m.d.sync += stray[byte].eq((write.data.word_select(byte, _BYTE_BITS) & mask).any())
            reserved.append(stray.any())
        return reserved

    # -- Reports ------------------------------------------------------------------------------------------------------

    def _reports(
        self, m: Module, write: _Write, values: dict[str, Value], draining: Signal, report_valid: Signal
    ) -> Signal:
        m.submodules.reports = reports = Fifo(shape=report_layout(self.config), depth=QUEUED_REPORTS - 1)
        pop = self.map["REPORT_POP"]
        m.d.comb += [
            reports.i.payload.eq(self.i_report.payload),
            self.i_report.ready.eq(reports.i.ready & ~draining),
            reports.i.valid.eq(self.i_report.valid & self.i_report.ready),
            reports.o.ready.eq(write.to(pop) & write.data[pop.field("pop").bit]),
            report_valid.eq(reports.o.valid),
        ]
        for register in self.map.reports:
            fields = {field.name: Mux(report_valid, reports.o.payload[field.name], 0) for field in register.fields}
            values[register.name] = self._packed(register.name, **fields)
        return reports.level

    # -- Failure ------------------------------------------------------------------------------------------------------

    def _failure(
        self,
        m: Module,
        write: _Write,
        values: dict[str, Value],
        timeout: Signal,
        draining: Signal,
        error_valid: Signal,
    ) -> None:
        code = Signal(ErrorCode)
        channel = Signal(index_bits(self.config.channels))
        is_write = Signal()
        stuck = Signal(self.config.channels)
        control, error = self.map["CONTROL"], self.map["ERROR"]
        soft_reset = Signal()
        clears = Signal()
        waited = Signal(range(DRAIN_CYCLES))
        is_waited = waited == DRAIN_CYCLES - 1
        all_idle = self.channels_idle.all()
        quiet = Signal(_WORD_BITS, init=1)
        expired = Signal()
        moves = Signal()
        m.d.sync += moves.eq(self.activity)
        m.d.comb += [
            self.core_reset.eq(draining),
            self.stop.eq(draining),
            soft_reset.eq(write.to(control) & write.data[control.field("soft_reset").bit]),
            clears.eq(write.to(error) & write.data[error.field("valid").bit]),
        ]

        def starts_to_count() -> list[Any]:
            return [quiet.eq(1), expired.eq(0)]

        fails = Signal()
        found = Signal(ErrorCode)
        m.d.sync += [quiet.eq(quiet + 1), expired.eq((quiet >= timeout) & (timeout != 0))]
        with m.If(draining):
            with m.If(~is_waited):
                m.d.sync += waited.eq(waited + 1)
            with m.If(is_waited & all_idle):
                m.d.sync += [draining.eq(0), *starts_to_count()]
            m.d.sync += stuck.eq(Mux(expired, ~self.channels_idle, 0))
        with m.Else():
            m.d.sync += [waited.eq(0), stuck.eq(0)]
            with m.If(~self.busy | moves | (self.i_report.valid & ~self.i_report.ready)):
                m.d.sync += starts_to_count()
            with m.If(self.channel_error.valid):
                m.d.comb += found.eq(Mux(self.channel_error.is_decode, ErrorCode.DECODE_ERROR, ErrorCode.SLAVE_ERROR))
            with m.Elif(self.core_error.valid):
                m.d.comb += found.eq(Mux(self.core_error.code.any(), self.core_error.code, ErrorCode.INTERNAL))
            with m.Elif(expired):
                m.d.comb += found.eq(ErrorCode.TIMEOUT)
            m.d.comb += fails.eq(self.channel_error.valid | self.core_error.valid | expired)
            with m.If(fails | soft_reset):
                m.d.sync += [draining.eq(1), *starts_to_count()]
        with m.If(fails & (~error_valid | clears)):
            m.d.sync += [
                error_valid.eq(1),
                code.eq(found),
                channel.eq(Mux(self.channel_error.valid, self.channel_error.channel, 0)),
                is_write.eq(self.channel_error.valid & self.channel_error.is_write),
            ]
        with m.Elif(clears):
            m.d.sync += [error_valid.eq(0), code.eq(0), channel.eq(0), is_write.eq(0)]
        values["ERROR"] = self._packed(
            "ERROR", code=Value.cast(code), channel=channel, is_write=is_write, valid=error_valid
        )
        values["CHANNELS_STUCK"] = stuck

    # -- Counters -----------------------------------------------------------------------------------------------------

    def _counters(
        self, m: Module, write: _Write, values: dict[str, Value], chosen: Mapping[str, Signal], reads: Signal
    ) -> Signal:
        """Adds up the events; returns the register in which a read of a low word keeps the high word.

        Low words carry into high words a cycle later, and high words are cleared a cycle later. So a high word that is
        taken a cycle after its low word belongs to that low word.
        """
        control = self.map["CONTROL"]
        clears = Signal()
        clears_high = Signal()
        m.d.comb += clears.eq(write.to(control) & write.data[control.field("clear_counters").bit])
        m.d.sync += clears_high.eq(clears)
        events = Signal(events_layout(self.config))
        m.d.sync += events.eq(self.i_events)
        names = event_names(self.config)
        takes = Signal(len(names))
        highs = []
        high = Signal(_WORD_BITS)
        for number, name in enumerate(names):
            low = Signal(_WORD_BITS, name=f"{name}_low")
            above = Signal(_WORD_BITS, name=f"{name}_high")
            carry = Signal(name=f"{name}_carry")
            total = Signal(33, name=f"{name}_total")
            m.d.comb += total.eq(low + (1 if name == "cycles" else events[name]))
            m.d.sync += [
                Cat(low, carry).eq(Mux(clears, 0, total)),
                above.eq(Mux(clears_high, 0, above + carry)),
            ]
            register, _ = self.map.counter(name)
            values[register.name] = low
            m.d.sync += takes[number].eq(reads & chosen[register.name])
            highs.append(above)
        with m.If(takes.any()):
            m.d.sync += high.eq(one_of(list(takes), highs))
        return high


class _Write:
    """A write on the bus: address and data are taken when they come, and it is done when both are there and the write
    before is over. `writable` are the numbers of the words that may be written.

    `rings` is set, by its user, for a write to the doorbell: the response to that follows with `decides`, and `waits`
    must be set until then.
    """

    def __init__(self, m: Module, bus: Any, writable: Sequence[int]) -> None:
        self.rings = Signal(name="doorbell_rings")
        self.waits = Signal(name="doorbell_waits")
        self.decides = Signal(name="doorbell_decides")
        self.refused = Signal(name="doorbell_refused")
        address_held = Signal()
        data_held = Signal()
        self.word = Signal(ADDRESS_BITS - _WORD_SHIFT, reset_less=True, name="write_word")
        self._data = Signal(_WORD_BITS, reset_less=True, name="write_data")
        self.strobes = Signal(_WORD_BYTES, reset_less=True, name="write_strobes")
        self.executes = Signal(name="write_executes")
        self.is_known = Signal(reset_less=True, name="write_is_known")
        """It is of a word of `writable`."""
        m.d.comb += [
            bus.awready.eq(~address_held),
            bus.wready.eq(~data_held),
            self.executes.eq(address_held & data_held & ~bus.bvalid & ~self.waits),
        ]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [
                address_held.eq(1),
                self.word.eq(bus.awaddr[_WORD_SHIFT:]),
                self.is_known.eq(bus.awaddr[_WORD_SHIFT:].matches(*writable)),
            ]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [data_held.eq(1), self._data.eq(bus.wdata), self.strobes.eq(bus.wstrb)]
        with m.If(self.executes):
            m.d.sync += [address_held.eq(0), data_held.eq(0)]
        self._mask = Cat(strobe.replicate(_BYTE_BITS) for strobe in self.strobes)
        self.data = Signal(_WORD_BITS, name="written")
        """What was written, zero in bytes without a strobe."""
        m.d.comb += self.data.eq(self._data & self._mask)

    def to(self, register: Register) -> Value:
        """Whether this register is written now, in at least one byte."""
        return self.executes & (self.word == register.word) & self.strobes.any()

    def merged(self, held: Value) -> Value:
        """The new value of a register that holds `held`."""
        return ((held & ~self._mask) | self.data)[: len(held)]


def _part(config: Config, job: Any, lacking: Signal, name: str) -> Value:
    """A field of the descriptor in the layout of a job; flags of what the machine lacks are in `lacking`, in order."""
    if name == "flags" and len(lacking):
        known = flags_of(config)
        others = iter(lacking)
        return Cat(flag_of(config, job.flags, flag) if flag in known else next(others) for flag in Flag)
    for scale in ("mantissa", "shift"):
        if name.startswith(scale):
            return Value.cast(job.scales[int(name.removeprefix(scale))][scale])
    return Value.cast(job[name])


# -- Checks of the descriptor -----------------------------------------------------------------------------------------


def _checks(
    config: Config, job: Any, lacking: Signal, reserved: Sequence[Value]
) -> list[tuple[RejectReason, int, Value]]:
    """`spec.job.Job.check` as a circuit: (reason, word, whether it applies) of every check; the first that applies is
    reported."""
    fields = {field.name: field for field in job_fields(config)}
    flag = {which: flag_of(config, job.flags, which) for which in Flag}
    generation = job.mode == Mode.GENERATION
    checks: list[tuple[RejectReason, int, Value]] = []

    def refuse(reason: RejectReason, field: str, condition: Value) -> None:
        checks.append((reason, fields[field].word, condition))

    def above(value: Value, most: int) -> Value:
        return value > most if most + 1 < 1 << len(value) else Const(0)

    def unknown(value: Value, known: Collection[int]) -> Value:
        """Whether a value is none of the known ones, which are in rising order."""
        if list(known) == list(range(len(known))):
            return above(value, len(known) - 1)
        return ~value.matches(*known)

    def is_zero(value: Value) -> Value:
        return ~value.any()

    addresses = ["query", "key", "key_lsb", "value", "output", "has_kv", "pinned"]
    if config.has(Feature.SAVED_STATES):
        addresses.append("state")
    address_words = {fields[name].word for name in addresses}
    for word, stray in enumerate(reserved):
        if word not in address_words:
            checks.append((RejectReason.RESERVED, word, stray))
    for word in sorted(address_words):
        checks.append((RejectReason.ADDRESS_RANGE, word, reserved[word]))

    refuse(RejectReason.MODE, "mode", unknown(job.mode, tuple(Mode)))
    progressive = job.fetch == KeyFetch.PROGRESSIVE
    refuse(RejectReason.FETCH, "fetch", unknown(job.fetch, tuple(KeyFetch)) | (progressive & ~generation))
    refuse(RejectReason.CONTEXT, "context", unknown(job.context, range(config.contexts)))
    if config.has(Feature.SAVED_STATES):
        refuse(RejectReason.LOAD_AND_CLEAR, "flags", flag[Flag.LOAD_STATE] & flag[Flag.CLEAR])
    if config.has(Feature.PRUNE_VALUES):
        refuse(RejectReason.PRUNE_VALUES, "flags", flag[Flag.PRUNE_VALUES] & ~generation)
    refuse(RejectReason.HEAD_DIM, "head_dim", unknown(job.head_dim, [HEAD_DIMS.index(d) for d in config.head_dims]))
    for reason, name, widths in (
        (RejectReason.QUERY_BITS, "query_bits", config.query_bits),
        (RejectReason.KEY_BITS, "key_bits", config.plane_bits),
        (RejectReason.VALUE_BITS, "value_bits", config.plane_bits),
    ):
        refuse(reason, name, unknown(job[name], [CODE_BITS.index(bits) for bits in widths]))
    refuse(RejectReason.HEADS, "heads", is_zero(job.heads) | above(job.heads, config.heads_max))
    exists = Cat(job.heads > head for head in range(config.heads_max))
    refuse(RejectReason.HEAD_MASK, "head_mask", is_zero(job.head_mask) | (job.head_mask & ~exists).any())
    refuse(RejectReason.KEYS, "keys", is_zero(job.keys) | above(job.keys, config.tokens_max))
    refuse(RejectReason.KV_ROWS, "kv_rows", job.kv_rows < job.keys)
    refuse(RejectReason.VALID_LENGTH, "valid_length", is_zero(job.valid_length) | (job.valid_length > job.keys))
    refuse(RejectReason.QUERIES, "queries", is_zero(job.queries) | (generation & (job.queries != 1)))
    refuse(RejectReason.QUERY_OFFSET, "query_offset", job.query_offset + job.queries > job.keys)
    for reason, name, which, most in (
        (RejectReason.KEEP_TOKENS, "keep_tokens", Flag.PRUNE_TOKENS, job.keys),
        (RejectReason.KEEP_VALUES, "keep_values", Flag.PRUNE_VALUES, job.keys),
        (RejectReason.KEEP_HEADS, "keep_heads", Flag.PRUNE_HEADS, job.heads),
    ):
        if name not in fields:
            continue
        refuse(reason, name, flag[which] & (is_zero(job[name]) | (job[name] > most)))
    if config.has(Feature.PRUNE_HEADS):
        unity = 1 << MULTIPLIER_FRACTION
        refuse(RejectReason.MULTIPLIER, "multiplier", is_zero(job.multiplier) | above(job.multiplier, unity))
    used = {
        "key_lsb": job.fetch.any(),
        "has_kv": flag[Flag.HAS_KV],
        "pinned": flag[Flag.PINNED],
        "state": flag[Flag.LOAD_STATE] | flag[Flag.STORE_STATE],
    }
    if config.channels > 1:
        for name in addresses:
            strays = job[name][: index_bits(config.channels)].any()
            refuse(RejectReason.ADDRESS, name, strays & used.get(name, Const(1)))
    for head in range(config.heads_max):
        scale = job.scales[head]
        refuse(RejectReason.MANTISSA, f"mantissa{head}", (job.heads > head) & ~scale.mantissa[-1])
    for head in range(config.heads_max):
        scale = job.scales[head]
        refuse(RejectReason.SHIFT, f"shift{head}", (job.heads > head) & (scale.shift < SCALE_SHIFT_MIN))
    if not config.has(Feature.PROGRESSIVE):
        refuse(RejectReason.FEATURE, "fetch", progressive)
    if len(lacking):
        refuse(RejectReason.FEATURE, "flags", lacking.any())
    return checks


_GROUP = 12
"""Checks of a group: one stage finds the first that applies in each group, the next stage the first of all groups."""


def _first_failure(m: Module, checks: Sequence[tuple[RejectReason, int, Value]]) -> tuple[Signal, Signal, Signal]:
    """Reason and word of the first check that applies, and whether one does, 3 cycles later."""
    applies = Signal(len(checks), reset_less=True)
    m.d.sync += applies.eq(Cat(condition for _, _, condition in checks))
    reason_bits = Shape.cast(RejectReason).width
    groups: list[tuple[Value, Value]] = []
    for start in range(0, len(checks), _GROUP):
        entries = [
            (applies[number], Cat(Const(checks[number][0], reason_bits), Const(checks[number][1], _NUMBER_BITS)))
            for number in range(start, min(start + _GROUP, len(checks)))
        ]
        fails, code = _first(entries)
        group_fails = Signal(reset_less=True, name=f"group{start // _GROUP}_fails")
        group_code = Signal(len(code), reset_less=True, name=f"group{start // _GROUP}_code")
        m.d.sync += [group_fails.eq(fails), group_code.eq(code)]
        groups.append((group_fails, group_code))
    fails, code = _first(groups)
    reason = Signal(RejectReason, reset_less=True, name="check_reason")
    word = Signal(_NUMBER_BITS, reset_less=True, name="check_word")
    any_fails = Signal(reset_less=True, name="check_fails")
    m.d.sync += [Cat(Value.cast(reason), word).eq(code), any_fails.eq(fails)]
    return reason, word, any_fails


def _first(entries: Sequence[tuple[Value, Value]]) -> tuple[Value, Value]:
    """The first of (valid, code) that is valid, by a tree; and whether one is."""
    if len(entries) == 1:
        return entries[0]
    half = len(entries) // 2
    (left, left_code), (right, right_code) = _first(entries[:half]), _first(entries[half:])
    return left | right, Mux(left, left_code, right_code)
