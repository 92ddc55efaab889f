"""Testbench of hw/board/host_link.py, from the pins of the line to AXI; tests/hw/board/test_host_link.py runs it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import cocotb
from cocotb.handle import HierarchyObject

from spatten.sim.verify.axi_checker import AxiChecker
from spatten.sim.verify.axi_lite_slave import AxiLiteSlave
from spatten.sim.verify.axi_memory import AxiMemory
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.link_reference import EchoRegisters, LinkReference
from spatten.sim.verify.runs.board_parts import ACCESS_CYCLES, ADDRESS_BITS, DIVISOR, GAP_CYCLES, IDENTITY
from spatten.sim.verify.serial_line import LineListener, LineSender
from spatten.sim.verify.stream import Bench
from spatten.spec.link_protocol import (
    PAYLOAD_MAX,
    SYNC_REPLY,
    SYNC_REQUEST,
    WAIT_UNIT,
    Answer,
    Command,
    FrameReader,
    LinkStatus,
    Opcode,
    decode_reply,
    encode_frame,
    following_sequence,
)

PARAMETERS = parameters()
BATCHES: int = PARAMETERS["batches"]
QUICK: bool = PARAMETERS["quick"]
"""Whether only what is run every day is run."""
PATIENCE = GAP_CYCLES + 2 * ACCESS_CYCLES
"""Cycles without a byte after which a host gives up waiting."""
TRIES = 20
HELLO = Command(opcode=Opcode.IDENTITY).encode()


class Accelerator:
    """What the link sees of the accelerator beside its registers: interrupt, reset, drain. An agent of the bench."""

    def __init__(self, bench: Bench, slave: AxiLiteSlave) -> None:
        self.irq = 0
        self.drains = True
        self.resets = 0
        self._slave = slave
        self._random = bench.random("accelerator")
        self._signals = {name: bench.signal(name) for name in ("irq", "drained", "accelerator_reset")}
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        self._wait = 0
        self._in_reset = False

    def drive(self) -> None:
        self._signals["irq"].value = self.irq
        self._signals["drained"].value = int(self._in_reset and self._wait == 0 and self.drains)

    def sample(self, cycle: int) -> None:
        in_reset = bool(int(str(self._signals["accelerator_reset"].value)))
        if in_reset and not self._in_reset:
            self.resets += 1
            self._wait = self._random.randint(2, 100)
        self._wait = max(self._wait - 1, 0)
        self._in_reset = in_reset
        if in_reset:
            self._slave.clear()


class WhenStirred:
    """Lets agents act only in cycles in which the link wants something of them, and for a while after."""

    AFTERWARDS = 40
    """Longer than the pauses of the agents and the latency of the memory."""

    def __init__(self, bench: Bench, make: Callable[[], None]) -> None:
        others, bench.agents = bench.agents, []
        make()
        self._agents, bench.agents = bench.agents, others
        self._stirs = bench.signal("stirs")
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        for agent in self._agents:
            agent.clear()
        self._left = self.AFTERWARDS

    def drive(self) -> None:
        if self._left:
            for agent in self._agents:
                agent.drive()

    def sample(self, cycle: int) -> None:
        stirs = str(self._stirs.value) != "0"
        # What an agent was ready for when it was left, it still is.
        if self._left or stirs:
            for agent in self._agents:
                agent.sample(cycle)
        self._left = self.AFTERWARDS if stirs else max(self._left - 1, 0)


class Board:
    """The link, everything around it, and the reference that says what it must answer."""

    def __init__(self, dut: HierarchyObject, *, seed: int, pause: float = 0.2) -> None:
        self.bench = bench = Bench(dut, seed=seed, max_cycles=6_000_000)
        self.source = bench.random("host")
        self.sender = LineSender(bench, "rx", divisor=DIVISOR)
        WhenStirred(bench, lambda: self._make_agents(pause))
        self.accelerator = Accelerator(bench, self.slave)
        self.listener = LineListener(bench, "tx", divisor=DIVISOR)
        self.reader = FrameReader(SYNC_REPLY, rescans=True)
        self.resets = 0
        self.reference = LinkReference(
            IDENTITY,
            registers=EchoRegisters(),
            memory=bytearray(self.contents()),
            interrupt=lambda _units: bool(self.accelerator.irq),
            reset=self._count_reset,
        )
        self.tries = 0

    def _make_agents(self, pause: float) -> None:
        bench = self.bench
        self.slave = AxiLiteSlave(bench, "registers", EchoRegisters(), pause=pause)
        self.memory = AxiMemory(bench, "memory__", masks=True, latency=6, ar=pause, r=pause, aw=pause, w=pause, b=pause)
        self.checker = AxiChecker(bench, "memory__")

    def _count_reset(self) -> None:
        self.resets += 1

    def contents(self) -> bytes:
        return b"".join(self.memory.read(address).to_bytes(2, "little") for address in range(0, 1 << ADDRESS_BITS, 2))

    async def reply(self, *, patience: int = PATIENCE) -> tuple[int, bytes] | None:
        """The next good frame from the board; None if nothing comes for long."""
        quiet = 0
        while quiet < patience:
            await self.bench.step(20)
            data = self.listener.take()
            quiet = 0 if data or self.sender.busy else quiet + 20
            if frames := self.reader.feed(data):
                assert len(frames) == 1
                return frames[0]
        self.reader.gap()
        return None

    async def ask(self, sequence: int, payload: bytes, *, patience: int = PATIENCE) -> bytes:
        """The payload of the board's answer to a request, over a line without faults."""
        self.sender.send(encode_frame(SYNC_REQUEST, sequence, payload))
        answer = await self.reply(patience=patience)
        assert answer is not None, f"no answer, seed {self.bench.seed}"
        assert answer[0] == sequence
        return answer[1]

    def expect(self, sequence: int, payload: bytes) -> bytes:
        """The payload of the reference's answer."""
        ((found, answer),) = FrameReader(SYNC_REPLY, rescans=False).feed(
            self.reference.receive(encode_frame(SYNC_REQUEST, sequence, payload))
        )
        assert found == sequence
        return answer

    def finish(self) -> None:
        """AssertionError unless the board has done what the reference did, no more and no less."""
        registers = self.slave.registers
        assert isinstance(registers, EchoRegisters)
        assert isinstance(self.reference.registers, EchoRegisters)
        assert registers.log == self.reference.registers.log
        assert self.contents() == self.reference.memory
        assert self.accelerator.resets == self.resets
        self.checker.finish()

    async def say(self, sequence: int, payload: bytes, fault: str) -> bytes:
        """The payload of the answer to a request that is repeated until it is answered; the first time with a fault."""
        frame = encode_frame(SYNC_REQUEST, sequence, payload)
        for number in range(TRIES):
            self.tries += 1
            again = self.source.random() < 0.2
            await self._send(frame, fault if number == 0 else "none" if not again else fault)
            while True:
                answer = await self.reply()
                if answer is None or (fault in ("reply lost", "reply damaged") and number == 0):
                    break
                # A reply to the frame before may come twice.
                if answer[0] == sequence:
                    return answer[1]
        raise AssertionError(f"no answer after {TRIES} tries, seed {self.bench.seed}")

    async def _send(self, frame: bytes, fault: str) -> None:
        source = self.source
        changed = bytearray(frame)
        place = source.randrange(len(frame))
        if fault == "flip":
            changed[place] ^= 1 << source.randrange(8)
        elif fault == "drop":
            del changed[place : place + source.randint(1, 3)]
        elif fault == "insert":
            changed[place:place] = source.randbytes(source.randint(1, 3))
        elif fault == "noise":
            changed[:0] = source.randbytes(4)
        elif fault == "twice":
            changed += frame
        elif fault == "burst":
            changed[place : place + 8] = source.randbytes(len(changed[place : place + 8]))
        self.sender.send(bytes(changed))
        if fault == "cable":
            await self.bench.step(source.randint(1, 10 * DIVISOR * len(frame)))
            self.sender.pull()
        if fault == "glitch":
            await self.bench.step(source.randint(1, 10 * DIVISOR * len(frame)))
            self.sender.pull()
            self.sender.hold(0, source.randint(1, 60))
        if fault == "reply damaged":
            await self.bench.step(10 * DIVISOR * len(frame) + 300)


