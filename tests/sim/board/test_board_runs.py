"""The whole board, simulated from the pins of its serial line to those of its SDRAM, by the driver of a real board."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from spatten.host.driver.board import board_device
from spatten.host.driver.board_transport import BoardTransport
from spatten.host.driver.device import Device
from spatten.host.driver.errors import LinkError, LinkLostError, LinkTimeoutError, WrongBitstreamError
from spatten.host.driver.transport import BusError
from spatten.host.engines.checked_engine import CheckedEngine, CheckedSequence
from spatten.host.engines.device_engine import DeviceEngine
from spatten.host.engines.engine import FloatArray, LayerResult, ModelShape
from spatten.host.engines.golden_engine import GoldenEngine
from spatten.host.engines.quantized_engine import Computed, LayerWork, Settings
from spatten.hw.board.boards import BOARDS
from spatten.sim.board.port import FAST_LINK, PORT
from spatten.sim.board.simulated_board import BoardStatistics, SdramBreachError, SimulatedBoard, SimulatedSerial
from spatten.spec.link_protocol import BAUD, SYNC_REQUEST
from spatten.spec.register_map import MAGIC

pytestmark = [pytest.mark.slow, pytest.mark.needs("g++", "make", "perl")]

BOARD = BOARDS["ulx3s"]
CONFIG = BOARD.config
MINILM = ModelShape(layers=1, heads=12, head_dim=32, causal=False)
GPT2 = ModelShape(layers=2, heads=12, head_dim=64, causal=True)
SMALL = ModelShape(layers=2, heads=2, head_dim=32, causal=True)
PROGRESSIVE = Settings(
    query_bits=8, key_bits=4, lsb=True, value_bits=8, threshold=0.2, tokens=(7, 6), pin_first=1, pin_recent=2
)
SILENCE = 60_000
"""Cycles without a byte after which nothing is waited for: longer than the small model's jobs take."""


@pytest.fixture(scope="module")
def whole() -> Iterator[SimulatedBoard]:
    with SimulatedBoard(BOARD, link=FAST_LINK) as board:
        yield board


@pytest.fixture
def board(whole: SimulatedBoard) -> SimulatedBoard:
    """The board, just switched on."""
    whole.plug_cable()
    whole.hold_low(False)
    whole.reset(power_off=True)
    whole.statistics(clear=True)
    return whole


def connect(serial: SimulatedSerial, *, repeats: int = 4) -> BoardTransport:
    return BoardTransport(serial, config=CONFIG, speeds=(), repeats=repeats)


@dataclass
class Cost:
    """What a layer took."""

    what: str
    job_cycles: int
    cycles: int
    statistics: BoardStatistics


class Run:
    """A model of random Q, K and V whose attention the board and the golden model compute, which must agree."""

    def __init__(self, transport: BoardTransport, shape: ModelShape, settings: Settings, length: int) -> None:
        self.shape = shape
        self.random = np.random.default_rng(1)
        self.results: list[LayerResult] = []
        self.costs: list[Cost] = []
        assert isinstance(transport._line, SimulatedSerial)
        self.board = transport._line.board
        self.device = Device(transport)
        engine = CheckedEngine(
            DeviceEngine(self.device, settings, room=length + 2 if shape.causal else None),
            GoldenEngine(settings, self.device.config),
            on_layer=self._note,
        )
        self.sequence: CheckedSequence = engine.start(shape, length)
        self.tokens = np.arange(length)
        self.board.statistics(clear=True)
        self._began = self.board.cycles

    def _note(self, work: LayerWork, computed: Computed) -> None:
        cycles = self.board.cycles
        cost = Cost(
            what=f"layer {work.layer}, {work.job.mode.label}, {len(work.live.tokens)} keys",
            job_cycles=computed.counters["busy"],
            cycles=cycles - self._began,
            statistics=self.board.statistics(clear=True),
        )
        self.costs.append(cost)
        print(cost)
        assert computed.counters["rows"] == len(work.live.heads) * len(work.live.rows)
        self._began = self.board.cycles

    def _tensors(self, layer: int, rows: int) -> list[FloatArray]:
        shape = (len(self.sequence.heads(layer)), rows, self.shape.head_dim)
        # Heads differ in how flat their rows are.
        spread = np.linspace(0.3, 2.5, shape[0])[:, None, None]
        return [(self.random.normal(0, 1, shape) * s).astype(np.float32) for s in (spread, 1.0, 1.0)]

    def prompt(self) -> None:
        for layer in range(self.shape.layers):
            result = self.sequence.prompt(layer, *self._tensors(layer, len(self.tokens)), self.tokens)
            self.tokens = result.kept_tokens
            self.results.append(result)

    def step(self, token: int) -> None:
        for layer in range(self.shape.layers):
            self.results.append(self.sequence.step(layer, *self._tensors(layer, 1), token))


def small_model(transport: BoardTransport) -> Run:
    """A prompt of four tokens and two that are generated."""
    run = Run(transport, SMALL, PROGRESSIVE, 4)
    run.prompt()
    for token in (4, 5):
        run.step(token)
    return run


