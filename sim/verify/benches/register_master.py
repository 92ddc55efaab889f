"""Testbench of hw/board/register_master.py; tests/hw/board/test_link_parts.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.sim.verify.axi_lite_slave import AxiLiteSlave
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.link_reference import EchoRegisters
from spatten.sim.verify.stream import Bench, PulseCounter

PARAMETERS = parameters()
ACCESSES: int = PARAMETERS["accesses"]


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.6], seed=PARAMETERS["seeds"])
async def accesses_are_done_one_by_one(dut: HierarchyObject, pause: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = bench.random("accesses")
    registers, reference = EchoRegisters(), EchoRegisters()
    slave = AxiLiteSlave(bench, "bus", registers, pause=pause)
    done = PulseCounter(bench, "access__done")
    signals = {
        name: bench.signal(f"access__{name}")
        for name in ("start", "address", "is_write", "value", "idle", "response", "data")
    }
    forget = bench.signal("forget")
    signals["start"].value = 0
    forget.value = 0
    await bench.reset()
    count = forgotten = 0
    for _ in range(ACCESSES):
        address, value, is_write = source.getrandbits(10) << 2, source.getrandbits(32), source.getrandbits(1)
        slave.frozen = source.random() < 0.1
        signals["start"].value = 1
        signals["address"].value, signals["value"].value, signals["is_write"].value = address, value, is_write
        await bench.step()
        signals["start"].value = 0
        # What is given with the start need not stay.
        signals["address"].value, signals["value"].value = source.getrandbits(12), source.getrandbits(32)
        if slave.frozen:
            await bench.step(60)
            assert done.count == count
            forget.value = 1
            slave.clear()
            await bench.step()
            forget.value = 0
            slave.clear()
            registers.log.clear()
            reference = EchoRegisters()
            slave.registers = registers = EchoRegisters()
            forgotten += 1
            await bench.step(3)
            assert int(signals["idle"].value) == 1
            assert done.count == count
            continue
        await bench.until(lambda: done.count > count, what="end", limit=200)  # noqa: B023 - called at once
        count += 1
        if is_write:
            status = reference.write(address, value)
        else:
            status, wanted = reference.read(address)
            assert int(str(signals["data"].value), 2) == wanted
        assert int(str(signals["response"].value), 2) == status
        assert registers.log == reference.log
        await bench.step(source.randint(0, 2))
    assert count + forgotten == ACCESSES
    assert forgotten > 5