FAULTS = (
    "none",
    "none",
    "flip",
    "drop",
    "insert",
    "noise",
    "twice",
    "burst",
    "cable",
    "glitch",
    "reply lost",
    "reply damaged",
)


def batch(source: random.Random, *, most: int = 6) -> bytes:
    """The payload of a random request; some end in what is no command, or fail on the way."""
    commands = b""
    for _ in range(source.randint(1, most)):
        opcode = source.choice(
            [Opcode.READ_REGISTER] * 3
            + [Opcode.WRITE_REGISTER] * 3
            + [Opcode.READ_MEMORY] * 3
            + [Opcode.WRITE_MEMORY] * 3
            + [Opcode.WAIT, Opcode.IDENTITY, Opcode.RESET]
        )
        match opcode:
            case Opcode.READ_REGISTER | Opcode.WRITE_REGISTER:
                high = source.choice([source.randrange(0, 64, 4)] * 7 + [source.randrange(0, 0x1100, 4)])
                commands += Command(opcode=opcode, low=source.getrandbits(32), high=high).encode()
            case Opcode.READ_MEMORY | Opcode.WRITE_MEMORY:
                size = source.choice([0, 1, 2, source.randint(3, 30), source.randint(30, 90)])
                low = source.choice(
                    [source.randrange(1 << ADDRESS_BITS), source.randrange(100), source.randrange(100), -1 - size]
                )
                low = low % (1 << ADDRESS_BITS) + (source.random() < 0.05) * (1 << ADDRESS_BITS)
                data = source.randbytes(size) if opcode == Opcode.WRITE_MEMORY else b""
                commands += Command(opcode=opcode, low=low, high=size, data=data).encode()
            case Opcode.WAIT:
                commands += Command(opcode=opcode, high=source.randint(0, 4)).encode()
            case _:
                commands += Command(opcode=opcode).encode()
    if source.random() < 0.1:
        commands += source.randbytes(source.randint(1, 8))
    if source.random() < 0.05:
        commands = commands[:-1] or commands
    return commands


