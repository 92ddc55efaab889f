"""Testbench of the whole accelerator against bus models of others' making; tests/hw/test_spatten.py runs it.

`cocotbext-axi` is master of the registers and slave of every channel, `host.driver.device` the driver; both sides of
every memory port are held to the protocol by `sim.verify.axi_checker`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import cocotb
from cocotb.handle import HierarchyObject
from cocotb.task import bridge, resume
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam, AxiResp

from spatten.host.driver.device import Device
from spatten.host.driver.transport import BusError, Transport
from spatten.hw.spatten import channel_prefix
from spatten.sim.machine.campaigns import compare, compare_counters, compare_memory, fill, submit
from spatten.sim.machine.random_jobs import Campaign
from spatten.sim.verify.axi_checker import AxiChecker
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench
from spatten.spec.config import Config

if TYPE_CHECKING:
    from typing_extensions import Buffer

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
JOBS: int = PARAMETERS["jobs"]
SECTORS = 2_000


class BusTransport(Transport):
    """Registers and memories of `cocotbext-axi`, for a driver in a thread of its own."""

    def __init__(self, bench: Bench, pause: float) -> None:
        dut = bench.dut
        self._bench = bench
        self._registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.clk, dut.rst)
        self._channels = [
            AxiRam(AxiBus.from_prefix(dut, channel_prefix(channel)), dut.clk, dut.rst, size=1 << 40)
            for channel in range(CONFIG.channels)
        ]
        source = bench.random("pauses")
        for channel in self._channels:
            for interface in (channel.write_if.aw_channel, channel.write_if.w_channel, channel.write_if.b_channel,
                              channel.read_if.ar_channel, channel.read_if.r_channel):  # fmt: skip
                interface.set_pause_generator(_pauses(source, pause))

    @property
    def channels(self) -> int:
        return CONFIG.channels

    def read_register(self, address: int) -> int:
        return int(resume(self._read)(address))

    async def _read(self, address: int) -> int:
        answer = await self._registers.read(address, 4)
        if answer.resp != AxiResp.OKAY:
            raise BusError(f"register {address:#x}: {answer.resp}")
        return int.from_bytes(answer.data, "little")

    def write_register(self, address: int, value: int) -> None:
        resume(self._write)(address, value)

    async def _write(self, address: int, value: int) -> None:
        answer = await self._registers.write(address, value.to_bytes(4, "little"))
        if answer.resp != AxiResp.OKAY:
            raise BusError(f"register {address:#x}: {answer.resp}")

    def read_memory(self, channel: int, address: int, size: int) -> bytes:
        return bytes(self._channels[channel].read(address, size))

    def write_memory(self, channel: int, address: int, data: Buffer) -> None:
        self._channels[channel].write(address, bytes(data))

    def wait_for_interrupt(self, *, timeout_cycles: int) -> bool:
        return bool(resume(self._wait)(timeout_cycles))

    async def _wait(self, cycles: int) -> bool:
        for _ in range(cycles):
            if str(self._bench.dut.irq.value) == "1":
                return True
            await RisingEdge(self._bench.dut.clk)
        return False

    def reset(self) -> None:
        raise NotImplementedError("the bench resets")

    def close(self) -> None:
        pass


def _pauses(source: random.Random, share: float) -> Iterator[bool]:
    while True:
        yield source.random() < share


@cocotb.test
@cocotb.parametrize(pause=[0.0, 0.4])
async def jobs_match_golden(dut: HierarchyObject, pause: float) -> None:
    seed = PARAMETERS["seed"] + int(10 * pause)
    bench = Bench(dut, seed=seed)
    checkers = [AxiChecker(bench, f"{channel_prefix(channel)}_") for channel in range(CONFIG.channels)]
    transport = BusTransport(bench, pause)
    await bench.reset()

    async def clock() -> None:
        while True:
            await bench.step()

    running = cocotb.start_soon(clock())
    campaign = Campaign(CONFIG, seed, sectors=SECTORS, longest=8)
    tasks = [campaign.task() for _ in range(JOBS)]

    @bridge
    def drive() -> None:
        with Device(
            transport, bases=[0x1_2345_6000 + 0x7F_0000_0000 * channel for channel in range(CONFIG.channels)]
        ) as device:
            fill(device, campaign)
            before = device.counters()
            submit(device, tasks)
            for task in tasks:
                compare(device.wait(task.tag, timeout_cycles=50_000), task)
            compare_counters(before, device.counters(), tasks)
            compare_memory(device, campaign, tasks)

    await drive()
    running.cancel()
    for checker in checkers:
        checker.finish()
        assert checker.reads.bursts
        assert checker.writes.bursts
