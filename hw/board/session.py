"""Sees to it that no request is executed twice (`spec.link_protocol`)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.frames import LENGTH_BITS

__all__ = ["Session"]

_LAST = 255
"""The highest sequence number; 1 follows, as 0 begins a session."""


class Session(wiring.Component):
    """Decides by a request's sequence number whether it is executed, answered from the stored reply, or refused.

    Ports
    -----
    frame : in, set for a cycle when a request has come; `sequence` is its number, which stays while `listen` is not set
    sequence : in
    execute : out, set for a cycle: the request is to be executed; `is_hello` says that it begins a session
    executed : in, set for a cycle at the end; `reply_length` then is the length of the reply
    reply_length : in
    send : out, set for a cycle: a reply with `sequence` and `send_length` is to be sent
    send_length : out, stays until `sent`
    sent : in, set for a cycle at the end
    listen : out, requests are taken
    active : out, there is a session
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "frame": In(1),
                "sequence": In(8),
                "execute": Out(1),
                "is_hello": Out(1),
                "executed": In(1),
                "reply_length": In(LENGTH_BITS),
                "send": Out(1),
                "send_length": Out(LENGTH_BITS),
                "sent": In(1),
                "listen": Out(1),
                "active": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        last = Signal(8, reset_less=True)
        """Number of the frame that was executed last; of no meaning without a session."""
        following = Signal(8, reset_less=True)
        """Number of the frame that may be executed next."""
        stored_length = Signal(LENGTH_BITS, reset_less=True)
        is_hello = Signal(reset_less=True)
        is_next = Signal(reset_less=True)
        is_repeat = Signal(reset_less=True)
        m.d.sync += [self.execute.eq(0), self.send.eq(0)]
        m.d.comb += self.is_hello.eq(is_hello)
        with m.FSM() as fsm:
            m.d.comb += self.listen.eq(fsm.ongoing("LISTEN"))
            with m.State("LISTEN"):
                m.d.sync += [
                    is_hello.eq(self.sequence == 0),
                    is_next.eq((self.sequence == following) & self.active),
                    is_repeat.eq((self.sequence == last) & self.active),
                ]
                with m.If(self.frame):
                    m.next = "DECIDE"
            with m.State("DECIDE"):
                with m.If(is_hello | is_next):
                    m.d.sync += [
                        self.execute.eq(1),
                        self.active.eq(1),
                        last.eq(self.sequence),
                        following.eq(Mux(self.sequence == _LAST, 1, self.sequence + 1)),
                    ]
                    m.next = "EXECUTE"
                with m.Else():
                    m.d.sync += [self.send.eq(1), self.send_length.eq(Mux(is_repeat, stored_length, 0))]
                    m.next = "SEND"
            with m.State("EXECUTE"):
                m.d.sync += [stored_length.eq(self.reply_length), self.send_length.eq(self.reply_length)]
                with m.If(self.executed):
                    m.d.sync += self.send.eq(1)
                    m.next = "SEND"
            with m.State("SEND"), m.If(self.sent):
                m.next = "LISTEN"
        return m
