"""Accelerators behind a port: a board on a serial line, or whatever has registered a port by a name."""

from __future__ import annotations

import dataclasses
import importlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from spatten.host.driver.device import Device
from spatten.host.driver.errors import DeviceError
from spatten.host.driver.transport import Transport, TransportError
from spatten.spec.config import Config

__all__ = ["Opener", "PortError", "board_device", "open_port", "register_port"]

Opener = Callable[[Config], Transport]
"""Opens a port: the transport to the accelerator of that configuration which is behind it."""
_ports: dict[str, Opener] = {}
_SERIAL = "spatten.host.driver.board_transport"
"""The module of the serial transport, whose `open_serial(port, config=...)` opens a serial device."""


class PortError(TransportError):
    """A port that cannot be opened; the message says why, and what to do about it."""

    exit_status = 2


def register_port(name: str, opener: Opener) -> None:
    """Have the port `name` opened by `opener`: a simulation of a board registers itself so."""
    _ports[name] = opener


def open_port(port: str, config: Config) -> Transport:
    """The transport to what is behind a port: one that is registered by this name, or else a serial device.

    Raises `PortError` where there is no such device or it may not be used, and any `TransportError`.
    """
    if port in _ports:
        return _ports[port](config)
    _require_device(port)
    try:
        module = importlib.import_module(_SERIAL)
    except ModuleNotFoundError as error:
        raise PortError(f"{port!r} cannot be opened: the module {error.name} is not installed") from error
    transport: Transport = module.open_serial(port, config=config)
    return transport


def _require_device(port: str) -> None:
    """Raise `PortError` unless `port` is a device that this user may read and write."""
    if os.name == "nt":
        return  # COM3 is no path: the serial library says what is wrong with it
    path = Path(port)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        named = f"; ports by name: {', '.join(sorted(_ports))}" if _ports else ""
        raise PortError(f"there is no port {port!r}: is the board connected and switched on?{named}") from None
    if not stat.S_ISCHR(mode):
        raise PortError(f"{port!r} is no serial port")
    if not os.access(path, os.R_OK | os.W_OK):
        raise PortError(f"{port!r} may not be used by you: the group that owns it must have you (mostly dialout)")


@contextmanager
def board_device(config: Config, *, port: str) -> Iterator[Device]:
    """The accelerator behind a port, for as long as a `with` block lasts.

    Raises what `open_port` and `Device` raise, and `DeviceError` where it is not of the configuration `config`.
    """
    with Device(open_port(port, config)) as device:
        found, wanted = device.config.as_dict(), config.as_dict()
        names = [one.name for one in dataclasses.fields(config) if one.name != "name"]
        wrong = [f"{name} = {found[name]}, not {wanted[name]}" for name in names if found[name] != wanted[name]]
        if wrong:
            raise DeviceError(
                f"the accelerator behind {port} is not of the configuration {config.name}: it has {', '.join(wrong)}"
            )
        yield device
