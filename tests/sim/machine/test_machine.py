"""The simulated machine, with a stand-in for the accelerator: registers, memory, time, faults, and its own end."""

from __future__ import annotations

import gc
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import pytest

from spatten.host.driver.transport import BusError, TransportError, TransportTimeoutError
from spatten.hw.emit.verilog import convert
from spatten.sim.machine.machine import (
    CircuitError,
    Command,
    Condition,
    Hbm2Timings,
    Machine,
    MachineEndedError,
    MachineError,
    ProtocolError,
    Reason,
    RegisterError,
    RegisterTimeoutError,
    RunTimeoutError,
    Status,
    check_ports,
    compile_machine,
    ports_header,
)
from spatten.sim.machine.transport import SimulatedTransport
from spatten.sim.verify.build import SimulatorError, environment
from spatten.spec.config import TINY, ULX3S, Config
from tests.checkout import ROOT
from tests.sim.machine.standin import IDENTITY, Fault, Mode, Register, StandIn

SECTOR = 32
VERILOG = convert(StandIn(TINY), name="spatten", assertions=True)
SOURCE = 0x10_0000
DESTINATION = 0x20_0000


@pytest.fixture(scope="module")
def shared() -> Iterator[Machine]:
    with Machine(VERILOG, TINY) as machine:
        yield machine


@pytest.fixture
def machine(shared: Machine) -> Machine:
    """The machine as new, but for its memory and its cycle count."""
    shared.reset()
    shared.set_back_pressure(0)
    shared.set_memory()
    shared.allow_writes(None)
    shared.statistics(clear=True)
    return shared


def start(
    machine: Machine,
    *,
    beats: int,
    burst: int = 1,
    mode: int = Mode.COPY,
    source: int = SOURCE,
    destination: int = DESTINATION,
    fault: int = Fault.NONE,
) -> None:
    settings = {
        Register.SOURCE: source, Register.DESTINATION: destination, Register.BEATS: beats, Register.BURST: burst,
        Register.MODE: mode, Register.FAULT: fault, Register.START: 1,
    }  # fmt: skip
    for register, value in settings.items():
        machine.write_register(register, value)


def finish(machine: Machine, cycles: int = 100_000) -> int:
    """Wait for the interrupt; the cycles that the job took, by its own count."""
    assert machine.run(cycles, until_interrupt=True).reason is Reason.INTERRUPT
    return machine.read_register(Register.BUSY)


def fill(machine: Machine, beats: int, seed: int = 1) -> list[bytes]:
    contents = [random.Random(seed + channel).randbytes(beats * SECTOR) for channel in range(2)]
    for channel, data in enumerate(contents):
        machine.write_memory(channel, SOURCE, data)
    return contents


def plus_one(data: bytes) -> bytes:
    words = (int.from_bytes(data[i : i + SECTOR], "little") + 1 for i in range(0, len(data), SECTOR))
    return b"".join((word % 2**256).to_bytes(SECTOR, "little") for word in words)


def read_latency(machine: Machine, address: int) -> int:
    start(machine, beats=1, mode=Mode.READ, source=address)
    finish(machine)
    return machine.read_register(Register.READ_LATENCY)


# -- Registers, memory, time ------------------------------------------------------------------------------------------


def test_registers(machine: Machine) -> None:
    assert machine.read_register(Register.IDENTITY) == IDENTITY
    machine.write_register(Register.SCRATCH, 0xA1B2C3D4)
    assert machine.read_register(Register.SCRATCH) == 0xA1B2C3D4
    machine.write_register(Register.SCRATCH, 0x11223344, strobe=0b0101)
    assert machine.read_register(Register.SCRATCH) == 0xA122C344
    assert machine.read_register(Register.NOT_RESET) == 0


def test_registers_answer_with_errors(machine: Machine) -> None:
    with pytest.raises(RegisterError, match="the read of register 0x100 was answered with SLVERR") as caught:
        machine.read_register(Register.SLVERR)
    assert caught.value.response == "SLVERR"
    with pytest.raises(RegisterError, match="the write of register 0x200 was answered with DECERR") as caught:
        machine.write_register(Register.DECERR, 1)
    assert caught.value.response == "DECERR"
    assert machine.read_register(Register.IDENTITY) == IDENTITY


@pytest.mark.parametrize("access", ["read", "write"])
def test_a_register_that_never_answers(machine: Machine, access: str) -> None:
    before = machine.cycles
    with pytest.raises(RegisterTimeoutError, match=f"the {access} of register 0x300 .* within 10000 cycles"):
        machine.read_register(Register.SILENT) if access == "read" else machine.write_register(Register.SILENT, 1)
    assert machine.cycles == before + 10_000
    with pytest.raises(RegisterTimeoutError, match="only a reset"):
        machine.read_register(Register.IDENTITY)
    machine.reset()
    assert machine.read_register(Register.IDENTITY) == IDENTITY


