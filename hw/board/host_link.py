"""The link between a host and what is on the board: from the pins of the serial line to AXI."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from spatten.hw.board.executor import Executor
from spatten.hw.board.frames import BUFFER_BYTES, FrameReceiver, FrameTransmitter
from spatten.hw.board.memory_master import MemoryMaster
from spatten.hw.board.register_master import RegisterMaster
from spatten.hw.board.session import Session
from spatten.hw.board.uart import LineWatch, UartReceiver, UartTransmitter
from spatten.hw.front.axi_lite import AxiLite
from spatten.hw.lib.parameters import check_integer
from spatten.hw.lib.ram import Ram
from spatten.hw.memory.axi import axi4
from spatten.spec.link_protocol import ACCESS_CYCLES, BAUD, DIVISOR_BITS, DIVISOR_MIN, GAP_CYCLES, Identity
from spatten.spec.register_map import ADDRESS_BITS

__all__ = ["HostLink"]


class HostLink(wiring.Component):
    """Executes what a host asks for over a serial line: `spec.link_protocol`.

    Parameters
    ----------
    identity : Identity
        What the bitstream is.
    address_bits : int
        Width of a byte address of the memory, 12 to 32.
    data_bits : int
        Width of the memory's bus.
    divisor : int or None
        Cycles of a bit on the line after a reset or a break; None for those of `BAUD` at the identity's clock.
    gap_cycles : int
        Cycles after which a frame that is interrupted is abandoned, and a line that is low a break; a power of two.
    access_cycles : int
        Cycles after which an access that is not answered has failed.

    Ports
    -----
    rx : in, the line from the host, not synchronous to the clock
    tx : out, the line to the host
    memory : AXI4 master to the memory
    registers : AXI4-Lite master to the accelerator's registers
    irq : in, the accelerator's interrupt
    accelerator_reset : out, to the accelerator's reset and `AxiDrain.isolate`
    drained : in, from `AxiDrain`
    active : out, there is a session: a host has said what begins one since the reset
    failed : out, a frame came damaged, or a command failed, since the session began
    busy : out, a request is being executed or answered

    Outputs to AXI come from registers.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        address_bits: int,
        data_bits: int,
        divisor: int | None = None,
        gap_cycles: int = GAP_CYCLES,
        access_cycles: int = ACCESS_CYCLES,
    ) -> None:
        if not isinstance(identity, Identity):
            raise TypeError(f"identity must be an Identity, not {identity!r}")
        if divisor is None:
            divisor = round(identity.clock_hz / BAUD)
        check_integer("divisor", divisor, DIVISOR_MIN, (1 << DIVISOR_BITS) - 1)
        self.identity = identity
        self.divisor = divisor
        self._watch = LineWatch(cycles=gap_cycles)
        self._executor = Executor(
            identity=identity.encode(),
            address_bits=address_bits,
            register_bits=ADDRESS_BITS,
            access_cycles=access_cycles,
        )
        self._memory = MemoryMaster(address_bits=address_bits, data_bits=data_bits)
        super().__init__(
            {
                "rx": In(1),
                "tx": Out(1),
                "memory": Out(axi4(address_bits, data_bits)),
                "registers": Out(AxiLite(address_bits=ADDRESS_BITS)),
                "irq": In(1),
                "accelerator_reset": Out(1),
                "drained": In(1),
                "active": Out(1),
                "failed": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.watch = watch = self._watch
        m.submodules.uart_receiver = uart_receiver = UartReceiver()
        m.submodules.uart_transmitter = uart_transmitter = UartTransmitter()
        m.submodules.receiver = receiver = FrameReceiver()
        m.submodules.transmitter = transmitter = FrameTransmitter()
        m.submodules.session = session = Session()
        m.submodules.executor = executor = self._executor
        m.submodules.register_master = register_master = RegisterMaster(address_bits=ADDRESS_BITS)
        m.submodules.memory_master = memory_master = self._memory
        m.submodules.request = request = Ram(shape=8, depth=BUFFER_BYTES)
        m.submodules.reply = reply = Ram(shape=8, depth=BUFFER_BYTES)

        divisor = Signal(DIVISOR_BITS, init=self.divisor)
        next_divisor = Signal(DIVISOR_BITS, reset_less=True)
        divisor_changes = Signal()
        with m.If(executor.divisor_changes):
            m.d.sync += [divisor_changes.eq(1), next_divisor.eq(executor.divisor)]
        with m.If(transmitter.done):
            m.d.sync += divisor_changes.eq(0)
            with m.If(divisor_changes):
                m.d.sync += divisor.eq(next_divisor)
        with m.If(watch.breaks):
            m.d.sync += divisor.eq(self.divisor)

        m.d.comb += [
            uart_receiver.rx.eq(self.rx),
            self.tx.eq(uart_transmitter.tx),
            uart_receiver.divisor.eq(divisor),
            uart_transmitter.divisor.eq(divisor),
            watch.line.eq(uart_receiver.line),
            receiver.listen.eq(session.listen),
            receiver.received.eq(uart_receiver.received),
            receiver.byte.eq(uart_receiver.byte),
            receiver.framing_error.eq(uart_receiver.framing_error),
            receiver.gap.eq(watch.gap),
            session.frame.eq(receiver.frame),
            session.sequence.eq(receiver.sequence),
            session.executed.eq(executor.done),
            session.reply_length.eq(executor.reply_length),
            session.sent.eq(transmitter.done),
            executor.start.eq(session.execute),
            executor.is_hello.eq(session.is_hello),
            executor.length.eq(receiver.length),
            executor.irq.eq(self.irq),
            executor.drained.eq(self.drained),
            transmitter.start.eq(session.send),
            transmitter.sequence.eq(receiver.sequence),
            transmitter.length.eq(session.send_length),
            register_master.forget.eq(executor.reset),
            self.accelerator_reset.eq(executor.reset),
            self.active.eq(session.active),
            self.busy.eq(~session.listen),
            request.write_enable.eq(receiver.write_enable),
            request.write_address.eq(receiver.write_address),
            request.write_data.eq(receiver.write_data),
            request.read_enable.eq(executor.request_enable),
            request.read_address.eq(executor.request_address),
            executor.request_data.eq(request.read_data),
            reply.write_enable.eq(executor.reply_enable),
            reply.write_address.eq(executor.reply_address),
            reply.write_data.eq(executor.reply_data),
            reply.read_enable.eq(transmitter.read_enable),
            reply.read_address.eq(transmitter.read_address),
            transmitter.read_data.eq(reply.read_data),
        ]
        with m.If(session.execute & session.is_hello):
            m.d.sync += self.failed.eq(0)
        with m.If(receiver.bad | executor.failed):
            m.d.sync += self.failed.eq(1)
        connect(m, transmitter.o, uart_transmitter.i)
        connect(m, executor.registers, register_master.access)
        connect(m, executor.memory, memory_master.access)
        connect(m, memory_master.bus, flipped(self.memory))
        connect(m, register_master.bus, flipped(self.registers))
        return m
