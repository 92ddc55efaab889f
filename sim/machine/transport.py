"""The transport to a simulated accelerator: what a driver of the board uses, on `sim.machine.machine`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from spatten.host.driver.transport import BusError, Transport, TransportError, TransportTimeoutError
from spatten.sim.machine.machine import Machine, MachineError, Reason, RegisterError, RegisterTimeoutError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["SimulatedTransport"]


class SimulatedTransport(Transport):
    """A transport to `machine`, which is closed with the transport; time passes only in its calls.

    `machine` stays reachable for what no board has: memory models, faults, statistics.
    """

    def __init__(self, machine: Machine) -> None:
        if not isinstance(machine, Machine):
            raise TypeError(f"machine must be a Machine, not {machine!r}")
        self.machine = machine

    @property
    def channels(self) -> int:
        return self.machine.config.channels

    def read_register(self, address: int) -> int:
        with _translated():
            return self.machine.read_register(address)

    def write_register(self, address: int, value: int) -> None:
        with _translated():
            self.machine.write_register(address, value)

    def read_memory(self, channel: int, address: int, size: int) -> bytes:
        with _translated():
            return self.machine.read_memory(channel, address, size)

    def write_memory(self, channel: int, address: int, data: Buffer) -> None:
        with _translated():
            self.machine.write_memory(channel, address, data)

    def wait_for_interrupt(self, *, timeout_cycles: int) -> bool:
        with _translated():
            return self.machine.run(timeout_cycles, until_interrupt=True).reason is Reason.INTERRUPT

    def reset(self) -> None:
        with _translated():
            self.machine.reset()

    def close(self) -> None:
        self.machine.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RegisterError as error:
        raise BusError(str(error)) from error
    except RegisterTimeoutError as error:
        raise TransportTimeoutError(str(error)) from error
    except MachineError as error:
        raise TransportError(str(error)) from error