def test_memory_round_trip(machine: Machine) -> None:
    data = random.Random(1).randbytes(300_001)  # over several of the pages that the machine keeps
    machine.write_memory(1, 0x12_3457, data)
    assert machine.read_memory(1, 0x12_3457, len(data)) == data
    assert machine.read_memory(1, 0x12_3456, 2) == bytes([0, data[0]])
    assert machine.read_memory(0, 0x12_3457, 100) == bytes(100)
    end = 2**40 - 5
    machine.write_memory(0, end, memoryview(b"abcde"))
    assert machine.read_memory(0, end, 5) == b"abcde"
    assert machine.read_memory(0, end, 0) == b""


def test_more_memory_than_a_message_holds(machine: Machine) -> None:
    data = bytearray(random.Random(2).randbytes(1 << 20) * 33)
    machine.write_memory(0, 0x4000_0001, data)
    assert machine.read_memory(0, 0x4000_0001, len(data)) == data


def test_run(machine: Machine) -> None:
    before = machine.cycles
    assert machine.run(1234).cycles == 1234
    assert machine.cycles == before + 1234
    assert machine.run(10, until_interrupt=True).reason is Reason.CYCLES
    start(machine, beats=8)
    run = machine.run(1000, until_interrupt=True)
    assert run.reason is Reason.INTERRUPT
    assert machine.interrupt
    assert 40 < run.cycles < 100
    assert machine.run(1000, until_interrupt=True).cycles == 0
    machine.write_register(Register.START, 0)
    assert not machine.interrupt


def test_run_until_a_register(machine: Machine) -> None:
    start(machine, beats=64)
    run = machine.run(10_000, until=Condition(address=Register.START, value=1, mask=1, interval=10))
    assert run.reason is Reason.REGISTER
    assert run.cycles < 200
    machine.reset()
    run = machine.run(500, until=Condition(address=Register.START, value=1, mask=1, interval=10))
    assert run.reason is Reason.CYCLES
    assert 500 <= run.cycles < 510


def test_run_takes_too_long(machine: Machine) -> None:
    seen: list[int] = []
    before = machine.cycles
    with pytest.raises(RunTimeoutError, match=r"of at most 1000000000000 cycles passed in 0\.6 s"):
        machine.run(10**12, timeout_seconds=0.6, progress=seen.append)
    assert seen
    assert seen == sorted(seen)
    assert machine.cycles == before + seen[-1]
    assert machine.read_register(Register.IDENTITY) == IDENTITY


