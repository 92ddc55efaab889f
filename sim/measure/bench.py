"""How fast the accelerator is: its Verilog against memory models, job by job and in a queue.

`spatten bench` measures the figures of docs/performance.md at the size of `paper`, writes them to
`build/bench.json`, and compares each with what must be reached and with what `sim/measure/cycles.py` predicts.

*Isolated*: one job, from the doorbell's write to the interrupt of its report. *Queued*: the next jobs wait already, and
what counts is the time from one job's interrupt to that of a later one. Both include everything the machine does.
"""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.hdl import UnusedElaboratable

from spatten.golden import BoolArray
from spatten.golden.attention import planes
from spatten.golden.memory import Plane
from spatten.host import files
from spatten.host.driver.device import Device
from spatten.host.driver.encoding import Report, descriptor
from spatten.host.driver.errors import DeviceError, DeviceTimeoutError
from spatten.sim.machine.device import accelerator_verilog
from spatten.sim.machine.machine import Machine
from spatten.sim.machine.transport import SimulatedTransport
from spatten.sim.measure import cycles as model
from spatten.sim.measure.benchmarks import (
    BERT_CYCLES,
    CASCADE_BANDWIDTH,
    CAUSAL_SHARE,
    FLAT_SHARE,
    GENERATION_BANDWIDTH,
    GPT2_CONTEXT,
    GPT2_KEPT,
    HEAD_DIM,
    HEADS,
    QUEUED_SHARE,
)
from spatten.sim.measure.units import measured_records, topk_rows
from spatten.spec.config import LSB_BITS, SECTOR_BYTES, Config
from spatten.spec.errors import SpattenError
from spatten.spec.job import Addresses, Job, KeyFetch, Mode, ScoreScale
from spatten.spec.version import DESCRIPTOR_VERSION

RESULTS = Path("build/bench.json")
PAGE = Path("docs/performance.md")
SEED = 1
"""Of each figure's random numbers, which are its own: what else is measured changes none of them."""
PATIENCE = 2_000_000
"""Cycles that a job may take."""

MEMORY_MODELS = {
    "ideal": "answers 40 cycles after a request, then a beat per cycle; a write is acknowledged after 8",
    "hbm2": "HBM2-like: row activation, precharge, bank conflicts and refresh (sim/machine/machine.py, Hbm2Timings)",
}


