"""The memory of the contexts: for each sequence the importance of its tokens, and which of them are kept."""

from typing import Any

from amaranth.hdl import Assert, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.tokens.token_layouts import Layouts
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import one_hot, select, store_at
from spatten.hw.lib.ram import Ram

__all__ = ["ContextMemory", "gather_port", "host_port", "scatter_port"]


def gather_port(layouts: Layouts) -> wiring.Signature:
    """The side of a gather, and of the host's reads: one context, of which lines are read.

    enable, context, line : out, read a line
    state : in, `Layouts.state`: the line of the context, in the cycle after its read; it holds until the next read, as
        long as `context` does and no scatter is active on that context, which must not be while the gather reads
    asked_context : out
    kept_lines : in, the kept lines of `asked_context`, in the same cycle
    """
    return wiring.Signature(
        {
            "enable": Out(1),
            "context": Out(layouts.context),
            "line": Out(layouts.line),
            "state": In(layouts.state),
            "asked_context": Out(layouts.context),
            "kept_lines": In(layouts.line_count),
        }
    )


def scatter_port(layouts: Layouts) -> wiring.Signature:
    """The side of a scatter: one context, of which lines are read and written.

    active : out, the memory of `context` is read by the scatter, and not by the gather
    context : out
    read, read_line : out, read a line
    state : in, `Layouts.state`: the line, in the cycle after its read; it holds until the next read
    write, write_line, write_state : out, write a line
    ends, kept_lines : out, set the context's kept lines; with a write, so that the host is not in the way
    """
    return wiring.Signature(
        {
            "active": Out(1),
            "context": Out(layouts.context),
            "read": Out(1),
            "read_line": Out(layouts.line),
            "state": In(layouts.state),
            "write": Out(1),
            "write_line": Out(layouts.line),
            "write_state": Out(layouts.state),
            "ends": Out(1),
            "kept_lines": Out(layouts.line_count),
        }
    )


def host_port(layouts: Layouts) -> wiring.Signature:
    """The side of the host's writes.

    write, context, line, state : out, write a line; all lines of the context are kept lines from now on
    busy : in, a scatter writes to some context in this cycle: the host must not
    """
    return wiring.Signature(
        {
            "write": Out(1),
            "context": Out(layouts.context),
            "line": Out(layouts.line),
            "state": Out(layouts.state),
            "busy": In(1),
        }
    )


class ContextMemory(wiring.Component):
    """The id lines of all contexts, a memory for each; gather, scatter and host use a context's memory in turns.

    With each context goes the number of its **kept lines**: lines from this one on hold no kept token, whatever their
    kept bits say. A scatter thus need not write the lines behind those of its job.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.
    has_host : bool
        Whether there is a host that writes.

    Ports
    -----
    gather : in, `gather_port`
    scatter : in, `scatter_port`
    host : in, `host_port`; only with `has_host`

    Latency: a cycle from a read to its state; a word must not be read in the cycle in which it is written. Throughput:
    one read of the gather, one read and one write of the scatter per cycle, in different contexts; or in the place of
    that write one of the host.
    """

    def __init__(self, *, layouts: Layouts, has_host: bool = True) -> None:
        self.layouts = layouts
        self.has_host = has_host
        super().__init__(
            {
                "gather": In(gather_port(layouts)),
                "scatter": In(scatter_port(layouts)),
                **optional(has_host, host=In(host_port(layouts))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        contexts, lines = self.layouts.contexts, self.layouts.lines
        gather, scatter = self.gather, self.scatter
        host = self.host if self.has_host else None
        rams = [Ram(shape=self.layouts.state.size, depth=max(2, lines)) for _ in range(contexts)]
        for context, ram in enumerate(rams):
            m.submodules[f"context{context}"] = ram
            scatter_reads = Signal(name=f"scatter_reads{context}")
            gather_reads = gather.enable & one_hot(gather.context, contexts)[context]
            write_enable = scatter.write & one_hot(scatter.context, contexts)[context]
            write_address, write_data = scatter.write_line, scatter.write_state.as_value()
            if host is not None:
                # The host waits while a scatter writes, to whatever context.
                write_enable = write_enable | (host.write & one_hot(host.context, contexts)[context])
                write_address = Mux(scatter.write, write_address, host.line)
                write_data = Mux(scatter.write, write_data, host.state.as_value())
            m.d.comb += [
                scatter_reads.eq(scatter.active & one_hot(scatter.context, contexts)[context]),
                ram.read_enable.eq(Mux(scatter_reads, scatter.read, gather_reads)),
                ram.read_address.eq(Mux(scatter_reads, scatter.read_line, gather.line)),
                ram.write_enable.eq(write_enable),
                ram.write_address.eq(write_address),
                ram.write_data.eq(write_data),
            ]
        words = [ram.read_data for ram in rams]

        kept_lines = [Signal(range(lines + 1), name=f"context{n}_kept_lines") for n in range(contexts)]
        if host is not None:
            with m.If(host.write):
                store_at(m, kept_lines, host.context, lines)
        with m.If(scatter.ends):
            store_at(m, kept_lines, scatter.context, scatter.kept_lines)
        m.d.comb += [
            gather.state.eq(select(words, gather.context)),
            scatter.state.eq(select(words, scatter.context)),
            gather.kept_lines.eq(select(kept_lines, gather.asked_context)),
        ]
        if host is not None:
            m.d.comb += host.busy.eq(scatter.write)
        if asserts(platform):
            meets = scatter.active & gather.enable & (scatter.context == gather.context)
            m.d.sync += Assert(~meets, "a gather reads the context of a scatter\n")
            if host is not None:
                m.d.sync += Assert(~(host.write & host.busy), "the host writes beside a scatter\n")
        return m
