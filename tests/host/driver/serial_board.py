"""A serial line with a board at its other end, which is the reference of the link, and with faults on the way."""

from __future__ import annotations

from collections.abc import Callable

import serial

from spatten.sim.verify.link_reference import EchoRegisters, LinkReference
from spatten.spec.config import ULX3S, Config
from spatten.spec.link_protocol import BAUD, Identity

CLOCK_HZ = 80_000_000
MEMORY_BYTES = 1 << 16


class SerialBoard:
    """Looks like a `serial.Serial`. Nothing takes time: a read that finds nothing is one that has waited in vain.

    `fault` changes what goes over the line: it is called with "request" or "reply" and the bytes. `speeds` are those
    that the line can do; at another one than the board's nothing comes through.
    """

    def __init__(self, config: Config = ULX3S) -> None:
        self.timeout: float | None = None
        self.baudrate = 9600
        self.interrupt_units: int | None = None
        """After how many more units of waiting the interrupt is high; None: never."""
        self.fault: Callable[[str, bytes], bytes] = lambda _way, data: data
        self.speeds = {BAUD, 1_000_000, 3_000_000}
        self.unplugged = False
        self.is_open = True
        self.low_latency = False
        self.breaks = 0
        self.resets = 0
        self.waits: list[int] = []
        self.reference = LinkReference(
            Identity.of(config, clock_hz=CLOCK_HZ, memory_bytes=MEMORY_BYTES),
            registers=EchoRegisters(),
            memory=bytearray(MEMORY_BYTES),
            interrupt=self._interrupt,
            reset=self._reset,
        )
        self._incoming = bytearray()

    def _interrupt(self, units: int) -> bool:
        self.waits.append(units)
        if self.interrupt_units is None:
            return False
        is_high = self.interrupt_units <= units
        self.interrupt_units = max(self.interrupt_units - units, 0)
        return is_high

    def _reset(self) -> None:
        self.resets += 1

    def _check(self) -> None:
        if self.unplugged or not self.is_open:
            raise serial.SerialException("device disconnected")

    @property
    def in_waiting(self) -> int:
        self._check()
        return len(self._incoming)

    def read(self, size: int = 1) -> bytes:
        self._check()
        data = bytes(self._incoming[:size])
        del self._incoming[:size]
        if not data:
            self.reference.gap()
        return data

    def write(self, data: bytes) -> int:
        self._check()
        divisor = self.reference.divisor
        board = BAUD if divisor is None else CLOCK_HZ / divisor
        if self.baudrate in self.speeds and abs(board / self.baudrate - 1) < 0.03:
            reply = self.reference.receive(self.fault("request", data))
            self._incoming += self.fault("reply", reply) if reply else b""
        return len(data)

    def reset_input_buffer(self) -> None:
        self._check()
        self._incoming.clear()

    def send_break(self, duration: float = 0.25) -> None:
        self._check()
        assert duration >= 0.05
        self.breaks += 1
        self.reference.breaks()

    def set_low_latency_mode(self, wanted: bool) -> None:
        self.low_latency = wanted

    def close(self) -> None:
        self.is_open = False
