"""A command of an SDRAM, as its parts say it to each other."""

from enum import IntEnum
from typing import Any

from amaranth.hdl import Cat, Value
from amaranth.lib import data

from spatten.hw.board.sdram_pins import ADDRESS_PINS

__all__ = ["Command", "command", "command_pins", "give"]


class Command(IntEnum):
    """The pins WE#, CAS#, RAS# of each command, the first as bit 0."""

    LOAD_MODE = 0b000
    REFRESH = 0b001
    PRECHARGE = 0b010
    ACTIVE = 0b011
    WRITE = 0b100
    READ = 0b101
    NOP = 0b111


command = data.StructLayout({"code": 3, "bank": 2, "address": ADDRESS_PINS})
"""A command with what its pins BA and A say."""


def give(target: Any, code: Value | Command, *, bank: Value | int, address: Value | int) -> list[Any]:
    """The statements by which `target`, a `command`, is one."""
    return [target.code.eq(code), target.bank.eq(bank), target.address.eq(address)]


def command_pins(pins: Any) -> Value:
    """WE#, CAS#, RAS# of `sdram_pins`, in the order of `Command`."""
    return Cat(pins.we_n, pins.cas_n, pins.ras_n)