class BenchError(SpattenError, ValueError):
    """Figures that cannot be measured as asked."""


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
    all_read_bytes: int = 0
    """Bytes read by all jobs of a queue, those at its ends included."""
    dram: dict[str, int] = field(default_factory=dict)
    """Beats of data, rows opened, and rows closed for another row, by all jobs, over all channels."""

    @classmethod
    def joined(cls, timings: Sequence[Timing]) -> Timing:
        """Several runs as if they had been one."""

        def total(counts: Sequence[dict[str, int]]) -> dict[str, int]:
            return {name: sum(one[name] for one in counts) for name in counts[0]}

        return cls(
            cycles=sum(one.cycles for one in timings),
            jobs=sum(one.jobs for one in timings),
            macs=sum(one.macs for one in timings),
            read_bytes=sum(one.read_bytes for one in timings),
            written_bytes=sum(one.written_bytes for one in timings),
            counters=total([one.counters for one in timings]),
            all_read_bytes=sum(one.all_read_bytes for one in timings),
            dram=total([one.dram for one in timings]),
        )

    def mac_utilization(self, config: Config) -> float:
        """Useful multiplications / (multipliers x cycles)."""
        return self.macs / ((config.qk_multipliers + config.pv_multipliers) * self.cycles)

    def bandwidth_fraction(self, config: Config) -> float:
        """Bytes moved / what the channels could move."""
        return (self.read_bytes + self.written_bytes) / (config.channels * config.channel_bits // 8 * self.cycles)


class LayerBench:
    """An accelerator with its memory, and the clock that is read beside it."""

    def __init__(self, config: Config, *, memory: str = "ideal") -> None:
        self.config = config
        self.memory = memory
        started = time.monotonic()
        self.machine = Machine(accelerator_verilog(config), config)
        self.build_seconds = time.monotonic() - started
        self.machine.set_memory(memory)
        self.device = Device(SimulatedTransport(self.machine))
        self._ready: set[int] = set()

    def close(self) -> None:
        """End the simulation."""
        self.device.close()

    # -- Jobs in memory -----------------------------------------------------------------------------------------------

    def _plane(
        self, source: np.random.Generator, rows: int, bits: int, heads: int, head_dim: int, *, signed: bool = True
    ) -> Plane:
        plane = self.device.plane(rows=rows, heads=heads, head_dim=head_dim, bits=bits)
        low, high = (-(1 << bits - 1) + 1, 1 << bits - 1) if signed else (0, 1 << bits)
        self.device.store(plane, source.integers(low, high, (heads, rows, head_dim)))
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
        source: np.random.Generator | None = None,
        **more: Any,
    ) -> Layer:
        """A layer with random operands; scores spread over `spread` in natural logarithms.

        If no `source` is given, the operands are those of every other layer of its size.
        """
        source = np.random.default_rng(SEED) if source is None else source
        key_bits = bits if key_bits is None else key_bits
        split = key_fetch is not KeyFetch.STATIC
        query_bits = 12 if mode is Mode.GENERATION and self.config.operand_bits >= 12 else bits
        query = self._plane(source, queries, query_bits, heads, head_dim)
        key = self._plane(source, keys, key_bits - LSB_BITS if split else key_bits, heads, head_dim)
        lsb = self._plane(source, keys, LSB_BITS, heads, head_dim, signed=False) if split else None
        value = self._plane(source, keys, bits, heads, head_dim)
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
        """Ring the doorbell for a job; the cycle before that write."""
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
            raise DeviceTimeoutError(
                f"no report within {PATIENCE} cycles: {self.device.status()} {self.device.counters()}"
            )
        now = self.machine.cycles
        if self.device.status()["failed"]:
            raise DeviceError(f"the accelerator failed: {self.device.counters()}")
        return now, self.device.take_report()

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
        self.machine.statistics(clear=True)
        begin = self._submit(layer, 0, 1, restart=True)
        end, _ = self._finish()
        counters = self.device.counters()
        return self._timing(end - begin, [layer], counters)

    def queued(self, layers: Sequence[Layer], *, skip: int, changes: Sequence[dict[str, Any]] | None = None) -> Timing:
        """Jobs of contexts 0, 1, 2, ... by turns, while others wait; the first and last `skip` do not count."""
        contexts = self.config.contexts
        self.prepare(layers[0], range(min(contexts, len(layers))))
        self.device.clear_counters()
        self.machine.statistics(clear=True)
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
        timing = self._timing(ends[last] - ends[first], layers[first + 1 : last + 1], counters)
        timing.all_read_bytes = self._read_bytes(snapshots[-1])
        return timing

    @staticmethod
    def _read_bytes(counters: dict[str, int]) -> int:
        names = [name for name in counters if name.endswith("_sectors") and name != "output_sectors"]
        return SECTOR_BYTES * sum(counters[name] for name in names)

    def _timing(self, taken: int, layers: Sequence[Layer], counters: dict[str, int]) -> Timing:
        channels = self.machine.statistics()
        return Timing(
            cycles=taken,
            jobs=len(layers),
            macs=sum(layer.macs for layer in layers),
            read_bytes=self._read_bytes(counters),
            written_bytes=counters["output_sectors"] * SECTOR_BYTES,
            counters=counters,
            dram={
                "beats": sum(one.read_beats + one.write_beats for one in channels),
                "activations": sum(one.activations for one in channels),
                "conflicts": sum(one.conflicts for one in channels),
            },
        )


# -- The figures ------------------------------------------------------------------------------------------------------

