"""Makes the table of docs/reliability.md from a test run: `pytest --reliability=FILE tests`.

A test says by `@pytest.mark.scenario(number or name, claim)` what it proves, and by
`record_property("figure", text)` what it measured.  A row passes when each of its tests does.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BEGIN = "<!-- made by `make reliability`; what stands between these two lines is overwritten -->"
END = "<!-- here it ends -->"

# What breaks executors, as collected from the tests of loky and Pebble and from trackers.
SCENARIOS = {
    "A worker dies": {
        1: "SIGKILL amid a task",
        2: "a task calls `os._exit`, with 0 too",
        3: "a task ends by a segmentation fault",
        4: "an idle worker is killed before the next submit",
        5: "all workers at the same instant",
        6: "a worker kills its neighbour",
        7: "death while an argument is unpickled",
        8: "death while a result is pickled",
        9: "an error while a result is unpickled in the parent",
        10: "death in `__del__` of an argument, after the result",
        11: "death while it reads a call",
        12: "death while it writes a result",
        13: "death half way through 100 MB of result",
        14: "death after the executor was garbage-collected",
        15: "the next call after a death",
        16: "ten threads share an executor that lost its workers",
        17: "death while the executor is resized",
        18: "shutdown right after a death",
        19: "death in the initializer",
        20: "a call that kills its worker again and again",
    },
    "Pickling": {
        21: "an argument whose pickling raises or exits",
        22: "100 that cannot be pickled, then 100 that can",
        23: "an exception that cannot be rebuilt",
        24: "an exception whose attributes cannot be set",
        25: "an exception that holds a lock or a file",
        26: "an exception returned as a result",
        27: "any BaseException raised by a task",
        28: "lambdas, closures, functions defined anew between calls",
        29: "`python -c`, a script without guard, a notebook",
        30: "a method of a shared object as the task",
        31: "causes and remote traceback of an exception",
        32: "an argument of more than 2 GiB",
    },
    "Time and cancelling": {
        33: "time-out of a task that sleeps",
        34: "time-out of a task that ignores SIGTERM",
        35: "time-out of a C loop that holds the GIL",
        36: "end of a running call on demand",
        37: "the same through asyncio",
        38: "cancel while 100 MB of arguments are sent",
        39: "time-out of items of a map, which goes on",
        40: "time-out and end at the same moment",
    },
    "Shutdown and exit": {
        41: "shutdown by kill while long calls run",
        42: "children and grandchildren of workers",
        43: "the parent is killed",
        44: "exit with calls that wait",
        45: "Ctrl-C while the caller waits",
        46: "SIGTERM to the parent",
        47: "shutdown from callbacks, from threads, twice",
        48: "an executor dropped without shutdown",
        49: "shutdown with 100 MB of arguments on their way",
        50: "shutdown with a time-out",
        51: "submit racing with shutdown and resize",
        52: "a fork of the user's own beside the workers",
    },
    "Nesting, resources, environment": {
        53: "an executor in a task of an executor, ten deep",
        54: "an idle nested executor at exit",
        55: "a task that starts processes of its own",
        56: "workers replaced for memory or after N calls, with a backlog",
        57: "reference cycles made by tasks",
        58: "a call that comes as an idle worker ends",
        59: "more workers than cores, all at once",
        60: "numpy and OpenMP in the parent first",
        61: "environment and limits of the machine",
        62: "semaphores and shared memory of a killed owner",
        63: "threads that mix submit, map and cancel",
        64: "chains of callbacks that submit, raise or exit",
        65: "an iterable that raises in the middle of a map",
        66: "no warning about fork in a program with threads",
        67: "descriptors and threads after many executors",
        68: "holders, waiters and getters of shared objects that die",
    },
}


class Row:
    """What is known about one scenario."""

    def __init__(self) -> None:
        self.claims: dict[str, None] = {}  # a set in order
        self.figures: dict[str, None] = {}
        self.tests: dict[str, str] = {}  # name -> outcome


class Table:
    """Collects the reports of a run and writes the table at its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name != "scenario":
                continue
            number, claim = str(value).split("\n", 1)
            row = self.rows.setdefault(number, Row())
            row.claims[claim] = None
            figures = [str(text) for what, text in report.user_properties if what == "figure"]
            row.figures.update(dict.fromkeys(figures if report.when == "call" else ()))
            if report.when == "call" or report.outcome != "passed":
                worst = row.tests.get(report.nodeid)
                row.tests[report.nodeid] = worst if worst == "failed" else report.outcome

    def pytest_sessionfinish(self) -> None:
        text = self.path.read_text()
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        middle = "\n".join(self.lines()).strip()
        self.path.write_text(f"{before}{BEGIN}\n\n{middle}\n\n{END}{after}")

    def lines(self) -> Iterator[str]:
        left = dict(self.rows)
        without = not_applicable()
        for section, scenarios in SCENARIOS.items():
            yield from self.heading(section)
            for number, name in scenarios.items():
                yield row_of(str(number), name, left.pop(str(number), Row()), without.get(number))
            yield ""
        yield from self.heading("Beside them")
        for name, row in sorted(left.items()):
            yield row_of("", f"{name}: {'; '.join(row.claims)}", row, None)
        for named, reason in without.items():
            if isinstance(named, str):
                yield row_of("", named, Row(), reason)

    def heading(self, section: str) -> Iterator[str]:
        yield f"### {section}\n"
        yield "| # | scenario | result | figure |"
        yield "| --- | --- | --- | --- |"


def row_of(number: str, name: str, row: Row, reason: str | None) -> str:
    outcomes = list(row.tests.values())
    passed, failed = outcomes.count("passed"), outcomes.count("failed")
    if not passed + failed:
        result = f"not applicable: {reason}" if reason else "NOT TESTED"
    elif failed:
        result = f"FAILED ({failed} of {passed + failed} tests)"
    else:
        result = "passes (1 test)" if passed == 1 else f"passes ({passed} tests)"
    cells = (number, name, result, "; ".join(row.figures))
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def not_applicable() -> dict[int | str, str]:
    """The dictionaries of that name in the test files: number -> why."""
    found: dict[int | str, str] = {}
    for path in Path(__file__).parent.rglob("test_*.py"):
        if "NOT_APPLICABLE" not in (text := path.read_text()):
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NOT_APPLICABLE":
                found.update(ast.literal_eval(node.value))
    return found


def tell_scenarios(items: list[pytest.Item]) -> None:
    """Have the reports of tests say what they prove."""
    for item in items:
        for marker in item.iter_markers("scenario"):
            number, claim = marker.args
            item.user_properties.append(("scenario", f"{number}\n{claim}"))


def add_option(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", type=Path, help="the page whose table is to be written")


def register(config: Any) -> None:
    path = config.getoption("--reliability")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(path), "reliability-table")