@cocotb.test()
@cocotb.parametrize(faults=[True] if QUICK else [False, True], seed=PARAMETERS["seeds"])
async def batches_are_executed_once(dut: HierarchyObject, faults: bool, seed: int) -> None:
    """Every batch is executed exactly once, whatever happens on the line, and answered as the reference answers."""
    board = Board(dut, seed=seed)
    await board.bench.reset()
    await board.bench.step(20)
    sequence = 0
    statuses: Counter[int] = Counter()
    for number in range(BATCHES):
        payload = HELLO if sequence == 0 else batch(board.source)
        board.accelerator.irq = board.source.getrandbits(1)
        fault = board.source.choice(FAULTS) if faults and number else "none"
        answer = await board.say(sequence, payload, fault)
        wanted = board.expect(sequence, payload)
        assert answer == wanted, f"batch {number}, {payload.hex()}, fault {fault}, seed {seed}"
        statuses[wanted[0] if len(wanted) < 3 else 0] += 1
        sequence = following_sequence(sequence) if board.source.random() < 0.97 else 0
    # What is still on the way is a repeated frame at most, which does nothing.
    await board.bench.step(PATIENCE)
    board.finish()
    assert board.tries > BATCHES or not faults


@cocotb.test(skip=QUICK)
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def noise_does_nothing(dut: HierarchyObject, seed: int) -> None:
    """Bytes at random, and then a session."""
    board = Board(dut, seed=seed)
    await board.bench.reset()
    for _ in range(6):
        board.sender.send(board.source.randbytes(40))
        if board.source.getrandbits(1):
            board.sender.hold(0, board.source.randint(1, 200))
        assert await board.reply(patience=GAP_CYCLES + 200) is None
    assert await board.ask(0, HELLO) == board.expect(0, HELLO)
    board.finish()


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def frames_out_of_order_are_refused(dut: HierarchyObject, seed: int) -> None:
    """Without a session, after a reset of the board, and with any number that is not the next one."""
    board = Board(dut, seed=seed)
    write = Command(opcode=Opcode.WRITE_REGISTER, high=8, low=7).encode()
    await board.bench.reset()
    for sequence, payload in ((1, write), (255, write), (0, HELLO), (2, write), (1, write), (255, write), (2, write)):
        assert await board.ask(sequence, payload) == board.expect(sequence, payload)
    assert await board.ask(0, write) == bytes([LinkStatus.REFUSED]) == board.expect(0, write)
    assert await board.ask(1, write) == bytes([LinkStatus.OKAY]) == board.expect(1, write)
    board.finish()
    # A reset in the middle of a frame.
    board.sender.send(encode_frame(SYNC_REQUEST, 2, write)[:9])
    await board.bench.until(lambda: not board.sender.busy, what="end of the line", limit=10_000)
    await board.bench.reset()
    board.reference.restart()
    assert await board.ask(2, write) == b"" == board.expect(2, write)
    assert await board.ask(0, HELLO) == board.expect(0, HELLO)
    assert await board.ask(1, write) == bytes([LinkStatus.OKAY]) == board.expect(1, write)


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def what_is_no_command_is_refused(dut: HierarchyObject, seed: int) -> None:
    """Incomplete commands, unknown ones, and addresses where there is nothing; none of them has an effect."""
    board = Board(dut, seed=seed)
    await board.bench.reset()
    assert await board.ask(0, HELLO) == board.expect(0, HELLO)
    store = Command(opcode=Opcode.WRITE_MEMORY, low=64, high=4, data=b"data").encode()
    sequence = 0
    for payload in (
        *(store + store[:cut] for cut in (1, 4, 7, len(store) - 1)),
        store + store,
        *(bytes([opcode]) for opcode in (0x00, 0x2F, 0xFF, Opcode.WRITE_REGISTER)),
        bytes([0x3F, 1, 2, 3, 4, 5, 6]) + store,
        bytes([0x1F, 1, 2]) + store,
        Command(opcode=Opcode.READ_MEMORY, high=PAYLOAD_MAX + 1).encode(),
        Command(opcode=Opcode.WRITE_MEMORY, high=0x8000).encode() + store,
        Command(opcode=Opcode.READ_MEMORY, low=1 << ADDRESS_BITS, high=4).encode() + store,
        Command(opcode=Opcode.WRITE_MEMORY, low=1 << 31, high=4, data=b"none").encode() + store,
        Command(opcode=Opcode.READ_REGISTER, high=1 << 12).encode() + store,
        Command(opcode=Opcode.WRITE_REGISTER, high=1 << 15).encode() + store,
    ):
        sequence = following_sequence(sequence)
        answer, wanted = await board.ask(sequence, payload), board.expect(sequence, payload)
        assert answer == wanted, f"{payload.hex()}: {answer.hex()}, not {wanted.hex()}, seed {seed}"
    board.finish()


