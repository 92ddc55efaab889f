"""What the board is worth: layers on the simulated board, dense against pruned and progressive.

`spatten bench-board` runs jobs on the board's core behind the model of the SDRAM (`sim/board/simulated_board.py`): the
registers by way of the serial line, as on a desk, and the planes put into the memory past the line, since only new rows
travel in use. What the line takes stands beside each figure, computed from the bytes of a job with its new rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spatten.golden.schedule import NO_PRUNING, TOKEN_FRONT, Ratios
from spatten.host import files
from spatten.host.driver.board_transport import BoardTransport
from spatten.host.driver.device import Device
from spatten.host.driver.transport import Transport
from spatten.hw.board.boards import Board
from spatten.sim.board.port import FAST_LINK
from spatten.sim.board.simulated_board import SimulatedBoard, SimulatedSerial
from spatten.sim.measure.bench import BenchError, Layer, LayerBench, prompt_lengths
from spatten.sim.measure.benchmarks import FLAT_SHARE, GPT2_CONTEXT, GPT2_LIVE, HEADS
from spatten.spec.config import SECTOR_BYTES, Config
from spatten.spec.job import KeyFetch, Mode, ScoreScale
from spatten.spec.link_protocol import OVERHEAD

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "CONTEXTS",
    "PAGE",
    "RESULTS",
    "SHARE_LEAST",
    "BoardBench",
    "BoardFigure",
    "figures",
    "report",
    "require_contexts",
    "shares",
    "write_page",
]

CONTEXTS = (256, 512)
"""Keys of the tokens that are generated."""
RESULTS = Path("build/bench-board.json")
PAGE = Path("docs/board.md")
SEED = 1
SHARE_LEAST = 0.8
"""Of the reduction in bytes that pruning and progressive quantization must turn into a reduction in time."""
LINE_BAUD = 3_000_000
_BITS_PER_BYTE = 10
_WORD_BYTES = 2
MINILM_HEAD_DIM, MINILM_LAYERS, MINILM_TOKENS = 32, 6, 64
MINILM_KEEP = Ratios(0.125, 0.75)
"""Tokens that MiniLM's layers lose, of the settings of `make demo`: a quarter is left after the last one."""


def require_contexts(text: str, config: Config) -> list[int]:
    """The numbers of keys in a text; `BenchError` unless a configuration can hold them."""
    lengths = prompt_lengths(text)
    for length in lengths:
        if not 1 <= length <= config.tokens_max:
            raise BenchError(f"contexts must be 1 to tokens_max = {config.tokens_max}, not {length}")
    return lengths


class _PastTheLine(Transport):
    """The registers of a board by way of its line, and its memory directly."""

    def __init__(self, line: BoardTransport, board: SimulatedBoard) -> None:
        self._line = line
        self._board = board

    @property
    def channels(self) -> int:
        return self._line.channels

    def read_register(self, address: int) -> int:
        return self._line.read_register(address)

    def write_register(self, address: int, value: int) -> None:
        self._line.write_register(address, value)

    def read_memory(self, channel: int, address: int, size: int) -> bytes:
        return self._board.read_memory(address, size)

    def write_memory(self, channel: int, address: int, data: Buffer) -> None:
        self._board.write_memory(address, data)

    def wait_for_interrupt(self, *, timeout_cycles: int) -> bool:
        return self._line.wait_for_interrupt(timeout_cycles=timeout_cycles)

    def reset(self) -> None:
        self._line.reset()

    def close(self) -> None:
        self._line.close()


@dataclass(frozen=True, kw_only=True)
class BoardFigure:
    """What the layers of a token, or of a sentence, take together."""

    model: str
    setting: str
    """"dense 8-bit", or what is pruned."""
    keys: int
    layers: int
    cycles: int
    """In which a job ran."""
    clock_hz: int
    read_bytes: int
    written_bytes: int
    activations: int
    """Rows of the SDRAM that were opened."""
    line_bytes: int
    """That travel over the serial line for these jobs, both ways together."""

    @property
    def milliseconds(self) -> float:
        return 1000 * self.cycles / self.clock_hz

    @property
    def peak_fraction(self) -> float:
        """Of the words that the SDRAM could move."""
        return (self.read_bytes + self.written_bytes) / (_WORD_BYTES * self.cycles)

    @property
    def line_milliseconds(self) -> float:
        return 1000 * self.line_bytes * _BITS_PER_BYTE / LINE_BAUD


class BoardBench(LayerBench):
    """A simulated board with layers in its memory."""

    def __init__(self, board: Board) -> None:
        self.config = board.config
        self.memory = "sdram"
        self.board = SimulatedBoard(board, link=FAST_LINK)
        line = BoardTransport(SimulatedSerial(self.board, ends_board=True), config=board.config, speeds=())
        self.device = Device(_PastTheLine(line, self.board))

    def run(self, layers: Sequence[Layer], changes: Sequence[dict[str, Any]]) -> dict[str, int]:
        """Run jobs one after the other, as layers that follow each other do: what they took, added up."""
        total = dict.fromkeys(("cycles", "read_bytes", "written_bytes", "activations"), 0)
        for layer, change in zip(layers, changes, strict=True):
            self.board.statistics(clear=True)
            counters = self.device.counters_reading()
            self.device.run(replace(layer.job, **change), layer.at, heads=layer.heads, context=0, later=[counters])
            total["activations"] += self.board.statistics().activations
            found = counters.value
            total["cycles"] += found["busy"]
            total["read_bytes"] += self._read_bytes(found)
            total["written_bytes"] += found["output_sectors"] * SECTOR_BYTES
        return total


