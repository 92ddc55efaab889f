"""How fast the accelerator is: its Verilog against memory models, job by job and in a queue.

`python -m sim.bench` measures the figures of docs/performance.md at the size of `paper`, writes them to
`build/bench.json`, and compares each with what must be reached and with what `sim/cycles.py` predicts.

*Isolated*: one job, from the doorbell's write to the interrupt of its report. *Queued*: the next jobs wait already, and
what counts is the time from one job's interrupt to that of a later one. Both include everything the machine does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from golden import BoolArray, IntArray
from golden.attention import Addresses, Job, KeyFetch, Mode, planes
from golden.memory import Plane
from golden.quantize import ScoreScale
from host.driver import Device, Report, descriptor
from hw.config import LSB_BITS, NAMED, SECTOR_BYTES, Config
from hw.register_map import DESCRIPTOR_VERSION
from hw.spatten import Spatten
from sim import cycles as model
from sim import files
from sim.build import ROOT
from sim.machine import Machine
from sim.transport import SimulatedTransport
from sim.verilog import convert

RESULTS = ROOT / "build" / "bench.json"
HEADS, HEAD_DIM = 12, 64
"""Of BERT-base and GPT-2-small."""
SEED = 1
PATIENCE = 2_000_000
"""Cycles that a job may take."""

MEMORY_MODELS = {
    "ideal": "answers 40 cycles after a request, then a beat per cycle; a write is acknowledged after 8",
    "hbm2": "HBM2-like: row activation, precharge, bank conflicts and refresh (sim/machine.py, Hbm2Timings)",
}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A job in memory, ready to be submitted any number of times, to any context."""

    job: Job
    at: Addresses
    heads: BoolArray
    macs: int
    """Useful multiplications of both arrays, where nothing is pruned."""