@cocotb.test(skip=QUICK)
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def what_does_not_answer_times_out(dut: HierarchyObject, seed: int) -> None:
    """Registers, memory and drain that never answer: the batch ends there, and goes on after a reset or an answer."""
    board = Board(dut, seed=seed, pause=0.0)
    read = Command(opcode=Opcode.READ_REGISTER, high=8)
    fetch = Command(opcode=Opcode.READ_MEMORY, low=3, high=70)
    store = Command(opcode=Opcode.WRITE_MEMORY, low=64, high=90, data=bytes(range(90)))
    reset = Command(opcode=Opcode.RESET)
    sequence = 0

    async def ask(*commands: Command) -> list[Answer]:
        nonlocal sequence
        sequence = following_sequence(sequence)
        return decode_reply(commands, await board.ask(sequence, b"".join(command.encode() for command in commands)))

    async def statuses(*commands: Command) -> list[LinkStatus]:
        return [answer.status for answer in await ask(*commands)]

    await board.bench.reset()
    await board.ask(0, HELLO)
    board.slave.frozen = True
    assert await statuses(read, read) == [LinkStatus.TIMEOUT]
    assert await statuses(read) == [LinkStatus.TIMEOUT], "the access before is still in flight"
    board.slave.frozen = False
    assert await statuses(reset, read) == [LinkStatus.OKAY, LinkStatus.OKAY]

    board.accelerator.drains = False
    assert await statuses(reset) == [LinkStatus.TIMEOUT]
    assert await statuses(read) == [LinkStatus.TIMEOUT], "the accelerator is still being reset"
    board.accelerator.drains = True
    assert await statuses(reset, read) == [LinkStatus.OKAY, LinkStatus.OKAY]
    assert board.accelerator.resets == 2

    for channel, command in (("r", fetch), ("ar", fetch), ("aw", store), ("w", store), ("b", store)):
        before = board.contents()
        board.memory.frozen = {channel}
        assert await statuses(command, read) == [LinkStatus.TIMEOUT]
        assert await statuses(fetch) == [LinkStatus.TIMEOUT], "the transfer before is still in flight"
        assert await statuses(read) == [LinkStatus.OKAY]
        board.memory.frozen = set()
        await board.bench.step(600)
        board.checker.finish()
        after = board.contents()
        kept = [place for place in range(len(before)) if not 64 <= place < 154 or command is fetch]
        assert all(before[place] == after[place] for place in kept)
        (answer,) = await ask(fetch)
        assert answer == Answer(status=LinkStatus.OKAY, data=after[3:73])
    assert await statuses(store, fetch) == [LinkStatus.OKAY, LinkStatus.OKAY]
    assert board.contents()[64:154] == bytes(range(90))
    board.checker.finish()


