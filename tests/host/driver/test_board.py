"""Ports: what is behind a name, what is no port, and what a board that is not the one that was asked for says."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from spatten.host.driver import board
from spatten.host.driver.board import PortError, board_device, open_port, register_port
from spatten.host.driver.errors import DeviceError
from spatten.host.driver.transport import Transport
from spatten.spec.config import TINY, Config
from tests.host.driver.test_device import Fake


@pytest.fixture(autouse=True)
def ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "_ports", {})


@pytest.fixture
def terminal() -> Iterator[str]:
    """A serial device: the end of a pseudo-terminal."""
    ours, theirs = os.openpty()
    yield os.ttyname(theirs)
    os.close(ours)
    os.close(theirs)


def test_a_port_by_name() -> None:
    asked: list[Config] = []

    def opener(config: Config) -> Transport:
        asked.append(config)
        return Fake(config)

    register_port("simulated", opener)
    with board_device(TINY, port="simulated") as device:
        assert device.config == TINY.replace(name="device")
        transport = device.transport
    assert isinstance(transport, Fake)
    assert transport.closed == 1
    assert asked == [TINY]


def test_another_accelerator_than_the_one_that_was_asked_for() -> None:
    fake = Fake(TINY.replace(contexts=1, head_dim_max=16))
    register_port("simulated", lambda config: fake)
    message = (
        "the accelerator behind simulated is not of the configuration tiny: "
        "it has head_dim_max = 16, not 32, contexts = 1, not 2"
    )
    with pytest.raises(DeviceError) as caught, board_device(TINY, port="simulated"):
        pass
    assert str(caught.value) == message
    assert fake.closed == 1


@pytest.mark.parametrize("port", ["/dev/ttyNONE", "", "a\0b", "\ud800", "x" * 5000, "simulated"])
def test_a_port_that_is_not_there(port: str) -> None:
    with pytest.raises(PortError, match=r"there is no port|is no serial port") as caught:
        open_port(port, TINY)
    assert caught.value.exit_status == 2
    assert "ports by name" not in str(caught.value)
    register_port("other", Fake)
    if port == "simulated":
        with pytest.raises(PortError, match=r"is the board connected and switched on\?; ports by name: other$"):
            open_port(port, TINY)


def test_a_file_is_no_port(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    for place in (path, tmp_path):
        with pytest.raises(PortError, match=f"'{place}' is no serial port"):
            open_port(str(place), TINY)


def test_a_port_that_may_not_be_used(terminal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may use any
    with pytest.raises(PortError, match=rf"'{terminal}' may not be used by you: .*\(mostly dialout\)"):
        open_port(terminal, TINY)


def test_any_other_port_is_a_serial_device(terminal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Config]] = []
    fake = Fake()

    def open_serial(port: str, *, config: Config) -> Transport:
        asked.append((port, config))
        return fake

    module = ModuleType(board._SERIAL)
    module.open_serial = open_serial  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, board._SERIAL, module)
    assert open_port(terminal, TINY) is fake
    assert asked == [(terminal, TINY)]
    monkeypatch.setitem(sys.modules, board._SERIAL, None)
    with pytest.raises(PortError, match=r"cannot be opened: the module \S+\.board_transport is not installed"):
        open_port(terminal, TINY)
