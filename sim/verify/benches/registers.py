"""Testbench of the control front end, hw/front/registers.py; tests/hw/front/test_registers.py runs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from spatten.hw.control.job_layouts import events_layout, job_layout, report_layout
from spatten.hw.emit.payload import Payload
from spatten.hw.front.registers import DRAIN_CYCLES, channel_error_layout, core_error_layout
from spatten.sim.verify import job_descriptors
from spatten.sim.verify.axi_lite_agent import AxiLiteAgent
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import Config
from spatten.spec.job import JOB_WORDS, ignored_bits, job_fields
from spatten.spec.register_map import (
    ADDRESS_BITS,
    NO_WORD,
    QUEUED_JOBS,
    QUEUED_REPORTS,
    TIMEOUT_RESET,
    Access,
    ErrorCode,
    RegisterMap,
    RejectReason,
    event_names,
)
from spatten.spec.version import DESCRIPTOR_VERSION

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
SEEDS: list[int] = PARAMETERS["seeds"]
WAVES: dict[str, list[int | None]] | None = PARAMETERS["waves"]
"""By signal, the level that a document draws in each cycle, None where it draws a value; None: there is no drawing."""
ROUNDS: int = PARAMETERS["rounds"]
MAP = RegisterMap(CONFIG)
OKAY, SLVERR = 0, 2
ALL_IDLE = (1 << CONFIG.channels) - 1
DOORBELL_LATENCY = 5
RANDOM_REASONS = 12
"""Reasons that random descriptors must at least meet."""


class JobMonitor(StreamMonitor):
    """Takes jobs; `core_reset` ends the stream, and drops those that were expected."""

    def sample(self, cycle: int) -> None:
        if str(self.bench.signal("core_reset").value) != "0":
            assert str(self._valid.value) == "0", f"a job during core_reset, cycle {cycle}, seed {self.bench.seed}"
            self._stalled = None
            del self._expected[len(self._received) :]
            return
        super().sample(cycle)


class Front:
    """The circuit, its bus, and a machine that does nothing until told to."""

    def __init__(self, dut: HierarchyObject, seed: int, *, idle: float = 0.0, stall: float = 0.0) -> None:
        self.bench = Bench(dut, seed=seed)
        self.bus = AxiLiteAgent(self.bench, "s_axi", idle=idle, stall=stall)
        self.jobs = JobMonitor(self.bench, "o_job", job_layout(CONFIG), stall=stall)
        self.reports = StreamDriver(self.bench, "i_report", report_layout(CONFIG), idle=idle)
        self.random = self.bench.random("test")
        self.words = [0] * JOB_WORDS
        self.rejected = 0
        self.quiet()

    def quiet(self) -> None:
        for name in ("i_events", "busy", "activity", "channel_error", "core_error"):
            self.set(name, 0)
        self.set("channels_idle", ALL_IDLE)

    def set(self, name: str, value: int) -> None:
        self.bench.signal(name).value = value

    def get(self, name: str) -> int:
        text = str(self.bench.signal(name).value)
        assert not text.strip("01"), f"{name} is {text}, cycle {self.bench.cycle}, seed {self.bench.seed}"
        return int(text, 2)

    async def reset(self) -> None:
        await self.bench.reset()

    async def write(self, name: str, data: int, strobes: int = 15) -> int:
        access = self.bus.write(MAP[name].offset, data, strobes)
        await self.end()
        assert access.response is not None
        return access.response

    async def end(self, limit: int = 1000) -> None:
        """Wait until all accesses have ended."""
        await self.bench.until(lambda: not self.bus.busy, what="response", limit=limit)

    async def taken(self, count: int) -> None:
        """Wait until `count` jobs have been taken."""
        await self.bench.until(lambda: self.jobs.count >= count, what=f"job {count}", limit=200)

    async def fields(self, name: str) -> dict[str, int]:
        return MAP[name].unpack(await self.read(name))

    async def read(self, name: str) -> int:
        access = self.bus.read(MAP[name].offset)
        await self.end()
        assert access.response == OKAY, name
        return access.data

    async def load(self, words: list[int]) -> None:
        """Write the words of the descriptor that differ from what it holds."""
        changed = [number for number in range(JOB_WORDS) if words[number] != self.words[number]]
        self.random.shuffle(changed)
        accesses = [self.bus.write(MAP[f"JOB{number}"].offset, words[number]) for number in changed]
        self.words = list(words)
        await self.end()
        assert all(access.response == OKAY for access in accesses)

    async def ring(self, version: int = DESCRIPTOR_VERSION) -> tuple[RejectReason, int]:
        """Ring the doorbell; what REJECT says, which must be what the response says."""
        response = await self.write("DOORBELL", version)
        reject = await self.fields("REJECT")
        assert (response == SLVERR) == (reject["reason"] != 0), f"response {response}, REJECT {reject}"
        assert response in (OKAY, SLVERR)
        self.rejected += response == SLVERR
        return RejectReason(reject["reason"]), reject["word"]

    async def submit(self) -> dict[str, Any]:
        """Load a random job and ring: it must be accepted, and come out."""
        values = job_descriptors.random_job(CONFIG, self.random)
        await self.load(job_descriptors.pack(CONFIG, values))
        job = job_descriptors.payload(CONFIG, values)
        self.jobs.expect([job])
        assert await self.ring() == (RejectReason.NONE, 0)
        return job

    def where(self) -> str:
        return f"cycle {self.bench.cycle}, seed {self.bench.seed}"


def _random_report(source: Any) -> dict[str, int]:
    return {str(name): source.getrandbits(member.width) for name, member in report_layout(CONFIG)}


# -- The bus ----------------------------------------------------------------------------------------------------------


@cocotb.test
@cocotb.parametrize(stalls=[False, True], seed=SEEDS)
async def every_register_answers_someone_elses_master(dut: HierarchyObject, stalls: bool, seed: int) -> None:
    """All 4 KiB through cocotbext-axi: reset values, what RW registers keep under strobes, errors elsewhere."""
    front = Front(dut, seed)
    front.bench.agents.remove(front.bus)
    source = front.random
    # Here cocotbext's master drives the bus, and nobody does before it starts.
    for member in ("awvalid", "wvalid", "arvalid", "bready", "rready"):
        front.set(f"s_axi__{member}", 0)
    await front.reset()
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_"), dut.clk, dut.rst)

    def pauses() -> Any:
        while True:
            yield source.random() < 0.4

    if stalls:
        writes, reads = master.write_if, master.read_if
        for channel in (writes.aw_channel, writes.w_channel, writes.b_channel, reads.ar_channel, reads.r_channel):
            channel.set_pause_generator(pauses())

    registers = {register.offset: register for register in MAP.values()}
    held = {offset: register.reset for offset, register in registers.items()}
    counters = {register.offset for name in event_names(CONFIG) for register in MAP.counter(name)}
    checked: Counter[str] = Counter()

    async def read(offset: int) -> None:
        result = await master.read(offset, 4)
        value = int.from_bytes(result.data, "little")
        if offset not in registers:
            assert (result.resp, value) == (AxiResp.SLVERR, 0), f"read of {offset:#x}"
            checked["unmapped reads"] += 1
        else:
            assert result.resp == AxiResp.OKAY, f"read of {offset:#x}"
            if offset not in counters:
                assert value == held[offset], f"{registers[offset].name} is {value:#x}, not {held[offset]:#x}"
            checked["reads"] += 1

    async def write(offset: int) -> None:
        start = source.randrange(4)
        size = source.randint(1, 4 - start)
        data = source.getrandbits(8 * size)
        register = registers.get(offset)
        if register is not None and register.access in (Access.WO, Access.W1C):
            data = 0  # other tests write to these registers what has an effect
        result = await master.write(offset + start, data.to_bytes(size, "little"))
        if register is None or register.access is Access.RO:
            assert result.resp == AxiResp.SLVERR, f"write to {offset:#x}"
            checked["refused writes"] += 1
        elif register.name == "DOORBELL":
            assert result.resp == AxiResp.SLVERR
            held[MAP["REJECT"].offset] = MAP["REJECT"].pack(reason=RejectReason.VERSION, word=NO_WORD)
        else:
            assert result.resp == AxiResp.OKAY, f"write to {register.name}"
            if register.access is Access.RW:
                mask = ((1 << 8 * size) - 1) << 8 * start
                held[offset] = (held[offset] & ~mask | data << 8 * start) & register.mask
            checked["writes"] += 1

    # Where an address with one wrong bit would have an effect that reading it does not show.
    aliases = {
        register.offset ^ 1 << bit
        for register in registers.values()
        if register.access in (Access.WO, Access.W1C)
        for bit in range(2, ADDRESS_BITS)
    } - registers.keys()

    async def everything() -> None:
        offsets = range(0, 1 << ADDRESS_BITS, 4)
        for offset in offsets if ROUNDS > 10 else source.sample(offsets, 200):
            await read(offset)
        for _ in range(2):
            for offset in source.sample(offsets, len(offsets) if ROUNDS > 10 else 200):
                await write(offset)
        for offset in sorted(aliases):
            await write(offset)
        for offset in registers:
            await read(offset)
        for _ in range(20 * ROUNDS):
            offset = source.choice([*registers, source.randrange(0, 1 << ADDRESS_BITS, 4)])
            await (write if source.random() < 0.5 else read)(offset)

    task = cocotb.start_soon(everything())
    await front.bench.until(task.done, what="end", limit=100_000)
    task.result()
    for register in (MAP["CONTROL"], MAP["DOORBELL"], MAP["REPORT_POP"]):
        assert held[register.offset] == 0
    assert checked["reads"] > len(registers), checked
    assert min(checked.values()) >= 20, checked
    for channel in range(CONFIG.channels):
        assert front.get(f"base__{channel}") == held[MAP[f"BASE{channel}"].offset]
    assert front.jobs.count == 0


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.6], stall=[0.0, 0.6], seed=SEEDS)
async def reads_and_writes_pass_each_other(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    """Address and data in any order, both directions at once, responses in order and none too many."""
    front = Front(dut, seed, idle=idle, stall=stall)
    await front.reset()
    source = front.random
    writable = [register for register in MAP.values() if register.access is Access.RW]
    history: dict[int, list[tuple[int, int]]] = {register.offset: [(-1, register.reset)] for register in writable}
    reads, writes = [], []
    for _ in range(30 * ROUNDS):
        register = source.choice(writable[:4] if source.random() < 0.5 else writable)
        if source.random() < 0.5:
            reads.append(front.bus.read(register.offset | source.randrange(4)))
        else:
            writes.append(
                front.bus.write(register.offset | source.randrange(4), source.getrandbits(32), source.randrange(16))
            )
    await front.end(60_000)
    await front.bench.step(20)
    assert front.bus.count == len(reads) + len(writes)
    for access in writes:
        assert access.response == OKAY
        before = history[access.address & ~3][-1][1]
        mask = sum(0xFF << 8 * byte for byte in range(4) if access.strobes >> byte & 1)
        mask &= next(register for register in writable if register.offset == access.address & ~3).mask
        assert access.executed is not None
        history[access.address & ~3].append((access.executed, before & ~mask | access.data & mask))
    for access in reads:
        assert access.response == OKAY
        assert access.executed is not None
        # What a write changed is there in the cycle after it.
        value = next(value for at, value in reversed(history[access.address & ~3]) if at < access.executed)
        assert access.data == value, f"{access.address:#x} at cycle {access.executed}, seed {seed}"
    if not idle and not stall:
        for accesses in (reads, writes):
            for access in accesses:
                assert access.ended is not None
                assert access.executed is not None
                assert access.ended == access.executed + 1, "a response took longer than 2 cycles"


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def a_write_without_strobes_does_nothing(dut: HierarchyObject, seed: int) -> None:
    front = Front(dut, seed)
    await front.reset()
    values = job_descriptors.random_job(CONFIG, front.random)
    await front.load(job_descriptors.pack(CONFIG, values))
    front.reports.send([_random_report(front.random)])
    await front.bench.step(6)
    for register in MAP.values():
        expected = SLVERR if register.access is Access.RO else OKAY
        assert await front.write(register.name, 0xFFFFFFFF, strobes=0) == expected, register.name
    for number, word in enumerate(front.words):
        assert await front.read(f"JOB{number}") == word
    assert await front.read("TIMEOUT") == TIMEOUT_RESET
    assert await front.read("INTERRUPT_ENABLE") == 0
    assert (await front.fields("STATUS"))["reports"] == 1
    assert await front.read("REJECT") == 0
    assert front.jobs.count == 0
    # A byte without its strobe counts as zero: here the version is what is left.
    front.jobs.expect([job_descriptors.payload(CONFIG, values)])
    access = front.bus.write(MAP["DOORBELL"].offset, 0xABCDEF00 | DESCRIPTOR_VERSION, 1)
    await front.end()
    assert access.response == OKAY
    await front.bench.drain()


# -- Jobs -------------------------------------------------------------------------------------------------------------


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def jobs_come_as_they_were_written(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    front = Front(dut, seed, idle=idle, stall=stall)
    await front.reset()
    sent = 0
    for round_number in range(ROUNDS):
        await front.submit()
        sent += 1
        if front.random.random() < 0.3:
            # The same job once more: the descriptor has kept its values.
            front.jobs.expect([front.jobs.payload.unpack(front.jobs._expected[-1])])
            while await front.ring() == (RejectReason.QUEUE_FULL, NO_WORD):
                await front.bench.step(20)
            sent += 1
        if round_number % 4 == 0:
            for number in front.random.sample(range(JOB_WORDS), 5):
                assert await front.read(f"JOB{number}") == front.words[number]
        await front.taken(sent - 2)
    await front.bench.drain()
    assert front.jobs.count == sent


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def a_doorbell_takes_five_cycles(dut: HierarchyObject, seed: int) -> None:
    """This holds even right after the write of the field that makes the job right, or wrong."""
    front = Front(dut, seed)
    await front.reset()
    for _ in range(ROUNDS):
        values = job_descriptors.random_job(CONFIG, front.random)
        words = job_descriptors.pack(CONFIG, values)
        _, word, spoilt = front.random.choice(SPOILT)
        for good in (True, False):
            if good:
                await front.load([0 if number == word else value for number, value in enumerate(words)])
                last = words[word]
                front.jobs.expect([job_descriptors.payload(CONFIG, values)])
            else:
                last = spoilt[word]
                await front.load([values if n != word else words[word] for n, values in enumerate(spoilt)])
            count = front.jobs.count
            front.words[word] = last
            wanted = job_descriptors.refusal(CONFIG, front.words)
            assert (wanted is None) == good
            front.bus.write(MAP[f"JOB{word}"].offset, last)
            doorbell = front.bus.write(MAP["DOORBELL"].offset, DESCRIPTOR_VERSION)
            await front.end(30)
            await front.bench.step(8)
            executed = doorbell.executed
            assert executed is not None
            assert doorbell.response == (OKAY if good else SLVERR)
            assert doorbell.ended == executed + 3
            assert front.jobs.count == count + good
            if good:
                latency = front.jobs.cycles[-1] - (executed - 1)
                assert latency == DOORBELL_LATENCY
                record("latency", latency, unit="cycles")


SPOILT = list(job_descriptors.spoilt(CONFIG, Random(PARAMETERS["seed"])))


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def a_write_behind_a_doorbell_waits(dut: HierarchyObject, seed: int) -> None:
    """A job is judged and taken as it was when the doorbell rang, though what is written next would make it wrong."""
    front = Front(dut, seed)
    await front.reset()
    for _ in range(ROUNDS):
        values = job_descriptors.random_job(CONFIG, front.random)
        await front.load(job_descriptors.pack(CONFIG, values))
        front.jobs.expect([job_descriptors.payload(CONFIG, values)])
        _, word, spoilt = front.random.choice(SPOILT)
        doorbell = front.bus.write(MAP["DOORBELL"].offset, DESCRIPTOR_VERSION)
        behind = front.bus.write(MAP[f"JOB{word}"].offset, spoilt[word])
        front.words[word] = spoilt[word]
        await front.end(30)
        assert doorbell.response == behind.response == OKAY
        assert doorbell.ended is not None
        assert behind.executed is not None
        assert behind.executed >= doorbell.ended
        await front.bench.drain()


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def every_reason_to_refuse_is_told(dut: HierarchyObject, seed: int) -> None:
    front = Front(dut, seed)
    await front.reset()
    source = front.random
    seen: Counter[RejectReason] = Counter()
    reserved = [case for case in SPOILT if case[0] is RejectReason.RESERVED]
    cases = [case for case in SPOILT if case[0] is not RejectReason.RESERVED]
    cases += reserved if ROUNDS > 10 else source.sample(reserved, 10)
    for reason, word, words in cases:
        await front.load(words)
        assert await front.ring() == (reason, word), f"seed {seed}: {words}"
        seen[reason] += 1
        if source.random() < 0.1:
            await front.submit()
    for _ in range(4):
        await front.submit()
    assert await front.ring(version=DESCRIPTOR_VERSION + 1) == (RejectReason.VERSION, NO_WORD)
    assert await front.ring(version=DESCRIPTOR_VERSION | 1 << 31) == (RejectReason.VERSION, NO_WORD)
    assert await front.ring(version=0) == (RejectReason.VERSION, NO_WORD)
    seen[RejectReason.VERSION] += 3
    await front.bench.drain(tail=20)
    assert front.jobs.count == front.jobs.expected
    for reason in RejectReason:
        if reason.name in PARAMETERS["reasons"]:
            assert seen[reason], f"{reason.name} was not seen"
    assert sorted(reason.name for reason in seen) == sorted(PARAMETERS["reasons"])


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def damaged_descriptors_are_judged_by_definition(dut: HierarchyObject, seed: int) -> None:
    """Random changes, so that several things are wrong at once; the lowest reason and word are given."""
    front = Front(dut, seed)
    await front.reset()
    source = front.random
    outcomes: Counter[str] = Counter()
    for _ in range(20 * ROUNDS):
        values = job_descriptors.random_job(CONFIG, source)
        words = job_descriptors.pack(CONFIG, values)
        for _ in range(source.choice([0, 1, 1, 2, 6])):
            field = source.choice(job_fields(CONFIG))
            if source.random() < 0.5:
                words[field.word] ^= 1 << source.randrange(field.bit, field.bit + field.width)
            else:
                mask = ((1 << field.width) - 1) << field.bit
                words[field.word] = words[field.word] & ~mask | source.getrandbits(32) & mask
        if source.random() < 0.05:
            words[source.randrange(JOB_WORDS)] ^= 1 << source.randrange(32)
        wanted = job_descriptors.refusal(CONFIG, words)
        if wanted is None:
            read = {f.name: words[f.word] >> f.bit & (1 << f.width) - 1 for f in job_fields(CONFIG)}
            front.jobs.expect([job_descriptors.payload(CONFIG, read)])
        await front.load(words)
        assert await front.ring() == (wanted or (RejectReason.NONE, 0)), f"seed {seed}: {words}"
        outcomes[wanted[0].name if wanted else "accepted"] += 1
    await front.bench.drain()
    assert front.jobs.count == outcomes["accepted"]
    assert outcomes["accepted"] >= ROUNDS
    assert len(outcomes) > RANDOM_REASONS or ROUNDS <= 10, outcomes


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def a_bit_of_no_field_is_refused_until_it_is_cleared(dut: HierarchyObject, seed: int) -> None:
    """Whichever byte the bit is in, and whichever other bytes of its word are written meanwhile, and how often."""
    front = Front(dut, seed)
    await front.reset()
    source = front.random
    values = job_descriptors.random_job(CONFIG, source)
    words = job_descriptors.pack(CONFIG, values)
    await front.load(words)
    checked = 0
    for word in range(JOB_WORDS):
        name = f"JOB{word}"
        ignored = ignored_bits(CONFIG).get(word, 0) & ~MAP[name].mask
        reserved = ~MAP[name].mask & ~ignored & 0xFFFFFFFF
        if ignored:
            # What belongs to a feature that the machine lacks may be anything, and is not kept.
            await front.write(name, words[word] | ignored)
            assert await front.read(name) == words[word]
            front.jobs.expect([job_descriptors.payload(CONFIG, values)])
            assert await front.ring() == (RejectReason.NONE, 0), f"word {word}, seed {seed}"
        bytes_ = [byte for byte in range(4) if reserved >> 8 * byte & 0xFF]
        for byte in bytes_:
            for _ in range(2):
                bit = source.choice([bit for bit in range(8 * byte, 8 * byte + 8) if reserved >> bit & 1])
                damaged = [*words[:word], words[word] | 1 << bit, *words[word + 1 :]]
                await front.write(name, damaged[word], 15 if source.random() < 0.5 else 1 << byte)
                others = [1 << other for other in range(4) if other != byte]
                for strobes in source.choices(others, k=source.randrange(1, 4)):
                    await front.write(name, words[word], strobes)
                wanted = job_descriptors.refusal(CONFIG, damaged)
                assert wanted is not None
                assert await front.ring() == wanted, f"word {word}, byte {byte}, seed {seed}"
                await front.write(name, words[word], 1 << byte)
                front.jobs.expect([job_descriptors.payload(CONFIG, values)])
                assert await front.ring() == (RejectReason.NONE, 0), f"word {word}, byte {byte}, seed {seed}"
                checked += 1
    assert checked > JOB_WORDS


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def a_job_enters_as_another_leaves(dut: HierarchyObject, seed: int) -> None:
    front = Front(dut, seed)
    await front.reset()
    for cycles in range(2 * DOORBELL_LATENCY):
        front.jobs.stop()
        for _ in range(2):
            await front.submit()
        values = job_descriptors.random_job(CONFIG, front.random)
        await front.load(job_descriptors.pack(CONFIG, values))
        front.jobs.expect([job_descriptors.payload(CONFIG, values)])
        access = front.bus.write(MAP["DOORBELL"].offset, DESCRIPTOR_VERSION)
        await front.bench.step(cycles)
        front.jobs.start()
        await front.bench.drain()
        assert access.response == OKAY
    assert front.jobs.count == 3 * 2 * DOORBELL_LATENCY


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def a_full_queue_refuses(dut: HierarchyObject, seed: int) -> None:
    front = Front(dut, seed)
    await front.reset()
    for round_number in range(4):
        front.jobs.stop()
        for place in range(QUEUED_JOBS):
            status = await front.fields("STATUS")
            assert (status["queue_free"], status["idle"]) == (QUEUED_JOBS - place, int(place == 0))
            await front.submit()
        assert (await front.fields("STATUS"))["queue_free"] == 0
        values = job_descriptors.random_job(CONFIG, front.random)
        await front.load(job_descriptors.pack(CONFIG, values))
        for _ in range(2):
            assert await front.ring() == (RejectReason.QUEUE_FULL, NO_WORD)
        front.jobs.start()
        await front.taken((QUEUED_JOBS + 1) * round_number + 1)
        front.jobs.expect([job_descriptors.payload(CONFIG, values)])
        assert await front.ring() == (RejectReason.NONE, 0)
        await front.bench.drain()
    assert front.jobs.count == 4 * (QUEUED_JOBS + 1)
    assert (await front.fields("STATUS"))["idle"] == 1


# -- Reports and interrupts -------------------------------------------------------------------------------------------


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.7], seed=SEEDS)
async def reports_wait_until_they_are_popped(dut: HierarchyObject, idle: float, seed: int) -> None:
    front = Front(dut, seed, idle=idle)
    await front.reset()
    reports = [_random_report(front.random) for _ in range(3 * ROUNDS)]
    assert not any([await front.read(register.name) for register in MAP.reports])
    await front.write("REPORT_POP", 1)  # there is no report: nothing happens
    front.reports.send(reports)
    for number, report in enumerate(reports):
        await front.bench.until(lambda: front.reports.count > number, what="report")  # noqa: B023
        await front.bench.step(3)
        if number == 0:
            await front.bench.step(60)
            assert front.reports.count == QUEUED_REPORTS, "the queue has 4 places"
            assert (await front.fields("STATUS"))["reports"] == QUEUED_REPORTS
        got: dict[str, int] = {}
        for register in MAP.reports:
            got |= await front.fields(register.name)
        assert got == report, f"report {number}, seed {seed}"
        await front.write("REPORT_POP", front.random.getrandbits(32) & ~1)  # its bit is not set: nothing happens
        assert await front.fields(MAP.reports[0].name) == {
            field.name: report[field.name] for field in MAP.reports[0].fields
        }
        await front.write("REPORT_POP", front.random.getrandbits(32) | 1)
    await front.bench.step(4)
    assert front.reports.count == len(reports)
    assert (await front.fields("STATUS"))["reports"] == 0
    assert not any([await front.read(register.name) for register in MAP.reports])


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def interrupts_are_levels(dut: HierarchyObject, seed: int) -> None:
    front = Front(dut, seed)
    await front.reset()
    enable, status = MAP["INTERRUPT_ENABLE"], MAP["INTERRUPT_STATUS"]
    done = error = 0
    for _ in range(2 * ROUNDS):
        what = front.random.choice(["enable", "report", "pop", "error", "clear"])
        if what == "enable":
            await front.write("INTERRUPT_ENABLE", front.random.getrandbits(32))
        elif what == "report" and done < QUEUED_REPORTS:
            front.reports.send([_random_report(front.random)])
            done += 1
        elif what == "pop" and done:
            await front.write("REPORT_POP", 1)
            done -= 1
        elif what == "error":
            front.set("core_error", Payload(core_error_layout()).pack({"valid": 1, "code": 1}))
            await front.bench.step()
            front.set("core_error", 0)
            error = 1
        elif what == "clear":
            await front.write("ERROR", MAP["ERROR"].pack(valid=1))
            error = 0
        await front.bench.step(DRAIN_CYCLES + 4)
        pending = {"done": int(done > 0), "error": error}
        assert await front.fields("INTERRUPT_STATUS") == pending
        enabled = enable.unpack(await front.read("INTERRUPT_ENABLE"))
        assert front.get("irq") == int(any(pending[name] and enabled[name] for name in pending)), front.where()
    assert status.access is Access.RO


# -- Counters ---------------------------------------------------------------------------------------------------------


class Events:
    """Random events, and their sums up to each cycle."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._source = front.bench.random("events")
        self._payload = Payload(events_layout(CONFIG))
        self._signal = front.bench.signal("i_events")
        self.before: dict[int, dict[str, int]] = {}
        self._sums = dict.fromkeys(event_names(CONFIG), 0)
        self._now: dict[str, int] = {}
        front.bench.agents.append(self)

    def drive(self) -> None:
        bits = self._source.getrandbits(self._payload.width) if self._source.random() < 0.8 else 0
        self._now = {**self._payload.unpack(bits), "cycles": 1}
        self._signal.value = bits

    def sample(self, cycle: int) -> None:
        self.before[cycle] = dict(self._sums)
        for name, value in self._now.items():
            self._sums[name] += value

    def clear(self) -> None:
        pass


