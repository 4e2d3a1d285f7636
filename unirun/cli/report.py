"""`unirun report TRACE`: what a trace tells about a run; as text, as JSON, or as one HTML page."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from unirun._errors import UnirunError
from unirun.cli.columns import table
from unirun.cli.status import FINE, STATUSES, WrongUse
from unirun.report.advice import Advice, advice
from unirun.report.figures import Figures, TaskRow, as_data, figures
from unirun.report.page import page
from unirun.report.reading import read
from unirun.report.run import Run
from unirun.report.words import bytes_, count, seconds, share

__all__ = ["DESCRIPTION", "add_arguments", "run"]

DESCRIPTION = f"""\
Read a trace that unirun.trace("run.json") or UNIRUN_TRACE=run.json has written, and say
where the time went: utilisation, the slowest calls, figures of each task, and advice.
With -o run.html all of it becomes one page with the timeline, which needs no network.

{STATUSES}"""

TASKS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="the file (also .json.gz); '-': stdin")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write a page of HTML there; '-': to stdout"
    )
    parser.add_argument("--title", help="of the page (default: what the program was called)")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs: the figures")


def run(options: argparse.Namespace) -> int:
    if options.json and options.output is not None:
        raise WrongUse("--json and --output exclude one another; ask twice")
    traced = _read(options.trace)
    found = figures(traced)
    said = advice(traced, found)
    if options.json:
        print(json.dumps(_data(traced, found, said), indent=2))
    elif options.output is not None:
        title = options.title or str(traced.about.get("program") or "a run")
        _write(options.output, page(traced, found, said, title))
    else:
        print("\n".join(_text(traced, found, said)))
    return FINE


def _read(name: str) -> Run:
    shown = "standard input" if name == "-" else name
    try:
        data = _stdin().read() if name == "-" else Path(name).read_bytes()
    except (OSError, ValueError) as exc:
        raise WrongUse(f"cannot read {shown}: {getattr(exc, 'strerror', None) or exc}") from exc
    try:
        return read(data, shown)
    except UnirunError as exc:
        raise WrongUse(str(exc)) from exc


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise WrongUse("standard input is closed, so '-' has nothing to read")
    return sys.stdin.buffer


def _write(name: str, text: str) -> None:
    """Whole or not at all: a page that is open in a browser may be read at any moment."""
    data = text.encode("utf-8", "replace")
    if name == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        return
    target = Path(name)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists() and not target.is_file():  # a device, a pipe
            target.write_bytes(data)
            return
        part.write_bytes(data)
        part.replace(target)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise WrongUse(f"cannot write {name}: {exc.strerror}") from exc


# -- how it is shown ------------------------------------------------------------------------------


def _data(traced: Run, found: Figures, said: list[Advice]) -> dict[str, object]:
    return {
        "about": traced.about,
        "whole": traced.is_whole,
        "dropped": traced.dropped,
        "unread": traced.unread,
        **as_data(found),
        "advice": [each._asdict() for each in said],
        "marks": [mark._asdict() for mark in traced.marks],
    }


def _text(traced: Run, found: Figures, said: list[Advice]) -> Iterator[str]:
    yield _safe(f"{traced.about.get('program') or 'a run'}: {_headline(found)}")
    if not traced.is_whole:
        yield "the trace has no end: the program still ran, or was killed"
    if traced.dropped:
        yield f"{count(traced.dropped, 'event')} came too fast to be written and are missing"
    lost = found.lost
    pickling = lost.encode + lost.decode + lost.answer
    yield f"time of all calls: {seconds(lost.running)} running, {seconds(lost.waiting)} waiting, \
{seconds(pickling)} for pickling"
    if found.tasks:
        yield "tasks:"
        rows = [_TASK, *(_task_row(row) for row in found.tasks[:TASKS])]
        yield from table([tuple(_safe(str(each)) for each in row) for row in rows])
        if len(found.tasks) > TASKS:
            yield f"  and {len(found.tasks) - TASKS} more; --json has all"
    if found.slowest:
        yield "slowest calls:"
        slow = [
            (seconds(call.seconds), call.error or call.state, _safe(f"{call.name} #{call.number}"))
            for call in found.slowest[:5]
        ]
        yield from table(slow)
    yield "advice:" if said else "advice: nothing stands out"
    for each in said:
        yield _safe(f"  {each.what}")
        yield _safe(f"    {each.why}")
        yield _safe(f"    -> {each.do}")


_TASK = ("calls", "failed", "total", "mean", "median", "95 %", "max", "in", "out", "task")


def _task_row(row: TaskRow) -> tuple[object, ...]:
    times = (row.total, row.mean, row.p50, row.p95, row.longest)
    sizes = (row.bytes_in, row.bytes_out)
    return (
        f"{row.calls:,}",
        f"{row.failed:,}",
        *map(seconds, times),
        *(bytes_(size) if size else "-" for size in sizes),
        row.name,
    )


def _headline(found: Figures) -> str:
    failed = f", {found.failed:,} failed" if found.failed else ""
    return (
        f"{count(found.calls, 'call')} in {seconds(found.seconds)}{failed}, "
        f"{count(sum(row.is_worker for row in found.workers), 'worker')}, "
        f"{share(found.utilisation)} busy"
    )


def _safe(text: str) -> str:
    """A name may hold what a terminal obeys."""
    return "".join(c if c.isprintable() else "�" for c in text)
