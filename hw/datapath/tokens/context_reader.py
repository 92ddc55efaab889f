"""Reads contexts line by line, for a gather or for the host, and decides which tokens are live."""

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.datapath.tokens.context_memory import gather_port, host_port
from spatten.hw.datapath.tokens.token_layouts import Layouts, unstalled
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import one_hot, select

__all__ = ["ContextReader"]


class ContextReader(wiring.Component):
    """Takes the commands of the gather and the accesses of the host, one at a time, and reads the context.

    The host goes first: it gets only a context that has no job, and delays the gather only until it has taken its
    answer. While a write of the host waits for a scatter, a gather of the same context waits, too, so that it does not
    overtake the write.

    A gather walks over the id lines of its context from the first on, as the members come. A token is live if it is a
    member and kept; in a job that clears or restarts everything is kept; the `generating_token` of a job that generates
    is live and pinned whatever else holds.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.
    has_access : bool
        Whether there is a host: only then there are `i_access`, `o_access` and `host`.

    Ports
    -----
    i_gather, i_members, i_access, o_access : streams as in `TokenImportance`
    taken_contexts, taken_slots : in, a bit for each that has a job
    has_room : in, lines may be read in this cycle
    begins : out, in this cycle the command on `i_gather` is taken
    is_gathering : in, from the cycle after `begins` on until the gather's end: nothing further is taken
    command : out, `Layouts.gather`, the command that was taken last
    context : out, that of the gather or access in work
    o : `unstalled` stream of `Layouts.id_line`, out: the lines as they are stored, with who is live; `pinned`
        matters for live tokens only
    memory : out, `gather_port` of a `ContextMemory`
    host : out, `host_port` of a `ContextMemory`

    Latency: 1 cycle from a member line to `o`, 2 from a read of the host to its answer. Throughput: one line per cycle.
    """

    def __init__(self, *, layouts: Layouts, has_access: bool = True) -> None:
        self.layouts = layouts
        self.has_access = has_access
        super().__init__(
            {
                "i_gather": In(stream.Signature(layouts.gather)),
                "i_members": In(stream.Signature(layouts.members)),
                **optional(
                    has_access,
                    i_access=In(stream.Signature(layouts.access)),
                    o_access=Out(stream.Signature(layouts.state)),
                ),
                "taken_contexts": In(layouts.contexts),
                "taken_slots": In(layouts.slots),
                "has_room": In(1),
                "begins": Out(1),
                "is_gathering": In(1),
                "command": Out(layouts.gather),
                "context": Out(layouts.context),
                "o": Out(unstalled(layouts.id_line)),
                "memory": Out(gather_port(layouts)),
                **optional(has_access, host=Out(host_port(layouts))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        if not self.has_access:
            self._gather_only(m)
            return m
        layouts = self.layouts
        command, access = self.i_gather.payload, self.i_access.payload
        taken_contexts, taken_slots = list(self.taken_contexts), list(self.taken_slots)
        # The host reads in a cycle, and has the answer in those that follow.
        host_reads = Signal()
        host_answers = Signal()
        idle = Signal()
        accesses = Signal()
        access_waits = Signal()
        m.d.comb += [
            access_waits.eq(self.i_access.valid & (access.context == command.context)),
            idle.eq(~self.is_gathering & ~host_reads & ~host_answers),
            self.i_access.ready.eq(idle & ~select(taken_contexts, access.context) & ~(access.write & self.host.busy)),
            accesses.eq(self.i_access.valid & self.i_access.ready),
            self.i_gather.ready.eq(
                idle
                & ~accesses
                & ~access_waits
                & ~select(taken_contexts, command.context)
                & ~select(taken_slots, command.slot)
            ),
            self.begins.eq(self.i_gather.valid & self.i_gather.ready),
        ]
        context = Signal(layouts.context, reset_less=True)
        kept_lines = Signal(layouts.line_count, reset_less=True)
        line = Signal(layouts.line, reset_less=True)
        m.d.comb += [
            self.context.eq(context),
            self.memory.asked_context.eq(Mux(accesses, access.context, command.context)),
        ]
        with m.If(idle):
            m.d.sync += [
                context.eq(self.memory.asked_context),
                kept_lines.eq(self.memory.kept_lines),
                line.eq(Mux(accesses, access.line, 0)),
            ]
        m.d.sync += host_reads.eq(accesses & ~access.write)
        with m.If(host_reads):
            m.d.sync += host_answers.eq(1)
        with m.If(host_answers & self.o_access.ready):
            m.d.sync += host_answers.eq(0)

        # The host reads through the gather's port, and the memory's output holds until the host has taken the answer.
        m.d.comb += [
            self.o_access.valid.eq(host_answers),
            self.o_access.payload.importance.eq(self.memory.state.importance),
            self.o_access.payload.kept.eq(Mux(line < kept_lines, self.memory.state.kept, 0)),
            self.host.write.eq(accesses & access.write),
            self.host.context.eq(access.context),
            self.host.line.eq(access.line),
            self.host.state.eq(access.state),
        ]
        self._walk(m, host_reads, context, kept_lines, line)
        return m

    def _gather_only(self, m: Module) -> None:
        """Without a host: takes the commands of the gather."""
        layouts = self.layouts
        command = self.i_gather.payload
        context = Signal(layouts.context, reset_less=True)
        kept_lines = Signal(layouts.line_count, reset_less=True)
        line = Signal(layouts.line, reset_less=True)
        is_free = ~select(list(self.taken_contexts), command.context) & ~select(list(self.taken_slots), command.slot)
        m.d.comb += [
            self.i_gather.ready.eq(~self.is_gathering & is_free),
            self.begins.eq(self.i_gather.valid & self.i_gather.ready),
            self.context.eq(context),
            self.memory.asked_context.eq(command.context),
        ]
        with m.If(~self.is_gathering):
            m.d.sync += [context.eq(command.context), kept_lines.eq(self.memory.kept_lines), line.eq(0)]
        self._walk(m, Const(0, 1), context, kept_lines, line)

    def _walk(self, m: Module, host_reads: Value, context: Signal, kept_lines: Signal, line: Signal) -> None:
        """Read the lines of a gather, while there is room; what goes with a line waits beside the memory's output."""
        layouts = self.layouts
        lanes = layouts.lanes
        lane_bits = ceil_log2(lanes)
        lines_left = Signal(layouts.line_count)
        job = Signal(layouts.gather, name="command", reset_less=True)
        m.d.comb += self.command.eq(job)
        with m.If(self.begins):
            m.d.sync += [job.eq(self.i_gather.payload), lines_left.eq(self.i_gather.payload.lines)]
        reads = Signal()
        m.d.comb += [
            self.i_members.ready.eq((lines_left != 0) & self.has_room),
            reads.eq(self.i_members.ready & self.i_members.valid),
            self.memory.enable.eq(reads | host_reads),
            self.memory.context.eq(context),
            self.memory.line.eq(line),
        ]
        with m.If(reads):
            m.d.sync += [line.eq(line + 1), lines_left.eq(lines_left - 1)]

        valid = Signal()
        number = Signal(layouts.line, reset_less=True)
        last = Signal(reset_less=True)
        members = Signal(layouts.members, reset_less=True)
        is_kept_line = Signal(reset_less=True)
        keeps_everything = Signal(reset_less=True)
        generated = Signal(lanes, reset_less=True)
        is_generated_line = job.generating_token[lane_bits:] == line
        m.d.sync += [
            valid.eq(reads),
            number.eq(line),
            last.eq(lines_left == 1),
            members.eq(self.i_members.payload),
            is_kept_line.eq(line < kept_lines),
            keeps_everything.eq(job.clear | job.restart),
            generated.eq(Mux(job.generates & is_generated_line, one_hot(job.generating_token[:lane_bits], lanes), 0)),
        ]
        state = self.memory.state
        kept = (state.kept & is_kept_line.replicate(lanes)) | keeps_everything.replicate(lanes)
        m.d.comb += [
            self.o.valid.eq(valid),
            self.o.payload.line.eq(number),
            self.o.payload.last.eq(last),
            self.o.payload.live.eq((members.live & kept) | generated),
            self.o.payload.pinned.eq(members.pinned | generated),
            self.o.payload.importance.eq(state.importance),
        ]