LENGTHS = (12, 32, 128, 384)
QUEUED_JOBS = {32: 16, 128: 8, 384: 5}
CASCADE_STEPS = 2
"""Tokens that every sequence of a run with cascade pruning generates."""
CASCADE_DRAWS = 8
"""Runs with cascade pruning: who survives is random, and where the survivors lie decides how DRAM rows are met."""


@dataclass(kw_only=True)
class Figure:
    """One row of the benchmark."""

    group: str
    """summarization or generation."""
    name: str
    row: dict[str, Any]
    measured: float
    unit: str
    draws: list[float] = field(default_factory=list)
    """The shares of several runs, where `measured` is their mean, each run counted by its cycles."""
    limit: float | None = None
    at_most: bool = True
    predicted: float | None = None
    """What the cycle model predicts, in cycles of the same run."""
    cycles: int = 0
    """Of all runs, as the counters."""
    counters: dict[str, int] = field(default_factory=dict)
    dram: dict[str, int] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether the figure is as good as it must be; None if nothing is asked of it."""
        if self.limit is None:
            return None
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    @property
    def model_error(self) -> float | None:
        """The cycle model's relative error against the simulated Verilog."""
        return None if self.predicted is None else self.predicted / self.cycles - 1


def summarization_figures(bench: LayerBench, lengths: Sequence[int], *, queued: bool) -> Iterator[Figure]:
    """Dense 8-bit BERT-base layers."""
    config = bench.config
    for length in lengths:
        layer = bench.layer(mode=Mode.SUMMARIZATION, keys=length, queries=length)
        work = model.summarization(heads=HEADS, head_dim=HEAD_DIM, length=length, bits=8)
        row = {"model": "bert-base", "length": length, "layers": 1, "heads": HEADS, "memory_model": bench.memory}
        alone = bench.isolated(layer)
        yield Figure(
            group="summarization",
            name=f"BERT-base layer, L = {length}, isolated",
            row={**row, "run": "isolated", "jobs": 1, "mac_utilization": alone.mac_utilization(config)},
            measured=alone.cycles,
            unit="cycles",
            limit=BERT_CYCLES.get(length),
            predicted=model.predict(config, [work]).cycles,
            cycles=alone.cycles,
            counters=alone.counters,
            dram=alone.dram,
        )
        if queued and length in QUEUED_JOBS:
            count = QUEUED_JOBS[length]
            timing = bench.queued([layer] * count, skip=1)
            works = [replace(work, context=n % config.contexts) for n in range(count)]
            yield Figure(
                group="summarization",
                name=f"BERT-base layer, L = {length}, queued",
                row={**row, "run": "queued", "jobs": timing.jobs, "mac_utilization": timing.mac_utilization(config)},
                measured=timing.mac_utilization(config),
                unit="of all multipliers",
                limit=QUEUED_SHARE[length],
                at_most=False,
                predicted=model.predict(config, works).steady(1, count - 1).cycles,
                cycles=timing.cycles,
                counters=timing.counters,
                dram=timing.dram,
            )


def causal_figures(bench: LayerBench, length: int, full: int | None) -> Iterator[Figure]:
    """A causal prompt against the full square."""
    if full is None:
        full = bench.isolated(bench.layer(mode=Mode.SUMMARIZATION, keys=length, queries=length)).cycles
    layer = bench.layer(mode=Mode.CAUSAL, keys=length, queries=length)
    timing = bench.isolated(layer)
    work = model.summarization(heads=HEADS, head_dim=HEAD_DIM, length=length, bits=8, causal=True)
    yield Figure(
        group="summarization",
        name=f"causal prompt, L = {length}, of the full square",
        row={
            "model": "bert-base, causal",
            "length": length,
            "layers": 1,
            "heads": HEADS,
            "memory_model": bench.memory,
            "run": "isolated",
            "jobs": 1,
            "mac_utilization": timing.mac_utilization(bench.config),
        },
        measured=timing.cycles / full,
        unit="of the cycles",
        limit=CAUSAL_SHARE,
        predicted=model.predict(bench.config, [work]).cycles,
        cycles=timing.cycles,
        counters=timing.counters,
        dram=timing.dram,
    )