# -- Data and the ideal memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("burst", [1, 4, 64])
@pytest.mark.parametrize("probability", [0, 0.3, 0.9])
@pytest.mark.parametrize("model", ["ideal", "hbm2"])
def test_data_arrives(machine: Machine, burst: int, probability: float, model: str) -> None:
    contents = fill(machine, 256, seed=burst)
    machine.set_memory(model)
    machine.set_back_pressure(probability, seed=burst, registers=True)
    start(machine, beats=256, burst=burst)
    finish(machine)
    for channel, data in enumerate(contents):
        assert machine.read_memory(channel, DESTINATION, len(data)) == plus_one(data)
    machine.run(500)  # hbm2 has acknowledged writes that still wait for the wires
    for channel in machine.statistics():
        assert (channel.read_requests, channel.read_beats) == (256 // burst, 256)
        assert (channel.write_requests, channel.write_beats) == (256 // burst, 256)
        assert channel.busy_cycles == 512


@pytest.mark.parametrize(("latency", "write_latency"), [(40, 8), (1, 1), (2, 3), (173, 50)])
def test_ideal_latency(machine: Machine, latency: int, write_latency: int) -> None:
    machine.set_memory(latency=latency, write_latency=write_latency)
    assert read_latency(machine, SOURCE) == latency
    start(machine, beats=4, burst=4, mode=Mode.WRITE)
    finish(machine)
    assert machine.read_register(Register.WRITE_LATENCY) == write_latency


@pytest.mark.parametrize("burst", [1, 32])
def test_ideal_bandwidth(machine: Machine, burst: int) -> None:
    # From the job's first request to its last beat; the rest is the stand-in noticing its start and its end.
    start(machine, beats=2048, burst=burst, mode=Mode.READ)
    assert 2048 + 40 <= finish(machine) <= 2048 + 40 + 3
    start(machine, beats=2048, burst=burst, mode=Mode.WRITE)
    assert 2048 + 8 <= finish(machine) <= 2048 + 8 + 3
    # Both at once share the wires of the channel: twice the time, no cycle lost but before the first read beat.
    machine.statistics(clear=True)
    start(machine, beats=2048, burst=burst, mode=Mode.READ | Mode.WRITE)
    assert 4096 <= finish(machine) <= 4096 + 3
    for channel in machine.statistics():
        assert channel.busy_cycles == 4096


def test_ideal_takes_turns(machine: Machine) -> None:
    """While reads and writes both wait, each has half of the wires."""
    start(machine, beats=1024, mode=Mode.READ | Mode.WRITE)
    machine.run(140)
    machine.statistics(clear=True)
    machine.run(800)
    for channel in machine.statistics():
        assert (channel.read_beats, channel.write_beats, channel.busy_cycles) == (400, 400, 800)
    finish(machine)


def test_the_model_cannot_change_under_way(machine: Machine) -> None:
    start(machine, beats=64)
    machine.run(10)
    with pytest.raises(MachineError, match="only while no request is in flight"):
        machine.set_memory("hbm2")
    finish(machine)


# -- Faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("response", ["SLVERR", "DECERR"])
def test_read_errors(machine: Machine, response: str) -> None:
    contents = fill(machine, 32)
    machine.inject(1, beat=5, response=response)
    start(machine, beats=32, burst=8)
    finish(machine)
    assert machine.read_register(Register.READ_ERRORS) == 1
    assert machine.read_register(Register.WRITE_ERRORS) == 0
    assert machine.read_memory(0, DESTINATION, 32 * SECTOR) == plus_one(contents[0])
    expected = bytearray(contents[1])
    expected[5 * SECTOR : 6 * SECTOR] = bytes(byte ^ 0xFF for byte in expected[5 * SECTOR : 6 * SECTOR])
    assert machine.read_memory(1, DESTINATION, 32 * SECTOR) == plus_one(expected)


def test_write_errors(machine: Machine) -> None:
    contents = fill(machine, 32)
    before = bytes(8 * SECTOR)
    for channel in range(2):
        machine.write_memory(channel, DESTINATION, bytes(32 * SECTOR))
    machine.inject(0, beat=13, write=True)
    machine.inject(0, beat=31, write=True)
    start(machine, beats=32, burst=8)
    finish(machine)
    assert machine.read_register(Register.WRITE_ERRORS) == 2
    written = plus_one(contents[0])
    part = 8 * SECTOR
    assert machine.read_memory(0, DESTINATION, 32 * SECTOR) == (
        written[:part] + before + written[2 * part : 3 * part] + before
    )
    assert machine.read_memory(1, DESTINATION, 32 * SECTOR) == plus_one(contents[1])


def test_a_reset_forgets_faults_and_requests(machine: Machine) -> None:
    fill(machine, 64)
    machine.inject(0, beat=40)
    machine.stop_channel(1)
    start(machine, beats=64)
    machine.run(60)
    machine.reset()
    contents = fill(machine, 64, seed=9)
    start(machine, beats=64)
    finish(machine)
    assert machine.read_register(Register.READ_ERRORS) == 0
    assert machine.read_memory(1, DESTINATION, 64 * SECTOR) == plus_one(contents[1])


@pytest.mark.parametrize("accept", [False, True])
def test_a_channel_stops_and_resumes(machine: Machine, accept: bool) -> None:
    contents = fill(machine, 256)
    machine.stop_channel(1, accept=accept)
    start(machine, beats=256, burst=4)
    assert machine.run(5000, until_interrupt=True).reason is Reason.CYCLES
    stopped = machine.statistics()[1]
    assert stopped.read_beats == 0
    assert stopped.read_requests == (64 if accept else 0)
    assert machine.statistics()[0].write_beats == 256
    machine.resume_channel(1)
    finish(machine)
    for channel in range(2):
        assert machine.read_memory(channel, DESTINATION, 256 * SECTOR) == plus_one(contents[channel])


def test_a_channel_stops_for_a_while(machine: Machine) -> None:
    fill(machine, 64)
    start(machine, beats=64, mode=Mode.READ)
    now = machine.cycles
    machine.stop_channel(0, cycle=now + 60, until=now + 560)
    machine.run(300)
    assert 0 < machine.statistics()[0].read_beats < 64
    assert 560 < finish(machine) < 610


def test_only_writes_stop(machine: Machine) -> None:
    fill(machine, 32)
    machine.stop_channel(0, reads=False)
    start(machine, beats=32)
    machine.run(500)
    assert (machine.statistics()[0].read_beats, machine.statistics()[0].write_beats) == (32, 0)


def test_back_pressure(machine: Machine) -> None:
    def cycles(probability: float, seed: int) -> int:
        machine.reset()
        machine.set_back_pressure(probability, seed=seed)
        start(machine, beats=1024, mode=Mode.READ)
        return finish(machine)

    free = cycles(0, 1)
    half = cycles(0.5, 1)
    # A beat is offered with probability 1/2 in each cycle, independently: 2,048 cycles, +- 6 standard deviations of 45.
    assert free + 1024 - 270 < half < free + 1024 + 270
    assert cycles(0.5, 1) == half
    assert cycles(0.5, 2) != half


# -- The checkers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "mode", "message"),
    [
        (Fault.READ_VALID_FALLS, Mode.READ, "channel [01] AR: ARVALID fell before ARREADY"),
        (Fault.READ_ADDRESS_CHANGES, Mode.READ, "AR: the request at 0x100000 changed before ARREADY, now at 0x101000"),
        (Fault.WRITE_LENGTH_CHANGES, Mode.WRITE, "AW: the request at 0x200000 changed before AWREADY"),
        (Fault.DATA_VALID_FALLS, Mode.WRITE, "W: WVALID fell before WREADY"),
        (Fault.DATA_CHANGES, Mode.WRITE, "W: WDATA, WSTRB or WLAST changed before WREADY"),
        (Fault.LAST_EARLY, Mode.WRITE, "W: WLAST is high on beat 1 of 4 of the burst at 0x200000"),
        (Fault.LAST_MISSING, Mode.WRITE, "W: WLAST is low on beat 4 of 4 of the burst at 0x200000"),
        (Fault.SIZE, Mode.READ, "AR: the burst at 0x100000 has beats of 16 bytes, the channel has 32"),
        (Fault.FIXED_BURST, Mode.READ, r"AR: the burst at 0x100000 must be INCR \(1\), not 0"),
        (Fault.ANSWER_UNASKED, Mode.READ, "registers B: BVALID is high without a write"),
        (Fault.REGISTER_VALID_FALLS, 0, "registers R: RVALID fell before RREADY"),
        (Fault.REGISTER_DATA_CHANGES, 0, "registers R: RDATA or RRESP changed before RREADY"),
        (Fault.REGISTER_RESPONSE_CHANGES, 0, "registers B: BRESP changed before BREADY"),
    ],
)
def test_violations(machine: Machine, fault: Fault, mode: int, message: str) -> None:
    # Only where the memory lets the circuit wait can it break the rules about waiting.
    machine.set_back_pressure(0.8, seed=3, registers=True)

    def job() -> None:
        start(machine, beats=64, burst=4, mode=mode, fault=fault)
        for number in range(50):
            machine.read_register(Register.BUSY)
            machine.write_register(Register.SCRATCH, number)

    with pytest.raises(ProtocolError, match=message) as caught:
        job()
    # It stands until a reset.
    with pytest.raises(ProtocolError) as again:
        machine.run(1)
    assert str(again.value) == str(caught.value)
    assert str(caught.value).startswith("cycle ")
    machine.read_memory(0, SOURCE, 32)
    machine.reset()
    assert machine.read_register(Register.IDENTITY) == IDENTITY


@pytest.mark.parametrize(
    ("burst", "source", "message"),
    [
        (8, 0x1F80, "the burst at 0x1f80 of 8 beats crosses a 4 KB boundary"),
        (256, 0x0, "the burst at 0x0 of 256 beats crosses a 4 KB boundary"),
        (4, 0x1010, "the burst at 0x1010 is not aligned to its beats"),
    ],
)
def test_illegal_addresses(machine: Machine, burst: int, source: int, message: str) -> None:
    start(machine, beats=256, burst=burst, source=source, mode=Mode.READ)
    with pytest.raises(ProtocolError, match=message):
        machine.run(10)


def test_bursts_up_to_the_boundary_are_legal(machine: Machine) -> None:
    start(machine, beats=256, burst=128, source=0x1000)
    finish(machine)


def test_valid_in_reset() -> None:
    with Machine(VERILOG, TINY) as machine:
        machine.write_register(Register.BREAK_RESET, 0)
        for _ in range(2):
            with pytest.raises(ProtocolError, match="channel 0 AR: ARVALID is high in reset"):
                machine.reset()


def test_assertions(machine: Machine) -> None:
    with pytest.raises(CircuitError, match="the job must not run with this fault"):
        start(machine, beats=64, fault=Fault.ASSERTION)
    with pytest.raises(CircuitError):
        machine.read_register(Register.IDENTITY)
    machine.reset()
    assert machine.read_register(Register.IDENTITY) == IDENTITY


# -- Regions ----------------------------------------------------------------------------------------------------------


def test_writes_inside_of_the_allowed_regions(machine: Machine) -> None:
    fill(machine, 64)
    size = 64 * SECTOR
    # Two regions that join in the middle of a sector, and one for the other channel.
    machine.allow_writes(
        [(0, DESTINATION + 1000, size - 1000), (0, DESTINATION, 1000), (1, DESTINATION - 32, size + 64)]
    )
    start(machine, beats=64, burst=16)
    finish(machine)
    assert machine.outside().bytes == 0


def test_writes_outside_of_the_allowed_regions(machine: Machine) -> None:
    fill(machine, 64)
    size = 64 * SECTOR
    machine.allow_writes([(0, DESTINATION, size - 40), (1, DESTINATION, 500), (1, DESTINATION + 507, size - 507)])
    before = machine.cycles
    start(machine, beats=64, burst=16)
    finish(machine)
    outside = machine.outside(clear=True)
    assert outside.bytes == 47
    assert (outside.channel, outside.address) == (1, DESTINATION + 500)
    assert before < outside.cycle < machine.cycles
    assert [channel.outside_bytes for channel in machine.statistics()] == [40, 7]
    assert machine.outside().bytes == 0
    machine.allow_writes([])
    start(machine, beats=16, burst=16)
    finish(machine)
    assert machine.outside().bytes == 2 * 16 * SECTOR
    assert machine.outside().address == DESTINATION
    machine.allow_writes(None)
    start(machine, beats=16, burst=16)
    finish(machine)
    assert machine.outside().bytes == 0


# -- HBM2: figures by hand from the table of `Hbm2Timings` ------------------------------------------------------------

ROW = 4 * 64 * SECTOR
"""Bytes until the next bank of each group: 4 groups by 64 sectors."""
SAME_BANK = 4 * ROW
"""Bytes until the next row of the same bank."""


def test_hbm2_latencies(machine: Machine) -> None:
    machine.set_memory("hbm2", timings=Hbm2Timings(trefi=0))
    assert read_latency(machine, 0) == 6 + 14 + 14 + 6  # a closed bank: activation, column
    assert read_latency(machine, 64 * SECTOR) == 6 + 14 + 6  # its open row
    assert read_latency(machine, 0) == 6 + 14 + 6
    machine.run(100)
    assert read_latency(machine, SAME_BANK) == 6 + 14 + 14 + 14 + 6  # another row: precharge first
    assert read_latency(machine, ROW) == 6 + 14 + 14 + 6  # another bank, closed
    assert read_latency(machine, SECTOR) == 6 + 14 + 14 + 6  # another bank group, closed
    first = machine.statistics()[0]
    assert (first.activations, first.conflicts, first.refreshes) == (4, 1, 0)


def test_hbm2_bank_groups(machine: Machine) -> None:
    """Sectors of one bank group wait for tCCD_L, others for tCCD_S."""

    def cycles(timings: Hbm2Timings) -> int:
        machine.set_memory("hbm2", timings=timings)
        machine.statistics(clear=True)
        start(machine, beats=1024, mode=Mode.READ)
        return finish(machine)

    assert cycles(Hbm2Timings(trefi=0)) < 1024 + 40 + 20
    # All sectors in one group: every column command waits for tCCD_L = 2.
    grouped = cycles(Hbm2Timings(trefi=0, bank_groups=1, banks_per_group=16, row_sectors=256))
    assert 2 * 1024 <= grouped < 2 * 1024 + 40 + 60


def test_hbm2_rows_are_opened_early(machine: Machine) -> None:
    """Across rows of different banks a stream loses nothing; the look-ahead hides their activation."""

    def cycles(timings: Hbm2Timings) -> int:
        machine.set_memory("hbm2", timings=timings)
        start(machine, beats=1024, burst=8, mode=Mode.READ)
        return finish(machine)

    # 1,024 sectors are 16 rows of 64, in as many banks. The first four are activated tRRD_S = 4 apart: the fourth
    # sector comes 12 cycles after the first, not 3.
    assert 1024 + 40 + 9 <= cycles(Hbm2Timings(trefi=0)) <= 1024 + 40 + 9 + 3
    assert machine.statistics(clear=True)[0].activations == 16
    # Without it a row is activated when the last sector before it has been asked for: it comes 14 cycles later, not 1.
    assert 1024 + 40 + 15 * 13 <= cycles(Hbm2Timings(trefi=0, window=1)) <= 1024 + 40 + 15 * 13 + 3


def test_hbm2_conflicts_in_one_bank(machine: Machine) -> None:
    """One sector of each row of a single bank: a row cycle, tRAS + tRP = 48, each."""
    timings = Hbm2Timings(trefi=0, bank_groups=1, banks_per_group=1, row_sectors=1)
    machine.set_memory("hbm2", timings=timings)
    start(machine, beats=64, mode=Mode.READ)
    cycles = finish(machine)
    assert 63 * 48 + 40 <= cycles <= 63 * 48 + 40 + 3
    assert machine.statistics()[0].conflicts == 63


def test_hbm2_activations_are_limited(machine: Machine) -> None:
    """One sector of each row of 64 banks, one group: an activation every tFAW / 4 = 7.5 cycles, above tRRD_L = 6."""
    timings = Hbm2Timings(trefi=0, bank_groups=1, banks_per_group=64, row_sectors=1)
    machine.set_memory("hbm2", timings=timings)
    start(machine, beats=64, mode=Mode.READ)
    # The last of 64 is activated 15 windows of tFAW and 3 steps of tRRD_L after the first.
    cycles = finish(machine)
    assert 15 * 30 + 3 * 6 + 40 <= cycles <= 15 * 30 + 3 * 6 + 40 + 3


def test_hbm2_refresh_takes_its_share(machine: Machine) -> None:
    # So many banks that no row has to be closed between two refreshes.
    machine.set_memory("hbm2", timings=Hbm2Timings(banks_per_group=16))
    start(machine, beats=65536, burst=32, mode=Mode.READ, source=0)
    machine.run(5000)
    machine.statistics(clear=True)
    machine.run(39_000)
    for channel in machine.statistics():
        assert channel.refreshes == 10
        # Without data: tRFC, before it tRTP of the last read (at most tRAS, of a row just opened) and tRP, after it
        # tRCD, and tRRD_S for the four banks that the stream goes on in.
        lost = (39_000 - channel.busy_cycles) / 10
        assert 6 + 14 + 260 + 14 <= lost <= 34 + 14 + 260 + 14 + 12
    finish(machine)
    refreshed = machine.statistics()
    assert refreshed[0].refreshes == refreshed[1].refreshes


def test_hbm2_channels_refresh_one_after_the_other_if_asked_to(machine: Machine) -> None:
    machine.set_memory("hbm2", timings=Hbm2Timings(refresh_stagger=1000))
    machine.run(3_900 + 500)
    first, second, *_ = machine.statistics()
    assert (first.refreshes, second.refreshes) == (1, 0)
    machine.run(1_000)
    assert machine.statistics()[1].refreshes == 1


def test_hbm2_writes(machine: Machine) -> None:
    machine.set_memory("hbm2", timings=Hbm2Timings(trefi=0))
    start(machine, beats=2048, burst=8, mode=Mode.WRITE)
    # Posted: the answer comes as in the ideal memory, and the wires carry a beat a cycle.
    cycles = finish(machine)
    assert 2048 <= cycles < 2048 + 60
    assert machine.read_register(Register.WRITE_LATENCY) == 8
    # A mix pays for turning the wires around, but only once for a buffer of writes.
    machine.run(200)
    machine.statistics(clear=True)
    start(machine, beats=2048, burst=8, mode=Mode.READ | Mode.WRITE)
    assert 4096 < finish(machine) < 1.35 * 4096
    machine.run(200)
    assert machine.statistics()[0].busy_cycles == 4096


# -- Other widths, waves, builds --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sixteen_bits(tmp_path: Path) -> None:
    config = ULX3S
    waves = tmp_path / "deep" / "machine.vcd"
    with Machine(convert(StandIn(config), name="spatten"), config, waves=waves) as machine:
        for model in ("ideal", "hbm2"):
            machine.set_memory(model)
            data = random.Random(4).randbytes(512)
            machine.write_memory(0, SOURCE, data)
            start(machine, beats=256, burst=16)
            finish(machine)
            words = (int.from_bytes(data[i : i + 2], "little") + 1 for i in range(0, 512, 2))
            assert machine.read_memory(0, DESTINATION, 512) == b"".join(
                (word % 2**16).to_bytes(2, "little") for word in words
            )
            assert machine.read_register(Register.READ_LATENCY) == 40
            machine.run(1000)
            assert machine.statistics(clear=True)[0].busy_cycles == 512
            machine.write_memory(0, DESTINATION, bytes(512))
    text = waves.read_text()
    assert "m00_axi_araddr" in text
    assert len(text) > 10_000


@pytest.mark.slow
def test_a_random_start() -> None:
    seen = {}
    for seed in (1, 2, 2, 3):
        with Machine(VERILOG, TINY, random_start=seed) as machine:
            assert [machine.read_register(register) for register in (0, 4, 8, 12, 16)] == [IDENTITY, 0, 0, 0, 0]
            value = machine.read_register(Register.NOT_RESET)
            assert seen.setdefault(seed, value) == value
            start(machine, beats=8)
            finish(machine)
    assert len(set(seen.values())) == 3


def test_builds_are_kept() -> None:
    program = compile_machine(VERILOG, TINY)
    started = time.monotonic()
    assert compile_machine(VERILOG, TINY) == program
    assert time.monotonic() - started < 5


def test_ports_are_checked() -> None:
    with pytest.raises(SimulatorError, match="the Verilog has no module other"):
        check_ports(VERILOG, TINY, top="other")
    with pytest.raises(SimulatorError, match=r"ports of 4 channels: m02_axi_awid \(missing\), .* and \d+ more"):
        check_ports(VERILOG, TINY.replace(channels=4))
    with pytest.raises(SimulatorError, match=r"m00_axi_wdata \(256 bits, must be 128\)"):
        check_ports(VERILOG, TINY.replace(channel_bits=128))


def test_verilog_that_does_not_compile() -> None:
    with pytest.raises(SimulatorError, match="verilator could not compile spatten"):
        Machine(VERILOG.replace("endmodule", "assign x = ;\nendmodule", 1), TINY)


@pytest.mark.parametrize("config", [TINY, ULX3S, Config()], ids=lambda config: config.name)
@pytest.mark.needs("g++")
def test_the_program_is_free_of_warnings(config: Config, tmp_path: Path) -> None:
    """With -Wall -Wextra, for every kind of port: 1 to 16 channels, data as integers and as arrays."""
    from spatten.sim.machine.machine import port_widths

    (tmp_path / "machine_ports.h").write_text(ports_header(config), encoding="utf-8")
    kinds = ((8, "CData"), (16, "SData"), (32, "IData"), (64, "QData"))
    ports = [
        f"{next((kind for bits, kind in kinds if (width or 12) <= bits), f'VlWide<{width // 32}>')} {name};"
        for name, width in port_widths(config).items()
    ]
    model = """#pragma once
#include "verilated.h"
#include "verilated_types.h"
struct Vtop { explicit Vtop(VerilatedContext*); void eval(); void final(); PORTS };
"""
    (tmp_path / "Vtop.h").write_text(model.replace("PORTS", "\n".join(ports)), encoding="utf-8")
    include = Path(environment("verilator")["VERILATOR_ROOT"]) / "include"
    command = ["c++", "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-DVM_TRACE=0"]
    command += ["-isystem", str(include), "-isystem", str(include / "vltstd"), "-I", str(tmp_path)]
    command.append(str(ROOT / "sim" / "machine" / "machine.cpp"))
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr


# -- Arguments --------------------------------------------------------------------------------------------------------


def test_arguments(machine: Machine) -> None:
    with pytest.raises(ValueError, match="address must be a multiple of 4, not 0x2"):
        machine.read_register(2)
    with pytest.raises(ValueError, match="value must be 0 to 4294967295, not -1"):
        machine.write_register(0, -1)
    with pytest.raises(TypeError, match=r"address must be an integer, not 1\.5"):
        machine.read_register(1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="channel must be 0 to 1, not 2"):
        machine.read_memory(2, 0, 1)
    with pytest.raises(ValueError, match=r"address \+ size must be at most 2\*\*40, not 0x10000000001"):
        machine.write_memory(0, 2**40 - 1, b"ab")
    with pytest.raises(ValueError, match="cycles must be 0 to"):
        machine.run(-1)
    with pytest.raises(ValueError, match="timeout_seconds must be above 0 or None, not 0"):
        machine.run(1, timeout_seconds=0)
    with pytest.raises(ValueError, match="model must be one of ideal, hbm2, not 'ddr4'"):
        machine.set_memory("ddr4")
    with pytest.raises(ValueError, match="latency must be 1 to 1000000, not 0"):
        machine.set_memory(latency=0)
    with pytest.raises(ValueError, match="timings must be None with the model ideal"):
        machine.set_memory(timings=Hbm2Timings())
    with pytest.raises(ValueError, match="response must be one of SLVERR, DECERR, not 'OKAY'"):
        machine.inject(0, beat=0, response="OKAY")
    with pytest.raises(ValueError, match="probability must be 0 to below 1, not 1"):
        machine.set_back_pressure(1)
    with pytest.raises(TypeError, match="probability must be a number, not '0'"):
        machine.set_back_pressure("0")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="until must be 5 to"):
        machine.stop_channel(0, cycle=5, until=4)
    with pytest.raises(ValueError, match="size must be 0 to"):
        machine.allow_writes([(0, 0, -1)])
    with pytest.raises(ValueError, match="cycles must be 2 to 1000000, not 1"):
        machine.reset(cycles=1)
    with pytest.raises(ValueError, match="interval must be 1 to"):
        Condition(address=0, value=0, interval=0)
    with pytest.raises(ValueError, match="trp must be 1 to 1000000, not 0"):
        Hbm2Timings(trp=0)
    with pytest.raises(ValueError, match="at most 64 banks, not 80"):
        Hbm2Timings(bank_groups=5, banks_per_group=16)
    with pytest.raises(ValueError, match="write_low < write_high <= write_buffer must hold, not 8, 99, 64"):
        Hbm2Timings(write_high=99)
    with pytest.raises(ValueError, match="return_buffer must be at least a sector of the narrowest channel"):
        Hbm2Timings(return_buffer=8)
    with pytest.raises(ValueError, match="answer_seconds must be above 0, not 0"):
        Machine(VERILOG, TINY, answer_seconds=0)
    with pytest.raises(ValueError, match="random_start must be 1 to 2147483647, not 0"):
        Machine(VERILOG, TINY, random_start=0)
    with pytest.raises(ValueError, match="optimize must be 0 to 3, not 4"):
        Machine(VERILOG, TINY, optimize=4)
    with pytest.raises(TypeError, match="verilog must be a string, not None"):
        compile_machine(None, TINY)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="config must be a Config, not 'tiny'"):
        compile_machine(VERILOG, "tiny")  # type: ignore[arg-type]
    # Nothing of this reached the machine.
    assert machine.read_register(Register.IDENTITY) == IDENTITY


