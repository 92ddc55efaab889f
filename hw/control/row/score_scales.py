"""The score scale of every head of the jobs in flight, and how it depends on the codes of the keys."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Value
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import by_bits
from spatten.hw.control.row.row_layouts import score_scale
from spatten.hw.lib.ram import Ram
from spatten.spec.config import LSB_BITS, Config

__all__ = ["excess_bits", "scale_address", "scale_memory"]


def scale_memory(m: Module, config: Config, write: Any) -> Ram:
    """A memory of `score_scale` at `scale_address`, with what each `write`, a `scale_write`, says; its read port is
    free."""
    memory = Ram(shape=score_scale(), depth=max(2, config.jobs_in_flight << max(1, ceil_log2(config.heads_max))))
    m.d.comb += [
        memory.write_enable.eq(write.enable),
        memory.write_address.eq(scale_address(config, write.slot, write.head)),
        memory.write_data.mantissa.eq(write.mantissa),
        memory.write_data.shift.eq(write.shift),
    ]
    return memory


def scale_address(config: Config, slot: Value, head: Value) -> Value:
    """Where the scale of a head of the job in `slot` is."""
    return Cat(head, slot) if config.jobs_in_flight > 1 else Value.cast(head)


def excess_bits(config: Config, key_bits: Value) -> Value:
    """Bits that MSB and LSB together have more than an operand, for the code of the bits of the MSB plane."""
    return by_bits(key_bits, lambda bits: max(0, bits + LSB_BITS - config.operand_bits))