@dataclass
class Timing:
    """What a run of jobs took."""

    cycles: int
    jobs: int
    macs: int
    read_bytes: int
    written_bytes: int
    counters: dict[str, int] = field(default_factory=dict)

    def mac_utilization(self, config: Config) -> float:
        """Useful multiplications / (multipliers x cycles)."""
        return self.macs / ((config.qk_multipliers + config.pv_multipliers) * self.cycles)

    def bandwidth_fraction(self, config: Config) -> float:
        """Bytes moved / what the channels could move."""
        return (self.read_bytes + self.written_bytes) / (config.channels * config.channel_bits // 8 * self.cycles)


class Bench:
    """An accelerator with its memory, and the clock that is read beside it."""

    def __init__(self, config: Config, *, memory: str = "ideal") -> None:
        self.config = config
        started = time.monotonic()
        verilog = convert(Spatten(config=config), name="spatten")
        self.machine = Machine(verilog, config)
        self.build_seconds = time.monotonic() - started
        self.machine.set_memory(memory)
        self.device = Device(SimulatedTransport(self.machine))
        self.random = np.random.default_rng(SEED)
        self._ready: set[int] = set()

    def close(self) -> None:
        """End the simulation."""
        self.device.close()

    # -- Jobs in memory -----------------------------------------------------------------------------------------------

    def _plane(self, rows: int, bits: int, heads: int, head_dim: int, *, signed: bool = True) -> Plane:
        plane = self.device.plane(rows=rows, heads=heads, head_dim=head_dim, bits=bits)
        low, high = (-(1 << bits - 1) + 1, 1 << bits - 1) if signed else (0, 1 << bits)
        self.device.store(plane, self.random.integers(low, high, (heads, rows, head_dim)))
        return plane

    def layer(
        self,
        *,
        mode: Mode,
        keys: int,
        queries: int,
        bits: int = 8,
        heads: int = HEADS,
        head_dim: int = HEAD_DIM,
        key_bits: int | None = None,
        key_fetch: KeyFetch = KeyFetch.STATIC,
        spread: float = 2.0,
        **more: Any,
    ) -> Layer:
        """A layer with random operands; scores spread over `spread` in natural logarithms."""
        key_bits = bits if key_bits is None else key_bits
        split = key_fetch is not KeyFetch.STATIC
        query_bits = 12 if mode is Mode.GENERATION and self.config.operand_bits >= 12 else bits
        query = self._plane(queries, query_bits, heads, head_dim)
        key = self._plane(keys, key_bits - LSB_BITS if split else key_bits, heads, head_dim)
        lsb = self._plane(keys, LSB_BITS, heads, head_dim, signed=False) if split else None
        value = self._plane(keys, bits, heads, head_dim)
        step = spread * 3 / (np.sqrt(head_dim) * 2.0 ** (query_bits + key_bits - 2))
        job = Job(
            mode=mode,
            head_dim=head_dim,
            heads=heads,
            keys=keys,
            query_offset=keys - queries,
            queries=queries,
            query_bits=query_bits,
            key_bits=key_bits,
            value_bits=bits,
            key_fetch=key_fetch,
            score_scales=(ScoreScale.from_step(float(step)),) * heads,
            **more,
        )
        at = Addresses(
            query=query.base, key_msb=key.base, key_lsb=None if lsb is None else lsb.base, value=value.base, output=0
        )
        output = planes(self.config, job, at).output
        at = replace(at, output=self.device.allocate(queries * output.row_sectors))
        pairs = keys * (keys + 1) // 2 if mode is Mode.CAUSAL else keys * queries
        return Layer(job=job, at=at, heads=np.ones(heads, np.bool_), macs=2 * heads * head_dim * pairs)

    # -- Running ------------------------------------------------------------------------------------------------------

    def _submit(self, layer: Layer, context: int, tag: int, **changes: Any) -> int:
        """Ring the doorbell for a job; the cycle before its write."""
        device = self.device
        job = replace(layer.job, **changes) if changes else layer.job
        values = descriptor(self.config, job, layer.at, tag=tag, context=context, heads=layer.heads)
        device.write_descriptor(values)
        now = self.machine.cycles
        device.transport.write_register(device.map["DOORBELL"].offset, DESCRIPTOR_VERSION)
        return now

    def _finish(self) -> tuple[int, Report]:
        """The cycle of the next interrupt, and its report."""
        if not self.machine.interrupt and not self.device.transport.wait_for_interrupt(timeout_cycles=PATIENCE):
            raise TimeoutError(f"no report within {PATIENCE} cycles: {self.device.status()} {self.device.counters()}")
        return self.machine.cycles, self.device.take_report()

    def prepare(self, layer: Layer, contexts: Sequence[int]) -> None:
        """Begin a sequence in every context, so that later jobs need not clear it."""
        for context in contexts:
            if context not in self._ready:
                self._submit(layer, context, 0xFFFF, clear=True)
                self._finish()
                self._ready.add(context)

    def isolated(self, layer: Layer) -> Timing:
        """One job, from the doorbell to the interrupt."""
        self.prepare(layer, [0])
        self.device.clear_counters()
        begin = self._submit(layer, 0, 1, restart=True)
        end, _ = self._finish()
        counters = self.device.counters()
        return self._timing(end - begin, [layer], counters)

    def queued(self, layers: Sequence[Layer], *, skip: int, changes: Sequence[dict[str, Any]] | None = None) -> Timing:
        """Jobs of contexts 0, 1, 2, ... by turns, always with others waiting; without the first and last `skip`."""
        contexts = self.config.contexts
        self.prepare(layers[0], range(min(contexts, len(layers))))
        ends: list[int] = []
        snapshots: list[dict[str, int]] = []
        sent = 0
        while len(ends) < len(layers):
            while sent < len(layers) and self.device.status()["queue_free"] and sent - len(ends) < 8:
                change = {"restart": True} if changes is None else changes[sent]
                self._submit(layers[sent], sent % contexts, sent, **change)
                sent += 1
            cycle, _ = self._finish()
            ends.append(cycle)
            snapshots.append(self.device.counters())
        first, last = skip - 1, len(layers) - 1 - skip
        counters = {name: value - snapshots[first][name] for name, value in snapshots[last].items()}
        return self._timing(ends[last] - ends[first], layers[first + 1 : last + 1], counters)

    def _timing(self, taken: int, layers: Sequence[Layer], counters: dict[str, int]) -> Timing:
        read = sum(value for name, value in counters.items() if name.endswith("_sectors") and name != "output_sectors")
        return Timing(
            cycles=taken,
            jobs=len(layers),
            macs=sum(layer.macs for layer in layers),
            read_bytes=read * SECTOR_BYTES,
            written_bytes=counters["output_sectors"] * SECTOR_BYTES,
            counters=counters,
        )


def _main(
    config: Annotated[str, typer.Option(help="paper, eighth, ulx3s or tiny")] = "paper",
    lengths: Annotated[str, typer.Option(help="prompt lengths")] = "12,32,128,384",
    memory: Annotated[str, typer.Option(help="ideal or hbm2")] = "ideal",
    output: Annotated[Path, typer.Option(help="where to write the figures")] = RESULTS,
) -> None:
    """Measure the accelerator's benchmark figures."""
    console = Console()
    bench = Bench(NAMED[config], memory=memory)
    console.print(f"built in {bench.build_seconds:.0f} s")
    for length in (int(text) for text in lengths.split(",")):
        layer = bench.layer(mode=Mode.SUMMARIZATION, keys=length, queries=length)
        started = time.monotonic()
        timing = bench.isolated(layer)
        seconds = time.monotonic() - started
        use = timing.mac_utilization(bench.config)
        rate = timing.cycles / seconds
        console.print(f"L={length} alone {timing.cycles} cycles, {use:.3f} of all multipliers, {rate:.0f} cycles/s")
    bench.close()


if __name__ == "__main__":
    typer.run(_main)
_ = (json, BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, Table, model, files, IntArray)