def _line_bytes(layer: Layer, new_rows: int, frames: int) -> int:
    """Bytes on the line for a job: queries and new rows of K and V in, outputs out, descriptor and report."""
    job = layer.job
    elements = job.heads * job.head_dim
    inwards = elements * (job.queries * job.query_bits + new_rows * (job.key_bits + job.value_bits)) // 8
    outwards = elements * job.queries * 2
    return inwards + outwards + 2 * frames * OVERHEAD


def generation(bench: BoardBench, keys: int, *, pruned: bool) -> BoardFigure:
    """A token of GPT-2-small: twelve layers, dense at 8 bits, or with token pruning and K at 4 + 4 bits."""
    source = np.random.default_rng([SEED, keys])
    more: dict[str, Any] = {"key_fetch": KeyFetch.PROGRESSIVE, "flat_limit": 10 * 32} if pruned else {}
    layer = bench.layer(mode=Mode.GENERATION, keys=keys, queries=1, source=source, **more)
    sharp, flat = layer.job.score_scales[0], ScoreScale.from_step(1e-9)
    sharp = ScoreScale(sharp.mantissa, sharp.shift - 5)
    changes: list[dict[str, Any]] = []
    for number, kept in enumerate((*GPT2_LIVE[1:], GPT2_LIVE[-1])):
        change: dict[str, Any] = {"restart": number == 0, "clear": number == 0}
        if pruned:
            is_flat = source.random(HEADS) < FLAT_SHARE
            change["keep_tokens"] = max(1, keys * kept // GPT2_CONTEXT)
            change["score_scales"] = tuple(flat if one else sharp for one in is_flat)
        changes.append(change)
    found = bench.run([layer] * len(changes), changes)
    return BoardFigure(
        model="GPT-2-small, a token",
        setting="tokens pruned, K 4+4" if pruned else "dense 8-bit",
        keys=keys,
        layers=len(changes),
        clock_hz=bench.board.clock_hz,
        line_bytes=len(changes) * _line_bytes(layer, 1, 1),
        **found,
    )


def minilm(bench: BoardBench, *, pruned: bool) -> BoardFigure:
    """A sentence through MiniLM's six layers, dense or with token pruning, both at 8 bits."""
    source = np.random.default_rng([SEED, MINILM_TOKENS])
    schedule = MINILM_KEEP if pruned else NO_PRUNING
    counts = schedule.counts(MINILM_TOKENS, MINILM_LAYERS, TOKEN_FRONT)
    layer = bench.layer(
        mode=Mode.SUMMARIZATION,
        keys=MINILM_TOKENS,
        queries=MINILM_TOKENS,
        head_dim=MINILM_HEAD_DIM,
        source=source,
    )
    changes: list[dict[str, Any]] = [
        {"restart": number == 0, "clear": number == 0, **({"keep_tokens": kept} if pruned else {})}
        for number, kept in enumerate(counts)
    ]
    found = bench.run([layer] * MINILM_LAYERS, changes)
    rows = [MINILM_TOKENS, *counts[:-1]]
    whole = _line_bytes(layer, MINILM_TOKENS, 8)
    return BoardFigure(
        model="MiniLM, a sentence",
        setting="tokens pruned, 8-bit" if pruned else "dense 8-bit",
        keys=MINILM_TOKENS,
        layers=MINILM_LAYERS,
        clock_hz=bench.board.clock_hz,
        line_bytes=sum(whole * live // MINILM_TOKENS for live in rows),
        **found,
    )


def figures(bench: BoardBench, contexts: Sequence[int]) -> Iterator[BoardFigure]:
    """All figures, as they are measured: each dense one before its pruned one."""
    for keys in contexts:
        yield generation(bench, keys, pruned=False)
        yield generation(bench, keys, pruned=True)
    yield minilm(bench, pruned=False)
    yield minilm(bench, pruned=True)


def shares(found: Sequence[BoardFigure]) -> list[float]:
    """For each pair, dense and pruned, the share of the reduction in bytes that became a reduction in time."""
    result = []
    for dense, pruned in zip(found[::2], found[1::2], strict=True):
        bytes_less = (dense.read_bytes + dense.written_bytes) / (pruned.read_bytes + pruned.written_bytes)
        result.append((dense.cycles / pruned.cycles) / bytes_less)
    return result


def report(board: str, found: Sequence[BoardFigure]) -> dict[str, Any]:
    """What goes into `RESULTS`."""
    rows = [
        {
            **asdict(one),
            "milliseconds": one.milliseconds,
            "peak_fraction": one.peak_fraction,
            "line_milliseconds": one.line_milliseconds,
        }
        for one in found
    ]
    whole = found[: len(found) // 2 * 2]
    return {"board": board, "figures": rows, "shares": shares(whole)}


def write_page(page: Path, results: dict[str, Any]) -> None:
    """Put the table of the figures between its markers in `page`."""
    lines = [
        "| layers of | keys | setting | cycles | at the board's clock | bytes moved | of the SDRAM's peak "
        "| rows opened | the line |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["figures"]:
        moved = row["read_bytes"] + row["written_bytes"]
        lines.append(
            f"| {row['model']} ({row['layers']} layers) | {row['keys']} | {row['setting']} | {row['cycles']:,} "
            f"| {row['milliseconds']:.2f} ms | {moved:,} | {100 * row['peak_fraction']:.1f} % | {row['activations']:,} "
            f"| {row['line_milliseconds']:.1f} ms |"
        )
    pairs = ", ".join(f"{100 * share:.0f} %" for share in results["shares"])
    lines += ["", f"Of the reduction in bytes, became a reduction in time: {pairs}."]
    files.fill_tables(page, {"worth": "\n".join(lines)})
