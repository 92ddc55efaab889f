"""What holds for all tests: Hypothesis tries the same examples in every run, and no example fails for being slow on a
busy machine; a test of something that needs a tool which is not there is skipped, and counted at the end."""

import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from spatten.sim.requirements import MissingError, missing, needed

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    # What runs in the background of a shell ignores Ctrl-C, and so would the programs that the tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")

_NOT_THERE = frozenset(requirement.name for requirement in missing(needed("test")))
"""What this machine lacks, whatever a test makes of its environment."""
_REASON = "not there: "
"""How the reason of such a skip begins."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole-netlist", action="store_true", help="simulate the netlist of the whole board, too")


def _skip_without(names: Iterable[str]) -> None:
    if lacking := [name for name in names if name in _NOT_THERE]:
        pytest.skip(_REASON + ", ".join(lacking))


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _skip_if_missing() -> Generator[None, Any, Any]:
    try:
        return (yield)
    except Exception as error:
        for cause in _behind(error):
            if isinstance(cause, MissingError):
                _skip_without(cause.missing)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    if item.get_closest_marker("whole") and not item.config.getoption("--whole-netlist"):
        pytest.skip("only with --whole-netlist")
    for marker in item.iter_markers("needs"):
        _skip_without(marker.args)
    return (yield from _skip_if_missing())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    return (yield from _skip_if_missing())


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many tests were skipped for which tool."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        _, found, tools = reason.partition(_REASON)
        if found:
            counts[tools] += 1
    if counts:
        terminalreporter.section("skipped for want of a tool")
        for tools, count in counts.most_common():
            terminalreporter.write_line(f"{count} tests: {tools} not found")