def test_requests_that_make_no_sense_are_answered(machine: Machine) -> None:
    """What the Python side never sends: the process answers and lives."""
    for command, arguments, message in (
        (99, b"", "no such command"),
        (1, b"abc", "too short"),
        (2, bytes(50), "too long"),
        (3, (7).to_bytes(4, "little") + bytes(8), "no channel 7"),
        (4, bytes(12) + b"\xff\xff\xff\xff", "do not fit one answer"),
        (7, bytes(14), "an error response is"),
        (10, bytes(4), "at least 2 cycles"),
    ):
        with pytest.raises(MachineError, match=message):
            machine._exchange(command, arguments)
    assert machine.read_register(Register.IDENTITY) == IDENTITY


# -- The process ------------------------------------------------------------------------------------------------------


def gone(pid: int) -> bool:
    """Neither running nor a zombie."""
    return not Path(f"/proc/{pid}").exists()


def test_closing() -> None:
    machine = Machine(VERILOG, TINY)
    pid = machine._process.pid
    assert not gone(pid)
    machine.close()
    machine.close()
    assert gone(pid)
    assert machine.log() == ""
    with pytest.raises(MachineEndedError, match="it was closed"):
        machine.read_register(0)


def test_an_exception_ends_it() -> None:
    machine = Machine(VERILOG, TINY)
    with pytest.raises(ZeroDivisionError), machine:
        raise ZeroDivisionError
    assert gone(machine._process.pid)


