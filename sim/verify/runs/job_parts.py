"""How the testbenches of the job control's parts are run, each in sim/verify/benches/<part>.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.control.job.head_port import HeadPort
from spatten.hw.control.job.head_reader import HeadReader
from spatten.hw.control.job.job_outcomes import JobOutcomes
from spatten.hw.control.job.job_records import JobRecords
from spatten.hw.control.job.job_report import JobReport
from spatten.hw.control.job.job_sizes import JobSizes
from spatten.hw.control.job.kept_choice import KeptChoice
from spatten.hw.control.job.live_heads import LiveHeads
from spatten.hw.control.job.live_rows import LiveRows
from spatten.hw.control.job.member_lines import MemberLines
from spatten.hw.control.job.row_counts import RowCounts
from spatten.hw.control.job.scale_writer import ScaleWriter
from spatten.sim.verify.runs.twin import twin_run
from spatten.spec.config import TINY, Config

WIDE = TINY.replace(
    name="wide",
    tokens_max=32,
    heads_max=5,
    topk_lanes=4,
    key_buffer_rows=64,
    value_buffer_rows=64,
    contexts=3,
    jobs_in_flight=4,
)
"""What `tiny` is not: heads that are no multiple of the top-k lanes, contexts that are no power of two, more jobs."""
LONG = WIDE.replace(name="long", operand_bits=16, head_dim_max=128, key_buffer_rows=256, value_buffer_rows=256)
"""All head dimensions and code widths that a plane can have."""


def head_port_run(config: Config) -> dict[str, Any]:
    return twin_run(HeadPort(config=config), config, "head_port", cycles=4000)


def head_port_mutation_run() -> dict[str, Any]:
    return head_port_run(WIDE)


def head_reader_run(config: Config) -> dict[str, Any]:
    return twin_run(HeadReader(config=config), config, "head_reader", cycles=2500)


def head_reader_mutation_run() -> dict[str, Any]:
    return head_reader_run(WIDE)


def kept_choice_run(config: Config) -> dict[str, Any]:
    return twin_run(KeptChoice(config=config), config, "kept_choice", cycles=3000)


def kept_choice_mutation_run() -> dict[str, Any]:
    return kept_choice_run(WIDE)


def job_outcomes_run(config: Config) -> dict[str, Any]:
    return twin_run(JobOutcomes(config=config), config, "job_outcomes", cycles=6000)


def job_outcomes_mutation_run() -> dict[str, Any]:
    return job_outcomes_run(WIDE)


def live_heads_run(config: Config) -> dict[str, Any]:
    return twin_run(LiveHeads(config=config), config, "live_heads", cycles=2000)


def live_heads_mutation_run() -> dict[str, Any]:
    return live_heads_run(WIDE)


def job_records_run(config: Config) -> dict[str, Any]:
    return twin_run(JobRecords(config=config), config, "job_records", cycles=2000)


def job_records_mutation_run() -> dict[str, Any]:
    return job_records_run(WIDE)


def job_report_run(config: Config) -> dict[str, Any]:
    return twin_run(JobReport(config=config), config, "job_report", cycles=4000)


def job_report_mutation_run() -> dict[str, Any]:
    return job_report_run(WIDE)


def job_sizes_run(config: Config) -> dict[str, Any]:
    return twin_run(JobSizes(config=config), config, "job_sizes", cycles=2500)


def job_sizes_mutation_run() -> dict[str, Any]:
    return job_sizes_run(LONG)


def live_rows_run(config: Config) -> dict[str, Any]:
    return twin_run(LiveRows(config=config), config, "live_rows", cycles=3000)


def live_rows_mutation_run() -> dict[str, Any]:
    return live_rows_run(WIDE)


def member_lines_run(config: Config) -> dict[str, Any]:
    return twin_run(MemberLines(config=config), config, "member_lines", cycles=3000)


def member_lines_mutation_run() -> dict[str, Any]:
    return member_lines_run(WIDE)


def row_counts_run(config: Config) -> dict[str, Any]:
    return twin_run(RowCounts(config=config), config, "row_counts", cycles=3000)


def row_counts_mutation_run() -> dict[str, Any]:
    return row_counts_run(WIDE)


def scale_writer_run(config: Config) -> dict[str, Any]:
    return twin_run(ScaleWriter(config=config), config, "scale_writer", cycles=1500)


def scale_writer_mutation_run() -> dict[str, Any]:
    return scale_writer_run(WIDE)


RUNS = {
    "head_port": head_port_run,
    "head_reader": head_reader_run,
    "kept_choice": kept_choice_run,
    "job_outcomes": job_outcomes_run,
    "live_heads": live_heads_run,
    "job_records": job_records_run,
    "job_report": job_report_run,
    "job_sizes": job_sizes_run,
    "live_rows": live_rows_run,
    "member_lines": member_lines_run,
    "row_counts": row_counts_run,
    "scale_writer": scale_writer_run,
}
