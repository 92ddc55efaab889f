"""Executes the batch of commands of a request, and writes the reply (`spec.link_protocol`)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.frames import LENGTH_BITS
from spatten.hw.board.memory_master import memory_access
from spatten.hw.board.register_master import register_access
from spatten.hw.lib.parameters import check_integer
from spatten.spec.link_protocol import (
    ACCESS_CYCLES,
    DIVISOR_BITS,
    DIVISOR_MIN,
    WAIT_UNIT,
    Identity,
    LinkStatus,
    Opcode,
)

__all__ = ["RESET_CYCLES", "Executor"]

RESET_CYCLES = 16
"""Least cycles of the accelerator's reset."""
_HIGH_BITS, _LOW_BITS = 16, 32
_TIMER_BITS = _HIGH_BITS + WAIT_UNIT.bit_length() - 1
_FIRST_FAILURE = LinkStatus.SLAVE_ERROR


class Executor(wiring.Component):
    """Executes a batch, command after command, until one does not end with `OKAY`.

    Parameters
    ----------
    identity : bytes
        What an `IDENTITY` is answered, `Identity.SIZE` bytes.
    address_bits : int
        Width of a byte address of memory, 12 to 32; an address with more bits is answered with `DECODE_ERROR`.
    register_bits : int
        Width of a byte address of registers, 2 to 16; as `address_bits`.
    access_cycles : int
        Cycles after which a command that is not answered ends with `TIMEOUT`, 1 to 2**24; a transfer has them for
        each byte.

    Ports
    -----
    start : in, execute the request of `length` bytes; `is_hello` says that it begins a session
    done : out, set for a cycle at the end; `reply_length` then is the length of the reply
    failed : out, set with `done` if a command ended with more than `EXPIRED`
    request_enable, request_address : out, request_data : in, of the memory that holds the request's payload
    reply_enable, reply_address, reply_data : out, to the memory of the reply's payload
    registers : `register_access`
    memory : `memory_access`
    irq : in, the accelerator's interrupt
    reset : out, to the accelerator's reset and `AxiDrain.isolate`; set for 16 cycles at least and until `drained`. A
        `RESET` that ends with `TIMEOUT` leaves it set; the next one goes on with it.
    drained : in, from `AxiDrain`
    divisor_changes : out, set for a cycle: `divisor` is to be the line's, after the reply
    divisor : out

    Throughput: a byte of a request takes 2 cycles, or 3 of an argument, a byte of a reply 1.
    """

    def __init__(
        self, *, identity: bytes, address_bits: int, register_bits: int, access_cycles: int = ACCESS_CYCLES
    ) -> None:
        if not isinstance(identity, bytes):
            raise TypeError(f"identity must be bytes, not {identity!r}")
        if len(identity) != Identity.SIZE:
            raise ValueError(f"identity must have {Identity.SIZE} bytes, not {len(identity)}")
        check_integer("address_bits", address_bits, 12, _LOW_BITS)
        check_integer("register_bits", register_bits, 2, _HIGH_BITS)
        check_integer("access_cycles", access_cycles, 1, 1 << _TIMER_BITS)
        self.identity = identity
        self.address_bits = address_bits
        self.register_bits = register_bits
        self.access_cycles = access_cycles
        super().__init__(
            {
                "start": In(1),
                "length": In(LENGTH_BITS),
                "is_hello": In(1),
                "done": Out(1),
                "reply_length": Out(LENGTH_BITS),
                "failed": Out(1),
                "request_enable": Out(1),
                "request_address": Out(LENGTH_BITS),
                "request_data": In(8),
                "reply_enable": Out(1),
                "reply_address": Out(LENGTH_BITS),
                "reply_data": Out(8),
                "registers": Out(register_access(register_bits)),
                "memory": Out(memory_access(address_bits)),
                "irq": In(1),
                "reset": Out(1),
                "drained": In(1),
                "divisor_changes": Out(1),
                "divisor": Out(DIVISOR_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self._declare(m)
        with m.FSM():
            self._read_command(m)
            self._begin(m)
            self._access_registers(m)
            self._transfer_memory(m)
            self._wait(m)
            self._end(m)
        return m

    def _declare(self, m: Module) -> None:
        """The registers, and what does not depend on the state."""
        self._left = Signal(LENGTH_BITS, reset_less=True, name="request_left")
        """Bytes of the request that have not been read."""
        self._pointer = Signal(LENGTH_BITS, reset_less=True, name="request_pointer")
        self._opcode = Signal(8, reset_less=True, name="opcode")
        self._arguments = Signal(_LOW_BITS + _HIGH_BITS, reset_less=True, name="arguments")
        self._low = self._arguments[:_LOW_BITS]
        self._high = self._arguments[_LOW_BITS:]
        self._count = Signal(range(Identity.SIZE), reset_less=True, name="count")
        """Bytes of the arguments, or of the answer, that are to come, without one."""
        self._status = Signal(LinkStatus, reset_less=True, name="status")
        self._status_place = Signal(LENGTH_BITS, reset_less=True, name="status_place")
        self._reply = Signal(LENGTH_BITS, reset_less=True, name="reply_pointer")
        self._overflows = Signal(reset_less=True, name="overflows")
        self._timer = Signal(_TIMER_BITS + 1, reset_less=True, name="timer")
        """Cycles until a command's time is over: its top bit says that it is."""
        self._fetched = Signal(name="fetched")
        """A byte for the memory is there."""
        self._reads = Signal(name="reads")
        """A byte of the request is read."""
        self._adds = Signal(name="adds")
        """A byte of the reply is written."""
        self._hello = Signal(reset_less=True, name="hello")
        self._stop = Signal(name="memory_stop")
        m.d.comb += [
            self.request_enable.eq(self._reads),
            self.request_address.eq(self._pointer),
            self.reply_address.eq(self._reply),
            self.registers.address.eq(self._high),
            self.registers.value.eq(self._low),
            self.registers.is_write.eq(self._opcode == Opcode.WRITE_REGISTER),
            self.memory.address.eq(self._low),
            self.memory.size.eq(self._high),
            self.memory.is_write.eq(self._opcode == Opcode.WRITE_MEMORY),
            self.memory.given_byte.eq(self.request_data),
            self.memory.stop.eq(self._stop),
            self.reply_length.eq(self._reply),
            self.divisor.eq(self._high),
        ]
        m.d.sync += [self._timer.eq(self._timer - 1), self.done.eq(0), self.failed.eq(0), self.divisor_changes.eq(0)]
        with m.If(self._reads):
            m.d.sync += [self._pointer.eq(self._pointer + 1), self._left.eq(self._left - 1)]
        with m.If(self._adds):
            with m.If(self._reply.all()):
                m.d.sync += self._overflows.eq(1)
            with m.Else():
                m.d.comb += self.reply_enable.eq(1)
                m.d.sync += self._reply.eq(self._reply + 1)
        with m.If(self.memory.idle):
            m.d.sync += self._stop.eq(0)

    def _ends(self, m: Module, status: LinkStatus | Value) -> None:
        """Let the command end with a status."""
        m.d.sync += self._status.eq(status)
        m.next = "END"

    def _read_command(self, m: Module) -> None:
        with m.State("IDLE"):
            m.d.sync += [
                self._left.eq(self.length),
                self._hello.eq(self.is_hello),
                self._pointer.eq(0),
                self._reply.eq(0),
                self._status.eq(LinkStatus.OKAY),
            ]
            with m.If(self.start):
                m.next = "COMMAND"
        with m.State("COMMAND"):
            m.d.sync += [self._status_place.eq(self._reply), self._overflows.eq(0)]
            # Without room for its status a command is not executed.
            with m.If(~self._left.any() | self._reply.all()):
                m.next = "FINISH"
            with m.Else():
                # The status is written at the end, in this place.
                m.d.comb += [self._reads.eq(1), self._adds.eq(1)]
                m.next = "OPCODE"
        with m.State("OPCODE"):
            m.d.sync += self._opcode.eq(self.request_data)
            with m.Switch(self.request_data[4:6]):
                with m.Case(1):
                    m.d.sync += self._count.eq(1)
                    m.next = "ARGUMENT"
                with m.Case(3):
                    m.d.sync += self._count.eq(5)
                    m.next = "ARGUMENT"
                with m.Default():
                    m.next = "BEGIN"
        with m.State("ARGUMENT"):
            with m.If(self._left.any()):
                m.d.comb += self._reads.eq(1)
                m.next = "SHIFT"
            with m.Else():
                self._ends(m, LinkStatus.REFUSED)
        with m.State("SHIFT"):
            m.d.sync += [
                self._arguments.eq(Cat(self._arguments[8:], self.request_data)),
                self._count.eq(self._count - 1),
            ]
            with m.If(self._count.any()):
                m.next = "ARGUMENT"
            with m.Else():
                m.next = "BEGIN"

    def _begin(self, m: Module) -> None:
        """Choose what a command does."""
        is_known_register = ~self._high[self.register_bits :].any()
        is_known_memory = ~self._low[self.address_bits :].any()
        fits = self._high <= self._left
        is_short = ~self._high[LENGTH_BITS:].any()
        is_divisor = (self._high >= DIVISOR_MIN) & ~self._high[DIVISOR_BITS:].any()
        with m.State("BEGIN"):
            m.d.sync += [self._timer.eq(self.access_cycles - 1), self._fetched.eq(0)]
            with m.If(self._hello & (self._opcode != Opcode.IDENTITY)):
                self._ends(m, LinkStatus.REFUSED)
            with m.Else(), m.Switch(self._opcode):
                with m.Case(Opcode.RESET):
                    m.d.sync += [self.reset.eq(1), self._count.eq(RESET_CYCLES - 1)]
                    m.next = "RESET"
                with m.Case(Opcode.IDENTITY):
                    m.d.sync += self._count.eq(Identity.SIZE - 1)
                    m.next = "IDENTITY"
                with m.Case(Opcode.READ_REGISTER, Opcode.WRITE_REGISTER):
                    with m.If(is_known_register):
                        m.next = "REGISTER"
                    with m.Else():
                        self._ends(m, LinkStatus.DECODE_ERROR)
                with m.Case(Opcode.READ_MEMORY, Opcode.WRITE_MEMORY):
                    with m.If(~is_short | (~fits & self.memory.is_write)):
                        self._ends(m, LinkStatus.REFUSED)
                    with m.Elif(is_known_memory):
                        m.next = "MEMORY"
                    with m.Else():
                        self._ends(m, LinkStatus.DECODE_ERROR)
                with m.Case(Opcode.SET_DIVISOR):
                    m.d.sync += self.divisor_changes.eq(is_divisor)
                    self._ends(m, Mux(is_divisor, LinkStatus.OKAY, LinkStatus.REFUSED))
                with m.Case(Opcode.WAIT):
                    m.d.sync += self._timer.eq(Cat(Const(0, _TIMER_BITS - _HIGH_BITS), self._high))
                    m.next = "WAIT"
                with m.Default():
                    self._ends(m, LinkStatus.REFUSED)

    def _ends_at_time(self, m: Module) -> None:
        """Let the command end with `TIMEOUT` if its time is over."""
        with m.Elif(self._timer[-1]):
            self._ends(m, LinkStatus.TIMEOUT)

    def _access_registers(self, m: Module) -> None:
        access = self.registers
        with m.State("REGISTER"):
            # An access that ended with TIMEOUT may still be in flight.
            with m.If(access.idle & ~self.reset):
                m.d.comb += access.start.eq(1)
                m.next = "RESPONSE"
            self._ends_at_time(m)
        with m.State("RESPONSE"):
            m.d.sync += self._count.eq(3)
            with m.If(access.done):
                m.d.sync += self._low.eq(access.data)
                self._ends(m, _status_of(access.response))
                with m.If(~access.is_write & ~access.response[1]):
                    m.next = "COPY"
            self._ends_at_time(m)
        with m.State("COPY"):
            m.d.comb += [self._adds.eq(1), self.reply_data.eq(self._low[:8])]
            m.d.sync += [self._low.eq(self._low[8:]), self._count.eq(self._count - 1)]
            with m.If(~self._count.any()):
                m.next = "END"

    def _transfer_memory(self, m: Module) -> None:
        access = self.memory
        with m.State("MEMORY"):
            with m.If(access.idle):
                m.d.comb += access.start.eq(1)
                m.next = "TRANSFER"
            self._ends_at_time(m)
        with m.State("TRANSFER"):
            m.d.comb += [
                self._adds.eq(access.got),
                self.reply_data.eq(access.got_byte),
                self._reads.eq(access.wants & ~self._fetched),
                access.given.eq(access.wants & self._fetched),
            ]
            m.d.sync += self._fetched.eq(self._reads)
            # A transfer has its time for each byte.
            with m.If(access.got | access.given):
                m.d.sync += self._timer.eq(self.access_cycles - 1)
            with m.If(access.done):
                self._ends(m, _status_of(access.response))
            with m.Elif(self._timer[-1]):
                m.d.sync += self._stop.eq(1)
                self._ends(m, LinkStatus.TIMEOUT)

    def _wait(self, m: Module) -> None:
        with m.State("WAIT"):
            with m.If(self.irq):
                self._ends(m, LinkStatus.OKAY)
            with m.Elif(self._timer[-1]):
                self._ends(m, LinkStatus.EXPIRED)
        with m.State("RESET"):
            with m.If(self._count.any()):
                m.d.sync += self._count.eq(self._count - 1)
            with m.Elif(self.drained):
                m.d.sync += self.reset.eq(0)
                self._ends(m, LinkStatus.OKAY)
            self._ends_at_time(m)
        with m.State("IDENTITY"):
            m.d.comb += self._adds.eq(1)
            m.d.sync += [self._count.eq(self._count - 1), self._status.eq(LinkStatus.OKAY)]
            with m.Switch(self._count):
                for place, byte in enumerate(self.identity):
                    with m.Case(Identity.SIZE - 1 - place):
                        m.d.comb += self.reply_data.eq(byte)
            with m.If(~self._count.any()):
                m.next = "END"

    def _end(self, m: Module) -> None:
        with m.State("END"):
            status = Signal(LinkStatus)
            is_full = self._overflows & (self._status == LinkStatus.OKAY)
            m.d.comb += [
                status.eq(Mux(is_full, LinkStatus.REPLY_FULL, self._status)),
                self.reply_enable.eq(1),
                self.reply_address.eq(self._status_place),
                self.reply_data.eq(status),
            ]
            m.d.sync += self._status.eq(status)
            with m.If(status == LinkStatus.OKAY):
                m.next = "COMMAND"
            with m.Else():
                m.d.sync += self._reply.eq(self._status_place + 1)
                m.next = "FINISH"
        with m.State("FINISH"):
            m.d.sync += [self.done.eq(1), self.failed.eq(self._status >= _FIRST_FAILURE)]
            m.next = "IDLE"


def _status_of(response: Value) -> Value:
    """The status that a response of AXI stands for."""
    return Mux(response[1], response, LinkStatus.OKAY)