@cocotb.test(skip=QUICK)
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def a_wait_ends_with_the_interrupt(dut: HierarchyObject, seed: int) -> None:
    board = Board(dut, seed=seed)
    await board.bench.reset()
    await board.ask(0, HELLO)
    units = 8
    command = Command(opcode=Opcode.WAIT, high=units)
    for sequence, after in ((1, 300), (2, None), (3, 0)):
        board.accelerator.irq = int(after == 0)
        frame = encode_frame(SYNC_REQUEST, sequence, command.encode())
        board.sender.send(frame)
        await board.bench.until(lambda: not board.sender.busy, what="end of the line", limit=10_000)
        begin = board.bench.cycle
        if after:
            await board.bench.step(after)
            board.accelerator.irq = 1
        board.listener.starts.clear()
        answer = await board.reply()
        wanted = LinkStatus.EXPIRED if after is None else LinkStatus.OKAY
        assert answer == (sequence, bytes([wanted]))
        waited = board.listener.starts[0] - begin
        least = units * WAIT_UNIT if after is None else after
        assert least - 10 <= waited <= least + 100, f"{waited} cycles, seed {seed}"


@cocotb.test(skip=QUICK)
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def the_divisor_changes_after_the_reply(dut: HierarchyObject, seed: int) -> None:
    """A break, and no other low level, brings the first divisor back; a divisor that is too small is refused."""
    board = Board(dut, seed=seed)
    await board.bench.reset()
    await board.ask(0, HELLO)
    for sequence, divisor in ((1, 3), (2, 4096)):
        command = Command(opcode=Opcode.SET_DIVISOR, high=divisor)
        assert await board.ask(sequence, command.encode()) == bytes([LinkStatus.REFUSED])
    assert await board.ask(3, Command(opcode=Opcode.SET_DIVISOR, high=9).encode()) == bytes([LinkStatus.OKAY])
    board.sender.divisor = board.listener.divisor = 9
    assert (await board.ask(0, HELLO))[0] == LinkStatus.OKAY
    board.sender.hold(0, GAP_CYCLES // 2)
    board.sender.hold(1, 200)
    assert (await board.ask(0, HELLO))[0] == LinkStatus.OKAY
    board.sender.hold(0, GAP_CYCLES + 10)
    board.sender.hold(1, 200)
    assert await board.reply(patience=300) is None
    board.sender.divisor = board.listener.divisor = DIVISOR
    assert (await board.ask(0, HELLO))[0] == LinkStatus.OKAY


@cocotb.test(skip=QUICK)
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def long_payloads_fit(dut: HierarchyObject, seed: int) -> None:
    """The longest request, the longest reply, and one byte too many."""
    board = Board(dut, seed=seed, pause=0.0)
    await board.bench.reset()
    await board.ask(0, HELLO)
    board.expect(0, HELLO)
    data = board.source.randbytes(PAYLOAD_MAX - 7)
    write = Command(opcode=Opcode.WRITE_MEMORY, low=5, high=len(data), data=data)
    read = Command(opcode=Opcode.READ_REGISTER, high=8)
    for sequence, commands in enumerate(
        (
            [write],
            [Command(opcode=Opcode.READ_MEMORY, low=7, high=PAYLOAD_MAX - 6), read, read],
            [Command(opcode=Opcode.READ_MEMORY, low=7, high=PAYLOAD_MAX - 5), read],
            [Command(opcode=Opcode.READ_MEMORY, low=7, high=PAYLOAD_MAX)],
        ),
        start=1,
    ):
        payload = b"".join(command.encode() for command in commands)
        # To execute them takes longer than a host waits that knows of short ones only.
        answer = await board.ask(sequence, payload, patience=20 * PAYLOAD_MAX)
        assert answer == board.expect(sequence, payload), f"request {sequence}, seed {seed}"
    board.finish()