# -- What a board does ------------------------------------------------------------------------------------------------


def test_identity_registers_and_memory(board: SimulatedBoard) -> None:
    with connect(SimulatedSerial(board)) as transport:
        assert transport.identity.name == CONFIG.name
        assert transport.identity.clock_hz == board.clock_hz
        size = transport.identity.memory_bytes
        assert size == 1 << BOARD.part.byte_bits
        assert board.leds["link"]
        assert not board.leds["error"]
        assert transport.read_register(0) == MAGIC
        data = np.random.default_rng(2).integers(0, 256, 5_000, dtype=np.uint8).tobytes()
        for address, part in ((0, data[:1]), (0x1357, data), (size - 33, data[:33])):
            transport.write_memory(0, address, part)
            assert board.read_memory(address, len(part)) == part, "it is in the SDRAM"
            assert transport.read_memory(0, address, len(part)) == part
        board.write_memory(0x1357 + 4000, b"other")
        assert transport.read_memory(0, 0x1357 + 3998, 8) == data[3998:4000] + b"other" + data[4005:4006]
        with pytest.raises(BusError):
            transport.read_register(0xFFC)
        assert board.leds["error"]
        with pytest.raises(BusError):
            transport.read_memory(0, size - 1, 2)
        assert transport.read_register(0) == MAGIC
        device = Device(transport)
        assert device.config.replace(name=CONFIG.name) == CONFIG
    assert board.statistics().refreshes > 0


def test_another_speed(board: SimulatedBoard) -> None:
    with BoardTransport(SimulatedSerial(board), config=CONFIG, speeds=(10_000_000,)) as transport:
        assert transport.speed == 10_000_000
        assert transport.read_register(0) == MAGIC


def test_a_line_that_cannot_do_a_speed(board: SimulatedBoard) -> None:
    serial = SimulatedSerial(board, silence_cycles=SILENCE)
    serial.on_send = lambda data: data if serial.baudrate == BAUD else bytes(len(data))
    with BoardTransport(serial, config=CONFIG, speeds=(10_000_000,), repeats=0) as transport:
        assert transport.speed == BAUD
        assert transport.read_register(0) == MAGIC


def test_the_port(board: SimulatedBoard) -> None:
    """What `--engine board --port simulated` opens; importing `sim.board.port` has registered it."""
    with board_device(CONFIG, port=PORT) as device:
        device.clear_counters()
        assert device.counters()["cycles"] < 10_000


def test_a_minilm_layer(board: SimulatedBoard) -> None:
    settings = Settings(query_bits=8, key_bits=8, value_bits=8, tokens=(9,))
    with connect(SimulatedSerial(board)) as transport:
        run = Run(transport, MINILM, settings, 12)
        run.prompt()
    assert len(run.results[0].kept_tokens) == 9
    assert run.results[0].output.any()


def test_gpt2_tokens(board: SimulatedBoard) -> None:
    with connect(SimulatedSerial(board)) as transport:
        run = Run(transport, GPT2, PROGRESSIVE, 8)
        run.prompt()
        for token in (8, 9):
            before = transport.round_trips
            run.step(token)
            assert transport.round_trips - before <= 2 * 3 * GPT2.layers, "the comparison reads what nobody else does"
    assert [len(result.kept_tokens) for result in run.results[:2]] == [7, 6]
    steps = run.results[2:]
    flat = sum(result.rows_recomputed for result in steps)
    assert 0 < flat < sum(result.rows for result in steps), "some rows are flat, some are not"


# -- What goes wrong --------------------------------------------------------------------------------------------------


class Damage:
    """Damages what is on a serial line, at random, both ways."""

    def __init__(self, serial: SimulatedSerial, kind: str, seed: int) -> None:
        print(f"{kind} with seed {seed}")
        self.random = np.random.default_rng(seed)
        self.kind = kind
        self.count = {"send": 0, "receive": 0}
        serial.on_send = lambda frame: self._damage("send", 0.25, frame)
        # Not too often for a long reply to come through.
        serial.on_receive = lambda data: self._damage("receive", len(data) / 3000, data)

    def _damage(self, way: str, probability: float, data: bytes) -> bytes:
        if not data or self.random.random() >= probability:
            return data
        self.count[way] += 1
        place = int(self.random.integers(len(data)))
        if self.kind == "dropped":
            return data[:place] + data[place + 1 :]
        if self.kind == "inserted":
            # Now and then a byte that seems to begin a frame.
            byte = SYNC_REQUEST if self.random.random() < 0.5 else int(self.random.integers(256))
            return data[:place] + bytes([byte]) + data[place:]
        return data[:place] + bytes([data[place] ^ 1 << int(self.random.integers(8))]) + data[place + 1 :]


@pytest.fixture(scope="module")
def undamaged(whole: SimulatedBoard) -> Run:
    """The small model on a line without damage."""
    whole.plug_cable()
    whole.reset(power_off=True)
    with connect(SimulatedSerial(whole)) as transport:
        return small_model(transport)