@cocotb.test
@cocotb.parametrize(stall=[0.0, 0.5], seed=SEEDS)
async def counters_add_up_every_cycle(dut: HierarchyObject, stall: float, seed: int) -> None:
    """A low word read in cycle c + 1 has the events of all cycles before c since the clear, and its high word fits."""
    front = Front(dut, seed, idle=stall, stall=stall)
    events = Events(front)
    source = front.random
    await front.reset()
    start: dict[str, int] = {}
    carried = 0
    names = event_names(CONFIG)
    anything = {name: source.getrandbits(32) for name in names}
    for round_number in range(max(3 * len(names), 6 * ROUNDS)):
        if round_number % 25 == 0:
            clear = front.bus.write(MAP["CONTROL"].offset, MAP["CONTROL"].pack(clear_counters=1))
            # Around the clear, too, a low and a high word that are read belong to one moment.
            reads = [front.bus.read(register.offset) for register in MAP.counter("cycles") * 2]
            await front.end(500)
            assert clear.executed is not None
            for low, high in zip(reads[::2], reads[1::2], strict=True):
                assert low.executed is not None
                total = high.data << 32 | low.data
                if low.executed > clear.executed:
                    assert total == low.executed - clear.executed - 1
                elif start:
                    assert total == (events.before[low.executed - 1]["cycles"] - start["cycles"]) % (1 << 64)
            start = dict(events.before[clear.executed])
        name = names[round_number % len(names)]
        low_register, high_register = MAP.counter(name)
        visit = round_number // len(names)
        if visit < 3 or source.random() < 0.7:
            # Every bit is put both ways, and then the low word just below its overflow. A pending carry is cleared.
            value = (anything[name], ~anything[name] & 0xFFFFFFFF, (1 << 32) - source.randrange(1, 60))[min(visit, 2)]
            high_value = value if visit < 2 else source.choice([0, 1, 0xFFFFFFFE, source.getrandbits(32)])
            getattr(dut, f"{name}_low").value = value
            getattr(dut, f"{name}_high").value = high_value
            getattr(dut, f"{name}_carry").value = 0
            now = front.bench.cycle
            await front.bench.step()
            # The counter has this value in the cycle `now`, in which the events of the cycle before are added.
            before = events.before[now][name] if name == "cycles" else events.before[now - 1][name]
            start[name] = before - (high_value << 32 | value) + (name == "cycles") * -1
        await front.bench.step(source.randrange(30))
        lows = []
        for _ in range(4):
            await front.bench.step(source.randrange(12))
            lows.append(front.bus.read(low_register.offset))
            await front.end()
        await front.bench.step(source.randrange(40))
        high_word = await front.read(high_register.name)
        for read in lows:
            assert read.executed is not None
            wanted = (events.before[read.executed - 1][name] - start[name]) % (1 << 64)
            total = (high_word if read is lows[-1] else wanted >> 32) << 32 | read.data
            assert total == wanted, f"{name} is {total:#x}, not {wanted:#x}, cycle {read.executed}, seed {seed}"
        carried += high_word > 0
    assert carried > ROUNDS


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def a_clear_clears_every_counter(dut: HierarchyObject, seed: int) -> None:
    front = Front(dut, seed)
    events = Events(front)
    await front.reset()
    names = event_names(CONFIG)
    for name in names:
        getattr(dut, f"{name}_low").value = getattr(dut, f"{name}_high").value = 0xFFFF0000
    await front.bench.step()
    clear = front.bus.write(MAP["CONTROL"].offset, MAP["CONTROL"].pack(clear_counters=1))
    await front.end()
    reads = {name: [front.bus.read(register.offset) for register in MAP.counter(name)] for name in names}
    await front.end(500)
    assert clear.executed is not None
    for name, (low, high) in reads.items():
        assert low.executed is not None
        total = high.data << 32 | low.data
        wanted = events.before[low.executed - 1][name] - events.before[clear.executed][name]
        assert total == wanted, f"{name} is {total:#x}, not {wanted:#x}, cycle {low.executed}, seed {seed}"