def test_a_machine_that_is_forgotten_ends() -> None:
    machine = Machine(VERILOG, TINY)
    pid = machine._process.pid
    del machine
    gc.collect()
    assert gone(pid)


def test_a_process_that_dies() -> None:
    with Machine(VERILOG, TINY) as machine:
        os.kill(machine._process.pid, signal.SIGKILL)
        with pytest.raises(MachineEndedError, match="its process ended with SIGKILL"):
            machine.run(10)
        with pytest.raises(MachineEndedError, match="SIGKILL"):
            machine.run(10)
    assert gone(machine._process.pid)


def test_a_process_that_does_not_answer() -> None:
    with Machine(VERILOG, TINY) as machine:
        machine._answer_seconds = 0.5
        pid = machine._process.pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(MachineEndedError, match=r"no answer within 0\.5 s"):
            machine.run(10)
        assert gone(pid)


def test_a_request_that_cannot_be_read() -> None:
    with Machine(VERILOG, TINY) as machine:
        assert machine._process.stdin is not None
        os.write(machine._process.stdin.fileno(), b"\xff\xff\xff\xff")
        with pytest.raises(MachineEndedError, match="exit status 2"):
            machine.run(10)


@pytest.mark.needs("g++", "make", "perl")
def test_an_interrupt_from_the_keyboard() -> None:
    """Ctrl-C in the middle of a run ends the machine and the program, and leaves nothing behind."""
    program = (
        "import signal\nfrom spatten.spec.config import TINY\nfrom spatten.sim.machine.machine import Machine\n"
        "from spatten.hw.emit.verilog import convert\n"
        "from tests.sim.machine.standin import StandIn\n"
        # What runs in the background of a shell would ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "machine = Machine(convert(StandIn(TINY), name='spatten', assertions=True), TINY)\n"
        "print(machine._process.pid, flush=True)\n"
        "try:\n    machine.run(10**12)\nexcept KeyboardInterrupt:\n    print('interrupted', flush=True)\n"
        "machine.close()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "interrupted\n"
        assert process.wait(timeout=20) == 0
    assert gone(pid)


@pytest.mark.needs("g++", "make", "perl")
def test_a_program_that_is_killed_leaves_no_machine() -> None:
    program = (
        "from spatten.spec.config import TINY\nfrom spatten.sim.machine.machine import Machine\n"
        "from spatten.hw.emit.verilog import convert\n"
        "from tests.sim.machine.standin import StandIn\n"
        "machine = Machine(convert(StandIn(TINY), name='spatten', assertions=True), TINY)\n"
        "print(machine._process.pid, flush=True)\n"
        "machine.run(10**12)\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not gone(pid):
        state = Path(f"/proc/{pid}/stat")
        # Its new parent may be slow to take notice, or none in a container: a zombie has ended, too.
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    assert gone(pid)


# -- The transport ----------------------------------------------------------------------------------------------------


def test_transport() -> None:
    with SimulatedTransport(Machine(VERILOG, TINY)) as transport:
        assert transport.channels == 2
        transport.write_register(Register.SCRATCH, 77)
        assert transport.read_register(Register.SCRATCH) == 77
        transport.write_memory(1, SOURCE, bytes(range(64)))
        assert transport.read_memory(1, SOURCE + 1, 2) == bytes([1, 2])
        assert not transport.wait_for_interrupt(timeout_cycles=10)
        start(transport.machine, beats=2)
        assert transport.wait_for_interrupt(timeout_cycles=1000)
        assert transport.read_memory(1, DESTINATION, 64) == plus_one(bytes(range(64)))
        with pytest.raises(BusError, match="SLVERR"):
            transport.read_register(Register.SLVERR)
        with pytest.raises(TransportTimeoutError, match="not answered"):
            transport.write_register(Register.SILENT, 0)
        transport.reset()
        assert transport.read_register(Register.IDENTITY) == IDENTITY
    transport.close()
    with pytest.raises(TransportError, match="it was closed"):
        transport.read_register(0)
    with pytest.raises(TypeError, match="machine must be a Machine, not None"):
        SimulatedTransport(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("enumeration", [Command, Status])
def test_numbers_are_those_of_the_program(enumeration: type[IntEnum]) -> None:
    source = (ROOT / "sim" / "machine" / "machine.cpp").read_text(encoding="utf-8")
    block = re.search(rf"enum class {enumeration.__name__} : std::uint8_t {{(.*?)}};", source, re.DOTALL)
    assert block is not None
    found = {name: int(number) for name, number in re.findall(r"\bk(\w+) = (\d+)", block[1])}
    assert found == {member.name.title().replace("_", ""): member.value for member in enumeration}