@pytest.mark.parametrize("kind", ["dropped", "flipped", "inserted"])
def test_a_damaged_line(board: SimulatedBoard, undamaged: Run, kind: str) -> None:
    """Every frame is executed once: the results are right, and no word more is written to the SDRAM."""
    board.reset(power_off=True)
    serial = SimulatedSerial(board, silence_cycles=SILENCE)
    with connect(serial, repeats=12) as transport:
        damage = Damage(serial, kind, seed=3)
        run = small_model(transport)
        reports = transport.read_register(run.device.map["STATUS"].offset) >> 16 & 7
    print(damage.count)
    assert damage.count["send"] > 2
    assert damage.count["receive"] > 2
    assert reports == 0, "each job's report was taken"
    written = [cost.statistics.written_words for cost in run.costs]
    assert written == [cost.statistics.written_words for cost in undamaged.costs], "a frame was executed twice"
    for mine, theirs in zip(run.results, undamaged.results, strict=True):
        assert np.array_equal(mine.output, theirs.output)
        assert np.array_equal(mine.kept_tokens, theirs.kept_tokens)


def test_a_line_on_which_nothing_comes_through(board: SimulatedBoard) -> None:
    serial = SimulatedSerial(board, silence_cycles=20_000)
    transport = connect(serial)
    serial.on_send = lambda data: data[:-1]
    with pytest.raises(LinkTimeoutError):
        transport.read_register(0)
    serial.on_send = None
    with pytest.raises(LinkError, match="has ended"):
        transport.read_register(0)
    with connect(serial) as again:
        assert again.read_register(0) == MAGIC


class Interrupted(SimulatedSerial):
    """A serial port that calls `harm` once, so many cycles after a frame that is longer than `least` began."""

    harm: Callable[[], None] | None = None
    least = 200
    cycles = 0

    def write(self, data: bytes, /) -> int:
        count = super().write(data)
        if self.harm is not None and len(data) >= self.least:
            harm, self.harm = self.harm, None
            self.board.run(40 * len(data) + self.cycles if self.cycles >= 0 else 20 * len(data))
            harm()
        return count


def job_under_harm(board: SimulatedBoard, harm: Callable[[], None], cycles: int) -> type[BaseException]:
    """What comes of a prompt of which something goes wrong; afterwards the board must work as ever."""
    serial = Interrupted(board, silence_cycles=SILENCE)
    with connect(serial) as transport:
        run = Run(transport, SMALL, PROGRESSIVE, 4)
        serial.cycles = cycles
        serial.harm = harm
        with pytest.raises(LinkError) as caught:
            run.prompt()
        assert not run.results
        with pytest.raises(LinkError, match="has ended"):
            transport.read_register(0)
    board.plug_cable()
    with connect(SimulatedSerial(board)) as transport:
        after = small_model(transport)
        assert len(after.results) == 3 * SMALL.layers
    return caught.type


def test_the_cable_is_pulled_in_the_middle_of_a_frame(board: SimulatedBoard) -> None:
    assert job_under_harm(board, board.pull_cable, -1) is LinkTimeoutError


def test_the_cable_is_pulled_in_the_middle_of_a_job(board: SimulatedBoard) -> None:
    assert job_under_harm(board, board.pull_cable, 1_000) is LinkTimeoutError


def test_a_reset_in_the_middle_of_a_frame(board: SimulatedBoard) -> None:
    assert job_under_harm(board, board.reset, -1) is LinkLostError


@pytest.mark.xfail(
    strict=True,
    raises=SdramBreachError,
    reason="after a reset the SDRAM controller leaves rows open for 200 us, which is more than tRAS allows",
)
def test_a_reset_in_the_middle_of_a_job(board: SimulatedBoard) -> None:
    assert job_under_harm(board, board.reset, 1_000) is LinkLostError


def test_the_supply_fails_in_the_middle_of_a_job(board: SimulatedBoard) -> None:
    assert job_under_harm(board, lambda: board.reset(power_off=True), 1_000) is LinkLostError


def test_a_cable_that_is_pulled_and_plugged_again_is_a_repeat(board: SimulatedBoard, undamaged: Run) -> None:
    board.reset(power_off=True)
    serial = Interrupted(board, silence_cycles=SILENCE)
    with connect(serial) as transport:
        run = Run(transport, SMALL, PROGRESSIVE, 4)

        def shake() -> None:
            board.pull_cable()
            board.run(30_000)
            board.plug_cable()

        serial.cycles = 1_000
        serial.harm = shake
        run.prompt()
    assert serial.harm is None
    written = [cost.statistics.written_words for cost in run.costs]
    assert written == [cost.statistics.written_words for cost in undamaged.costs[:2]], "the job ran twice"


def test_another_configurations_bitstream(board: SimulatedBoard) -> None:
    other = CONFIG.replace(name="other", heads_max=8)
    with pytest.raises(WrongBitstreamError, match="of the configuration 'ulx3s'"):
        BoardTransport(SimulatedSerial(board), config=other)
    received = board.statistics().received_bytes
    board.run(SILENCE)
    assert board.statistics().received_bytes == received, "nothing else was asked for"
    assert not board.leds["error"]