# -- Failures ---------------------------------------------------------------------------------------------------------


def _channel_error(channel: int, is_write: int, is_decode: int) -> int:
    return Payload(channel_error_layout(CONFIG)).pack(
        {"valid": 1, "channel": channel, "is_write": is_write, "is_decode": is_decode}
    )


def _core_error(code: int) -> int:
    return Payload(core_error_layout()).pack({"valid": 1, "code": code})


@cocotb.test
@cocotb.parametrize(
    kind=["soft reset", "channel error", "core error", "timeout"], answers=["at once", "late", "too late"], seed=SEEDS
)
async def a_failure_drains_and_is_reported(dut: HierarchyObject, kind: str, answers: str, seed: int) -> None:
    front = Front(dut, seed)
    bench, source = front.bench, front.random
    await front.reset()
    bases = [source.getrandbits(28) for _ in range(CONFIG.channels)]
    for channel, base in enumerate(bases):
        await front.write(f"BASE{channel}", base)
    for _ in range(max(2, ROUNDS // 5)):
        timeout = source.randint(20, 60)
        await front.write("TIMEOUT", timeout)
        report = _random_report(source)
        front.reports.send([report])
        count = front.jobs.count
        front.jobs.stop()
        for _ in range(source.randint(1, QUEUED_JOBS)):
            await front.submit()
        front.set("busy", 1)
        front.set("activity", 1)
        front.set("channels_idle", 0)
        await bench.step(source.randint(1, 2 * timeout))
        assert front.get("core_reset") == front.get("stop") == 0
        status = await front.fields("STATUS")
        assert (status["idle"], status["busy"], status["draining"]) == (0, 1, 0)

        wanted = dict.fromkeys(("code", "channel", "is_write", "valid"), 0)
        if kind == "soft reset":
            reset = front.bus.write(MAP["CONTROL"].offset, MAP["CONTROL"].pack(soft_reset=1))
            await bench.until(lambda: reset.executed is not None, what="write")  # noqa: B023
        elif kind == "channel error":
            channel = source.randrange(CONFIG.channels)
            is_write, is_decode = source.getrandbits(1), source.getrandbits(1)
            code = ErrorCode.DECODE_ERROR if is_decode else ErrorCode.SLAVE_ERROR
            wanted = {"code": code, "channel": channel, "is_write": is_write, "valid": 1}
            front.set("channel_error", _channel_error(channel, is_write, is_decode))
            await bench.step()
            front.set("channel_error", 0)
        elif kind == "core error":
            number = source.randrange(16)
            wanted |= {"code": number or ErrorCode.INTERNAL, "valid": 1}
            front.set("core_error", _core_error(number))
            await bench.step()
            front.set("core_error", 0)
        else:
            wanted |= {"code": ErrorCode.TIMEOUT, "valid": 1}
            front.set("activity", 0)
            for _ in range(timeout + 2):
                assert front.get("core_reset") == 0, front.where()
                await bench.step()
        assert front.get("core_reset") == front.get("stop") == 1, front.where()
        began = bench.cycle

        # While the accelerator drains: nothing is accepted, further errors change nothing, reports do not come.
        front.set("activity", source.getrandbits(1))
        front.set("core_error", _core_error(9))
        front.set("channel_error", _channel_error(0, 1, 1))
        front.reports.send([_random_report(source)])
        if answers != "at once":
            assert (await front.ring())[0] is RejectReason.DRAINING
        taken = front.reports.count
        status = await front.fields("STATUS") if answers != "at once" else {"draining": 1, "idle": 0}
        assert (status["draining"], status["idle"]) == (1, 0)
        if answers == "at once":
            front.set("channels_idle", ALL_IDLE)
            await bench.step(DRAIN_CYCLES - 1 - (bench.cycle - began))
            front.set("core_error", 0)
            front.set("channel_error", 0)
            assert front.reports.count == taken, "a report was taken while draining"
            front.reports.clear()
            assert front.get("core_reset") == 1
            await bench.step()
        else:
            if answers == "late":
                left = timeout - (bench.cycle - began)
                await bench.step(max(0, source.randint(0, max(0, left))))
                assert await front.read("CHANNELS_STUCK") == 0 or bench.cycle - began > timeout
            else:
                await bench.step(timeout + 4)
                assert await front.read("CHANNELS_STUCK") == ALL_IDLE
            assert front.reports.count == taken, "a report was taken while draining"
            front.reports.clear()
            # One channel after the other answers; all must answer.
            idle = 0
            for channel in source.sample(range(CONFIG.channels), CONFIG.channels):
                assert front.get("core_reset") == front.get("stop") == 1
                if answers == "too late":
                    await bench.step(2)
                    assert await front.read("CHANNELS_STUCK") == ALL_IDLE & ~idle
                idle |= 1 << channel
                front.set("channels_idle", idle)
                await bench.step(1 if idle == ALL_IDLE else 3)
            front.set("core_error", 0)
            front.set("channel_error", 0)
        assert front.get("core_reset") == front.get("stop") == 0, front.where()
        front.set("busy", 0)
        front.set("activity", 0)

        status = await front.fields("STATUS")
        assert status == {
            "idle": 1,
            "busy": 0,
            "draining": 0,
            "failed": wanted["valid"],
            "queue_free": QUEUED_JOBS,
            "reports": 1,
        }
        assert await front.fields("ERROR") == wanted
        assert await front.read("CHANNELS_STUCK") == 0
        assert await front.read("TIMEOUT") == timeout
        assert [front.get(f"base__{channel}") for channel in range(CONFIG.channels)] == bases
        got: dict[str, int] = {}
        for register in MAP.reports:
            got |= await front.fields(register.name)
        assert got == report, "a report that was there is lost"
        await front.write("REPORT_POP", 1)
        front.jobs.start()
        if wanted["valid"]:
            assert (await front.ring()) == (RejectReason.FAILED, NO_WORD)
            await front.write("ERROR", 0x7FFFFFFF)
            assert await front.fields("ERROR") == wanted, "only its own bit clears it"
            await front.write("ERROR", MAP["ERROR"].pack(valid=1))
        assert await front.read("ERROR") == 0
        assert front.jobs.count == count, "a dropped job came"
        await front.submit()
        await bench.drain()
        assert front.jobs.count == count + 1


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def waiting_for_the_host_is_no_timeout(dut: HierarchyObject, seed: int) -> None:
    front = Front(dut, seed)
    bench = front.bench
    await front.reset()
    await front.write("TIMEOUT", 20)
    front.reports.send([_random_report(front.random) for _ in range(QUEUED_REPORTS + 1)])
    front.set("busy", 1)
    await bench.step(100)
    assert front.reports.count == QUEUED_REPORTS
    assert await front.read("ERROR") == 0
    await front.write("REPORT_POP", 1)
    await bench.step(12)
    assert await front.read("ERROR") == 0
    await bench.step(10)
    assert await front.fields("ERROR") == {"code": ErrorCode.TIMEOUT, "channel": 0, "is_write": 0, "valid": 1}
    # While idle, or with activity now and then, or with TIMEOUT 0, the time-out never happens.
    await front.write("ERROR", MAP["ERROR"].pack(valid=1))
    front.set("busy", 0)
    await bench.step(100)
    front.set("busy", 1)
    for _ in range(8):
        front.set("activity", 1)
        await bench.step()
        front.set("activity", 0)
        await bench.step(19)
    front.set("activity", 1)
    await front.write("TIMEOUT", 0)
    front.set("activity", 0)
    await bench.step(200)
    assert await front.read("ERROR") == 0
    # It happens at once when TIMEOUT is set to fewer cycles than have passed.
    await front.write("TIMEOUT", 50)
    assert (await front.fields("ERROR"))["code"] == ErrorCode.TIMEOUT


class FailureModel:
    """What the failures do, cycle by cycle: `core_reset`, `stop`, the interrupt of errors, ERROR, CHANNELS_STUCK."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._source = front.bench.random("failures")
        self.draining = False
        self.error: dict[str, int] = dict.fromkeys(("code", "channel", "is_write", "valid"), 0)
        self.seen: Counter[str] = Counter()
        self._waited = 0
        self._quiet = 1
        self._moved = 0
        self._expired = False
        self._stuck = 0
        self._irq = 0
        self._timeout = TIMEOUT_RESET
        self._doorbell: int | None = None
        self._job: dict[str, Any] = {}
        self.level = 0
        self.rare = 0.02
        self.history: dict[int, tuple[dict[str, int], int]] = {}
        self._inputs: dict[str, int] = {}
        front.bench.agents.insert(front.bench.agents.index(front.bus) + 1, self)

    def clear(self) -> None:
        pass

    def drive(self) -> None:
        source, rare = self._source, self.rare
        self._inputs = {
            "busy": int(source.random() < 0.95),
            "activity": int(source.random() < 0.1),
            "channels_idle": ALL_IDLE if source.random() < 0.1 else source.getrandbits(CONFIG.channels),
            "channel_error": source.getrandbits(Payload(channel_error_layout(CONFIG)).width) & ~1
            | (source.random() < rare),
            "core_error": source.getrandbits(5) & ~1 | (source.random() < rare),
        }
        for name, value in self._inputs.items():
            self._front.set(name, value)

    def sample(self, cycle: int) -> None:
        front, source = self._front, self._inputs
        where = f"cycle {cycle}, seed {front.bench.seed}"
        assert front.get("core_reset") == front.get("stop") == int(self.draining), where
        assert front.get("irq") == self._irq, where
        self.history[cycle] = (dict(self.error), self._stuck)
        write = front.bus.executing(cycle)
        soft_reset = write is not None and write.address == MAP["CONTROL"].offset and write.data & 1
        clears = write is not None and write.address == MAP["ERROR"].offset and write.data >> 31
        if self._doorbell == cycle:
            accepted = not self.draining and not self.error["valid"]
            self.seen["accepted" if accepted else "refused"] += 1
            if accepted:
                front.jobs.expect([self._job])
        if write is not None and write.address == MAP["DOORBELL"].offset:
            self._doorbell = cycle + 2
        channel = Payload(channel_error_layout(CONFIG)).unpack(source["channel_error"])
        core = Payload(core_error_layout()).unpack(source["core_error"])
        error = None
        if not self.draining:
            if channel["valid"]:
                code = ErrorCode.DECODE_ERROR if channel["is_decode"] else ErrorCode.SLAVE_ERROR
                error = {"code": code, "channel": channel["channel"], "is_write": channel["is_write"], "valid": 1}
            elif core["valid"]:
                error = {"code": core["code"] or ErrorCode.INTERNAL, "channel": 0, "is_write": 0, "valid": 1}
            elif self._expired:
                error = {"code": ErrorCode.TIMEOUT, "channel": 0, "is_write": 0, "valid": 1}
        self._irq = self.error["valid"]
        idle = source["channels_idle"]
        self._stuck = ALL_IDLE & ~idle if self.draining and self._expired else 0
        # `_quiet` cycles in a row before this one were quiet.
        self._expired = self._timeout != 0 and self._quiet >= self._timeout
        self._quiet += 1
        if self.draining:
            self._waited += 1
            if self._waited >= DRAIN_CYCLES and idle == ALL_IDLE:
                self.draining = False
                self._quiet, self._expired = 1, False
        else:
            if not source["busy"] or self._moved:
                self._quiet, self._expired = 1, False
            if error is not None or soft_reset:
                self.draining = True
                self._waited, self._quiet = 0, 1
                self._expired = False
                self.seen[ErrorCode(error["code"]).name if error and error["code"] > 15 else "other"] += 1
                self.seen["together"] += error is not None and bool(soft_reset)
                self.seen["while cleared"] += error is not None and bool(clears)
        self._moved = source["activity"]
        if error is not None and (not self.error["valid"] or clears):
            self.error = error
        elif clears:
            self.error = dict.fromkeys(self.error, 0)
        if write is not None and write.address == MAP["TIMEOUT"].offset:
            self._timeout = write.data

    def ring(self, job: dict[str, Any]) -> None:
        self._job = job
        self._front.bus.write(MAP["DOORBELL"].offset, DESCRIPTOR_VERSION)


@cocotb.test
@cocotb.parametrize(rare=[0.002, 0.05], stall=[0.0, 0.4], seed=SEEDS)
async def failures_at_any_time_do_what_the_model_does(
    dut: HierarchyObject, rare: float, stall: float, seed: int
) -> None:
    front = Front(dut, seed, idle=stall, stall=stall)
    source = front.random
    await front.reset()
    values = job_descriptors.random_job(CONFIG, source)
    await front.load(job_descriptors.pack(CONFIG, values))
    await front.write("INTERRUPT_ENABLE", MAP["INTERRUPT_ENABLE"].pack(error=1))
    model = FailureModel(front)
    model.rare = rare
    reads: list[tuple[str, Any]] = []
    actions: list[Callable[[], Any]] = [
        lambda: front.bus.write(MAP["CONTROL"].offset, MAP["CONTROL"].pack(soft_reset=1)),
        lambda: front.bus.write(MAP["ERROR"].offset, 1 << 31),
        lambda: front.bus.write(MAP["ERROR"].offset, 1 << 31),
        lambda: front.bus.write(MAP["TIMEOUT"].offset, source.choice([0, 1, 2, 5, 12, 30])),
        *[lambda: model.ring(job_descriptors.payload(CONFIG, values))] * 3,
        *[lambda: reads.append(("ERROR", front.bus.read(MAP["ERROR"].offset)))] * 2,
        lambda: reads.append(("CHANNELS_STUCK", front.bus.read(MAP["CHANNELS_STUCK"].offset))),
    ]
    for _ in range(60 * ROUNDS):
        source.choice(actions)()
        await front.end(300)
        await front.bench.step(source.choice([0, 0, 1, 10]))
    for name, access in reads:
        assert access.executed is not None
        error, stuck = model.history[access.executed]
        wanted = MAP[name].pack(**error) if name == "ERROR" else stuck
        assert access.data == wanted, (
            f"{name} is {access.data:#x}, not {wanted:#x}, cycle {access.executed}, seed {seed}"
        )
    model.rare = 0
    assert len(reads) > 3 * ROUNDS
    if ROUNDS > 10:
        assert min(model.seen[what] for what in ("accepted", "refused", "TIMEOUT")), model.seen
        assert rare < 0.01 or min(model.seen[what] for what in ("while cleared", "together")), model.seen
        assert any(access.data for name, access in reads if name == "CHANNELS_STUCK")
        assert front.jobs.count > 5


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def a_reset_forgets_everything(dut: HierarchyObject, seed: int) -> None:
    front = Front(dut, seed)
    source = front.random
    for _ in range(3):
        await front.reset()
        front.quiet()
        front.words = [0] * JOB_WORDS
        assert front.get("core_reset") == front.get("stop") == front.get("irq") == 0
        for register in MAP.values():
            if register.group != "Counters":
                assert await front.read(register.name) == register.reset, register.name
        wanted = job_descriptors.refusal(CONFIG, front.words)
        assert await front.ring() == wanted, "the empty descriptor has at least no heads"
        front.reports.send([_random_report(source) for _ in range(2)])
        front.jobs.stop()
        for name in ("TIMEOUT", "INTERRUPT_ENABLE", *(f"BASE{channel}" for channel in range(CONFIG.channels))):
            await front.write(name, 0xFFFFFFFF)
        for number in range(JOB_WORDS):
            await front.write(f"JOB{number}", 0xFFFFFFFF)
        front.words = [0xFFFFFFFF] * JOB_WORDS
        await front.submit()
        assert await front.ring(0) == (RejectReason.VERSION, NO_WORD)
        if source.random() < 0.5:
            front.set("core_error", _core_error(3))
            front.set("channels_idle", 0)
        front.bus.read(0)
        front.bus.write(0x400, 1)
        await front.bench.step(source.randint(1, 4))


@cocotb.test
async def a_reset_ends_an_access(dut: HierarchyObject) -> None:
    """In whatever state the bus is, it starts again after the reset."""
    front = Front(dut, SEEDS[0], idle=0.4, stall=0.4)
    for cycles in range(12):
        await front.reset()
        for _ in range(4):
            front.bus.write(MAP["TIMEOUT"].offset, 7)
            front.bus.read(MAP["ID"].offset)
        await front.bench.step(cycles)
    await front.end(400)
    assert await front.read("TIMEOUT") == 7


class _Drawn:
    """Drives what the master drives in a drawing, and compares the rest."""

    def __init__(self, front: Front, waves: dict[str, list[int | None]]) -> None:
        self._front = front
        self._waves = waves
        self._start = front.bench.cycle

    def clear(self) -> None:
        pass

    def drive(self) -> None:
        cycle = self._front.bench.cycle - self._start
        for name in ("awvalid", "wvalid", "bready", "arvalid", "rready"):
            self._front.set(f"s_axi__{name}", self._waves[name][cycle] or 0)

    def sample(self, cycle: int) -> None:
        for name in ("awready", "wready", "bvalid", "arready", "rvalid"):
            seen = self._front.get(f"s_axi__{name}")
            assert seen == self._waves[name][cycle - self._start], f"{name} is {seen} in cycle {cycle - self._start}"
        if self._front.get("s_axi__rvalid"):
            assert self._front.get("s_axi__rdata") == MAP["ID"].reset
            assert self._waves["rdata"][cycle - self._start] is None


@cocotb.test(skip=WAVES is None)
@cocotb.parametrize(register=["TIMEOUT", "DOORBELL"])
async def the_bus_does_what_is_drawn(dut: HierarchyObject, register: str) -> None:
    """The bus does what a document draws of an access; the doorbell's answer comes two cycles later."""
    front = Front(dut, SEEDS[0])
    assert WAVES is not None
    waves = dict(WAVES)
    cycles = len(waves["clk"])
    if register == "DOORBELL":
        waves["bvalid"] = [0, 0, *waves["bvalid"][:-2]]
    await front.reset()
    front.bench.agents.remove(front.bus)
    front.set("s_axi__awaddr", MAP[register].offset)
    front.set("s_axi__wdata", DESCRIPTOR_VERSION)
    front.set("s_axi__wstrb", 15)
    front.set("s_axi__araddr", MAP["ID"].offset)
    front.bench.agents.append(_Drawn(front, waves))
    await front.bench.step(cycles)