def generation_figures(bench: LayerBench) -> Iterator[Figure]:
    """A dense 8-bit layer of GPT-2-small that generates."""
    config = bench.config
    layer = bench.layer(mode=Mode.GENERATION, keys=GPT2_CONTEXT, queries=1)
    tokens = np.arange(GPT2_CONTEXT)
    work = model.generation(
        heads=HEADS, head_dim=HEAD_DIM, tokens=tokens, kv_rows=GPT2_CONTEXT, key_bits=8, value_bits=8
    )
    count = 10
    alone, queue = bench.isolated(layer), bench.queued([layer] * count, skip=2)
    # The jobs are alike, so each moves what the isolated one does; what the counters grow by between two interrupts
    # depends on how far ahead the next jobs' requests are.
    queue.read_bytes, queue.written_bytes = alone.read_bytes * queue.jobs, alone.written_bytes * queue.jobs
    runs = {"isolated": alone, "queued": queue}
    works = [replace(work, context=n % config.contexts) for n in range(count)]
    predicted = {
        "isolated": model.predict(config, [work]).cycles,
        "queued": model.predict(config, works).steady(2, count - 2).cycles,
    }
    limits = {
        ("ideal", "isolated"): GENERATION_BANDWIDTH["alone"],
        ("ideal", "queued"): GENERATION_BANDWIDTH["queued"],
        ("hbm2", "queued"): 0.85,
    }
    for run, timing in runs.items():
        yield Figure(
            group="generation",
            name=f"GPT-2-small layer, {GPT2_CONTEXT} keys, dense 8-bit, {run}",
            row={
                "model": "gpt2-small",
                "context": GPT2_CONTEXT,
                "setting": "dense 8-bit",
                "run": run,
                "jobs": timing.jobs,
                "memory_model": bench.memory,
                "cycles_per_layer": timing.cycles / timing.jobs,
                "bandwidth_fraction": timing.bandwidth_fraction(config),
                "useful_fraction": 1.0,
            },
            measured=timing.bandwidth_fraction(config),
            unit="of all channels' bandwidth",
            limit=limits.get((bench.memory, run)),
            at_most=False,
            predicted=predicted[run] if bench.memory == "ideal" else None,
            cycles=timing.cycles,
            counters=timing.counters,
            dram=timing.dram,
        )


@dataclass(frozen=True)
class CascadeRun:
    """One run of layers with cascade pruning."""

    timing: Timing
    useful_bytes: int
    """Bytes of the rows that take part, however they are read."""


