"""An arbiter: merges many streams into one, in turn."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Shape, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.assertions import check_stream
from spatten.hw.lib.parameters import check_integer, check_shape

__all__ = ["RoundRobin"]


class RoundRobin(wiring.Component):
    """Merges `inputs` streams into one: each in its own order, and none overtaken for long.

    After an input was served, the first input behind it that is valid is served next. An input that waits is thus
    served within `inputs` transfers: every other input goes ahead of it once at most.

    Parameters
    ----------
    shape : shape-like
        Shape of a payload, at least 1 bit. If the consumer has to tell the inputs apart, the payload must say which it
        comes from; a constant at each input costs nothing.
    inputs : int
        At least 1; any number, not only powers of two.

    Ports
    -----
    i : array of `inputs` streams of `shape`, in
    o : stream of `shape`, out

    Latency: 1 cycle from a transfer on an input to its valid on `o`. Throughput: one transfer per cycle, as long as
    any input is valid and `o` is not stalled.

    The turn is kept as a mask of the inputs after the one served last, so nothing is decoded or rotated: two prefix
    ORs, over all requests and over those in the mask, find the first request of each; with a common AND-OR of the
    payloads behind them that is about 4 + 2 log2(`inputs`) levels of two-input gates from an input's valid to the
    output register, 14 for 32 inputs. `o.valid` and `o.payload` come from registers; a ready is one gate behind its
    grant and `o.ready`.
    """

    def __init__(self, *, shape: ShapeLike, inputs: int) -> None:
        check_shape("shape", shape)
        check_integer("inputs", inputs, 1)
        self.shape = shape
        self.inputs = inputs
        super().__init__(
            {"i": In(stream.Signature(shape)).array(inputs), "o": Out(stream.Signature(shape))},
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for number, port in enumerate(self.i):
            check_stream(m, platform, port, f"i[{number}]")
        requests = Cat(port.valid for port in self.i)
        after_last = Signal(self.inputs)
        in_turn = Signal(self.inputs)
        m.d.comb += in_turn.eq(requests & after_last)
        upto_in_turn = _prefix_or(m, in_turn, "in_turn")
        upto_any = _prefix_or(m, requests, "any")
        wraps = ~upto_in_turn[-1]
        # `upto` has the bits from the first request on; `behind` has those behind it, and is the next mask. Their
        # difference is the grant.
        upto = Signal(self.inputs)
        behind = Signal(self.inputs)
        grants = Signal(self.inputs)
        takes = Signal()
        m.d.comb += [
            upto.eq(Mux(wraps, upto_any, upto_in_turn)),
            behind.eq(upto << 1),
            grants.eq(upto & ~behind),
            takes.eq(~self.o.valid | self.o.ready),
        ]
        m.d.comb += [port.ready.eq(takes & grant) for port, grant in zip(self.i, grants, strict=True)]

        width = Shape.cast(self.shape).width
        payload: Value = self._select(grants, width)
        held = Signal(width, reset_less=True)
        with m.If(takes):
            m.d.sync += [self.o.valid.eq(upto_any[-1]), held.eq(payload)]
            with m.If(upto_any[-1]):
                m.d.sync += after_last.eq(behind)
        m.d.comb += Value.cast(self.o.payload).eq(held)
        return m

    def _select(self, grants: Signal, width: int) -> Value:
        """The payload of the granted input: ANDs and a tree of ORs."""
        terms: list[Value] = [
            Mux(grant, Value.cast(port.payload), 0)[:width] for grant, port in zip(grants, self.i, strict=True)
        ]
        while len(terms) > 1:
            pairs = [left | right for left, right in zip(terms[::2], terms[1::2], strict=False)]
            terms = pairs + terms[len(terms) // 2 * 2 :]
        return terms[0]


def _prefix_or(m: Module, value: Value, name: str) -> Value:
    """Bit n: whether any of bits 0 to n is set. Kogge and Stone's prefix network, log2(bits) levels."""
    distance = 1
    while distance < len(value):
        level = Signal(len(value), name=f"{name}_upto_{distance}")
        m.d.comb += level.eq(value | (value << distance))
        value = level
        distance *= 2
    return value