def cascade_run(bench: LayerBench, source: np.random.Generator) -> CascadeRun:
    """GPT-2-small that generates with cascade pruning, local V pruning and 6 + 4 bits, sequences by turns."""
    config = bench.config
    layer = bench.layer(
        mode=Mode.GENERATION,
        keys=GPT2_CONTEXT,
        queries=1,
        key_bits=10,
        key_fetch=KeyFetch.PROGRESSIVE,
        flat_limit=10 * 32,
        source=source,
    )
    sharp, flat = layer.job.score_scales[0], ScoreScale.from_step(1e-9)
    sharp = ScoreScale(sharp.mantissa, sharp.shift - 5)
    changes: list[dict[str, Any]] = []
    useful = 0
    for _ in range(CASCADE_STEPS):
        live = GPT2_CONTEXT
        for number, kept in enumerate(GPT2_KEPT):
            for _ in range(config.contexts):
                is_flat = source.random(HEADS) < FLAT_SHARE
                changes.append(
                    {
                        "restart": number == 0,
                        "keep_tokens": kept,
                        "keep_values": -(-live // 4),
                        "score_scales": tuple(flat if one else sharp for one in is_flat),
                    }
                )
                useful += HEADS * (live * HEAD_DIM * 6 + -(-live // 4) * HEAD_DIM * 8 + HEAD_DIM * 12) // 8
                useful += int(is_flat.sum()) * live * HEAD_DIM * LSB_BITS // 8
            live = kept
    return CascadeRun(bench.queued([layer] * len(changes), skip=4, changes=changes), useful)


def cascade_figures(bench: LayerBench) -> Iterator[Figure]:
    """The mean of several runs with cascade pruning."""
    config = bench.config
    runs = [cascade_run(bench, np.random.default_rng([SEED, draw])) for draw in range(CASCADE_DRAWS)]
    timing = Timing.joined([run.timing for run in runs])
    works = model.cascade_works(contexts=config.contexts, steps=CASCADE_STEPS)
    is_ideal = bench.memory == "ideal"
    predicted = model.predict(config, works).steady(4, len(works) - 4).cycles * len(runs) if is_ideal else None
    yield Figure(
        group="generation",
        name="GPT-2-small, cascade pruning, V keep 0.25, K 6+4, 4 jobs in flight",
        row={
            "model": "gpt2-small",
            "context": GPT2_CONTEXT,
            "setting": "cascade, local V 0.25, K 6+4, V 8",
            "run": "queued",
            "jobs": timing.jobs,
            "memory_model": bench.memory,
            "cycles_per_layer": timing.cycles / timing.jobs,
            "bandwidth_fraction": timing.bandwidth_fraction(config),
            "useful_fraction": sum(run.useful_bytes for run in runs) / timing.all_read_bytes,
        },
        measured=timing.bandwidth_fraction(config),
        unit="of all channels' bandwidth",
        draws=[run.timing.bandwidth_fraction(config) for run in runs],
        limit=CASCADE_BANDWIDTH if is_ideal else None,
        at_most=False,
        predicted=predicted,
        cycles=timing.cycles,
        counters=timing.counters,
        dram=timing.dram,
    )


def figures(bench: LayerBench, lengths: Sequence[int], only: Sequence[str]) -> Iterator[Figure]:
    """All figures, as they are measured."""
    full = None
    if "summarization" in only:
        for figure in summarization_figures(bench, lengths, queued=True):
            if figure.row["length"] == max(lengths) and figure.row["run"] == "isolated":
                full = figure.cycles
            yield figure
    if "causal" in only:
        yield from causal_figures(bench, max(lengths), full)
    if "generation" in only:
        yield from generation_figures(bench)
    if "cascade" in only:
        yield from cascade_figures(bench)


CHANNELS_DECIDE = ("generation", "cascade")
"""The groups that are measured with HBM2-like channels, too."""
GROUPS = ("topk", "summarization", "causal", "generation", "cascade")


def topk_latencies(config: Config) -> list[dict[str, Any]]:
    """Cycles of the token engine's quick-select by length, k and distribution, in a simulation of its Verilog alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedElaboratable)  # circuits that are made to be compared
        return topk_rows([{"configuration": config.name, "records": measured_records("quick_select", config)}])


def report(
    config: Config, found: Sequence[Figure], topk: list[dict[str, Any]], simulation: dict[str, float]
) -> dict[str, Any]:
    rows: dict[str, Any] = {"configuration": config.as_dict(), "summarization": [], "generation": []}
    for figure in found:
        extra = {
            "name": figure.name,
            "cycles": figure.cycles,
            "measured": figure.measured,
            "unit": figure.unit,
            "draws": figure.draws,
            "limit": figure.limit,
            "at_most": figure.at_most,
            "reached": figure.reached,
            "model_error": figure.model_error,
            "counters": figure.counters,
            "dram": figure.dram,
        }
        rows[figure.group].append({**figure.row, **extra})
    rows["model_error"] = {figure.name: figure.model_error for figure in found if figure.model_error is not None}
    rows["memory_models"] = MEMORY_MODELS
    rows["topk"] = topk
    rows["simulation"] = simulation
    return rows


def _value(value: float, unit: str) -> str:
    return f"{value:,.0f} cycles" if unit == "cycles" else f"{100 * value:.1f} % {unit}"


def write_page(page: Path, results: dict[str, Any]) -> None:
    """Put the tables of the figures between their markers in `page`."""
    rows = results["summarization"] + results["generation"]
    figures_table = ["| figure | channels | must be | simulated | model |", "|---|---|---|---|---|"]
    counters_table = [
        "| figure | channels | cycles | waits for K or Q | held up by the top-k | Q x K windows | prob x V windows "
        "| DRAM rows opened per 100 beats (of these for another) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        bound = ""
        if row["limit"] is not None:
            sign = "at most" if row["at_most"] else "at least"
            bound = f"{sign} {_value(row['limit'], row['unit'])}"
        missed = " (**missed**)" if row["reached"] is False else ""
        error = "" if row["model_error"] is None else f"{100 * row['model_error']:+.1f} %"
        measured = _value(row["measured"], row["unit"])
        if row["draws"]:
            low, high = (100 * limit(row["draws"]) for limit in (min, max))
            measured += f" ({len(row['draws'])} runs: {low:.1f} to {high:.1f} %)"
        figures_table.append(f"| {row['name']} | {row['memory_model']} | {bound} | {measured}{missed} | {error} |")
        counters = row["counters"]
        counts = [counters[name] for name in ("stalled_memory", "stalled_topk", "qk_beats", "pv_beats")]
        cells = " | ".join(f"{count:,}" for count in (row["cycles"], *counts))
        opened = ""
        if row["memory_model"] == "hbm2":
            opened, closed = (100 * row["dram"][name] / row["dram"]["beats"] for name in ("activations", "conflicts"))
            opened = f"{opened:.1f} ({closed:.1f})"
        cells += f" | {opened}"
        counters_table.append(f"| {row['name']} | {row['memory_model']} | {cells} |")
    useful = [row for row in results["generation"] if row["setting"].startswith("cascade")]
    lines = [f"Bytes that were needed / bytes that were read, cascade: {100 * row['useful_fraction']:.1f} % "
             f"({row['memory_model']} channels)." for row in useful]  # fmt: skip
    speed = results["simulation"]
    lines.append(
        f"Simulation: {speed['cycles_per_second']:,.0f} cycles per second of processor time, the driver's included; "
        f"{speed['build_seconds']:,.0f} s to generate and compile it, or to find that compiled."
    )
    files.fill_tables(
        page,
        {
            "figures": "\n".join(figures_table) + "\n\n" + "  \n".join(lines),
            "counters": "\n".join(counters_table),
        },
    )


def processor_seconds() -> float:
    """Processor time of this process and of those it started that have ended, whatever else the machine does."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def prompt_lengths(text: str) -> list[int]:
    try:
        return [int(length) for length in text.split(",")]
    except ValueError:
        raise BenchError(f"lengths must be integers with commas between them, not {text!r}") from None


def require_room(config: Config, groups: Sequence[str], lengths: Sequence[int]) -> None:
    """Raise `BenchError` unless a configuration can hold the layers of the groups and prompts of the lengths."""
    prompts = list(lengths) if {"summarization", "causal"} & set(groups) else []
    for length in prompts:
        if not 1 <= length <= config.tokens_max:
            raise BenchError(f"lengths must be 1 to tokens_max = {config.tokens_max}, not {length}")
    longest = GPT2_CONTEXT if set(CHANNELS_DECIDE) & set(groups) else max(prompts, default=0)
    needed = {"heads_max": HEADS, "head_dim_max": HEAD_DIM, "tokens_max": longest} if longest else {}
    for name, least in needed.items():
        if getattr(config, name) < least:
            raise BenchError(
                f"config must have {name} of at least {least} for these figures, not {getattr(config, name)}: "
                f"{config.name} is too small"
            )
