"""One HTML page with everything about a run; it needs no network and nothing beside it.

Tables, figures and a small picture are plain HTML and SVG, for readers without scripts and for
paper; the script draws the timeline over them.  Names come from the program that was traced and
may be anything: all text goes through `text`, all data of the script through `_embedded`, and the
page's own policy lets a browser run no other script than ours.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from importlib.resources import files
from typing import Any

from unirun.report.advice import Advice
from unirun.report.chart import lanes_chart, load_chart
from unirun.report.drawing import drawing
from unirun.report.figures import Figures, LaneRow
from unirun.report.markup import bar, cell, text, when
from unirun.report.run import RAN_WELL, Run
from unirun.report.words import bytes_, count, seconds, share

__all__ = ["page"]

MOST_MARKS = 100


def page(run: Run, found: Figures, said: list[Advice], name: str) -> str:
    """The page, as text; `name` is its title."""
    style, script = _file("page.css"), _file("page.js")
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{text(name)}</title><style>{style}</style></head><body>",
        *_header(run, found, name),
        "<main>",
        *_notes(run),
        *_advice(said),
        *_timeline(run, found),
        *_workers(found),
        *_time_spent(found),
        *_tasks(found),
        *_slowest(run, found),
        *_marks(run, found),
        "</main>",
        (
            "<footer>Made by unirun from its trace. The trace itself opens in Perfetto "
            "(ui.perfetto.dev) and in chrome://tracing, too.</footer>"
        ),
        f'<script type="application/json" id="data">{_embedded(drawing(run, found))}</script>',
        f"<script>{script}</script>",
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _file(name: str) -> str:
    return files("unirun.report").joinpath(name).read_text(encoding="utf-8")


def _digest(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _embedded(data: Any) -> str:
    """JSON that ends no script element, whatever is in it; in ASCII."""
    written = json.dumps(data, separators=(",", ":"))
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# -- what stands above ----------------------------------------------------------------------------


def _header(run: Run, found: Figures, name: str) -> Iterator[str]:
    about = run.about
    said = [str(about.get(key, "")) for key in ("began", "python", "platform")]
    said.append(count(found.cores, "core"))
    yield f"<header><h1>{text(name)}</h1><p class='about'>"
    yield " · ".join(text(each) for each in said if each)
    yield "</p><dl class='tiles'>"
    for title, value, hint in _tiles(found):
        hint = f"<dd class='hint'>{text(hint)}</dd>" if hint else ""
        yield f"<div><dt>{text(title)}</dt><dd>{text(value)}</dd>{hint}</div>"
    yield "</dl></header>"


def _tiles(found: Figures) -> Iterator[tuple[str, str, str]]:
    yield "time", seconds(found.seconds), "first submit to last result"
    failed = count(found.failed, "failure") if found.failed else "none failed"
    yield "calls", f"{found.calls:,}", failed
    workers = sum(row.is_worker for row in found.workers)
    yield "workers", f"{workers:,}", f"{found.most_running:,} calls at once at most"
    if workers:
        yield "utilisation", share(found.utilisation), "of the workers' time"
    if found.cpu is not None:
        yield "CPU", f"{found.cpu:.1f}", f"cores busy of {found.cores}"
    work = found.lost.running / found.seconds if found.seconds else 0.0
    yield "speed-up", f"{work:.1f}x", "work done per second of time"


def _notes(run: Run) -> Iterator[str]:
    """What the reader has to know about the trace itself."""
    said = []
    if not run.is_whole:
        said.append("The trace has no end: the program still ran, or was killed.")
    if run.dropped:
        said.append(f"{count(run.dropped, 'event')} came too fast to be written and are missing.")
    if run.unread:
        said.append(f"{count(run.unread, 'line')} could not be read.")
    if run.summed:
        said.append(
            "The trace is full: later calls that were fast and fine are counted in the table of "
            "tasks, and not drawn."
        )
    if not run.calls:
        said.append("No call ran while the trace was on.")
    for each in said:
        yield f"<p class='note'>{text(each)}</p>"


def _advice(said: list[Advice]) -> Iterator[str]:
    yield "<section id='advice'><h2>Advice</h2>"
    if not said:
        yield "<p>Nothing stands out.</p>"
    else:
        yield "<ol class='advice'>"
        for each in said:
            yield f"<li data-rule='{text(each.rule)}'><h3>{text(each.what)}</h3>"
            yield f"<p>{text(each.why)}.</p><p class='do'>{text(each.do)}</p></li>"
        yield "</ol>"
    yield "</section>"


def _timeline(run: Run, found: Figures) -> Iterator[str]:
    if not run.calls:
        return
    yield "<section id='timeline'><h2>Timeline</h2>"
    yield "<div class='legend'><span class='running'>running</span>"
    yield "<span class='waiting'>waiting for a worker</span></div>"
    yield load_chart(found)
    yield "<div class='tools' hidden>"
    yield "<button type='button' data-do='in' title='zoom in (+)'>+</button>"
    yield "<button type='button' data-do='out' title='zoom out (-)'>&minus;</button>"
    yield "<button type='button' data-do='all' title='show all (0)'>all</button>"
    yield "<input type='search' id='find' placeholder='highlight a task' aria-label='highlight'>"
    yield "<span class='keys'>drag to move · Ctrl + wheel to zoom · double click for all</span>"
    yield "<output id='range'></output></div>"
    yield "<div id='view' hidden tabindex='0' aria-label='timeline of all calls'>"
    yield "<div id='tall'></div><canvas id='canvas'></canvas></div>"
    yield "<div id='tip' role='status' hidden></div>"
    yield f"<div id='still'>{lanes_chart(run, found)}</div>"
    yield "<ul class='tasks' id='legend'></ul></section>"


# -- tables ---------------------------------------------------------------------------------------


def _table(head: Iterable[str], rows: Iterable[str], *, wide: bool = True) -> str:
    """A head that begins with `#` stands above numbers."""
    cells = "".join(
        f"<th scope='col'{' class=n' if each[:1] == '#' else ''}>{text(each.lstrip('#'))}</th>"
        for each in head
    )
    kind = " class='wide'" if wide else ""
    return (
        f"<div class='scroll'><table{kind}><thead><tr>{cells}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _workers(found: Figures) -> Iterator[str]:
    if not found.workers:
        return
    yield "<section id='workers'><h2>Workers</h2>"
    head = ("worker", "process", "backend", "#calls", "#busy", "#of", "utilisation")
    rows = [row for row in found.workers if row.is_worker]
    calls = sum(row.calls for row in rows)
    busy = sum(row.busy for row in rows)
    present = sum(row.present for row in rows)
    whole = (
        "<tr class='whole'>"
        f"<th scope='row'>all</th>{cell('')}{cell('')}"
        f"{cell(f'{calls:,}', calls)}{cell(seconds(busy), busy)}{cell(seconds(present), present)}"
        f"<td class='bars'>{bar(found.utilisation)}{share(found.utilisation)}</td></tr>"
    )
    yield _table(head, [*map(_worker, found.workers), *([whole] if rows else [])])
    yield "</section>"


def _worker(row: LaneRow) -> str:
    return (
        f"<tr><th scope='row'>{text(row.name)}</th>{cell(row.process)}{cell(row.backend)}"
        f"{cell(f'{row.calls:,}', row.calls)}{cell(seconds(row.busy), row.busy)}"
        f"{cell(seconds(row.present), row.present)}"
        f"<td class='bars' data-value='{row.share:.4f}'>{bar(row.share)}{share(row.share)}</td>"
        "</tr>"
    )


def _time_spent(found: Figures) -> Iterator[str]:
    lost = found.lost
    rows = (
        ("running", lost.running, "in the functions themselves"),
        ("waiting", lost.waiting, "for a worker, after submit; costs no CPU"),
        ("pickling arguments", lost.encode, "in the thread that submits"),
        ("on the way back", lost.transfer, "until the program had the result"),
        ("unpickling arguments", lost.decode, "in the worker"),
        ("pickling results", lost.answer, "in the worker"),
    )
    most = max(value for _, value, _ in rows) or 1.0
    yield "<section id='time'><h2>Where the time went</h2>"
    yield "<p>Summed over all calls that were drawn, so it may be more than the run took.</p>"
    head = ("what", "#time", "#per call", "", "where")
    drawn = max(1, sum(row.drawn for row in found.tasks))
    lines = (
        f"<tr><th scope='row'>{name}</th>{cell(seconds(value), value)}"
        f"{cell(seconds(value / drawn), value)}"
        f"<td class='bars'>{bar(value / most)}</td>{cell(where)}</tr>"
        for name, value, where in rows
    )
    yield _table(head, lines)
    yield "</section>"


def _tasks(found: Figures) -> Iterator[str]:
    yield "<section id='tasks'><h2>Tasks</h2>"
    head = (
        *("task", "kind", "backend", "#calls", "#failed", "#total", "#mean", "#median", "#95 %"),
        *("#max", "#CPU", "#waiting", "#in", "#out"),
    )
    yield _table(head, (_task(row) for row in found.tasks))
    yield "</section>"


def _task(row: Any) -> str:
    times = (row.total, row.mean, row.p50, row.p95, row.longest)
    cpu = "" if row.cpu is None else share(row.cpu)
    sizes = (row.bytes_in, row.bytes_out)
    return (
        f"<tr><th scope='row'>{text(row.name)}</th>{cell(row.kind)}{cell(row.backend)}"
        f"{cell(f'{row.calls:,}', row.calls)}"
        f"{cell(f'{row.failed:,}', row.failed, bad=bool(row.failed))}"
        + "".join(cell(seconds(value), value) for value in times)
        + f"{cell(cpu, row.cpu or 0.0)}{cell(seconds(row.wait), row.wait)}"
        + "".join(cell(bytes_(size) if size else "", size) for size in sizes)
        + "</tr>"
    )


def _slowest(run: Run, found: Figures) -> Iterator[str]:
    if not found.slowest:
        return
    yield "<section id='slowest'><h2>Slowest calls</h2>"
    head = ("call", "#number", "#took", "#began at", "#waited", "worker", "ended", "#in", "#out")
    rows = (
        f"<tr data-call='{call.number}' data-attempt='{call.attempt}'>"
        f"<th scope='row'>{text(call.name)}</th>"
        f"{cell(str(call.number), call.number)}{cell(seconds(call.seconds), call.seconds)}"
        f"{cell(when(call.start - found.start), call.start)}{cell(seconds(call.wait), call.wait)}"
        f"{cell(run.lanes[call.lane].name)}"
        f"{cell(call.error or call.state, bad=call.state != RAN_WELL)}"
        f"{cell(bytes_(call.bytes_in) if call.bytes_in else '', call.bytes_in)}"
        f"{cell(bytes_(call.bytes_out) if call.bytes_out else '', call.bytes_out)}</tr>"
        for call in found.slowest
    )
    yield _table(head, rows)
    yield "</section>"


def _marks(run: Run, found: Figures) -> Iterator[str]:
    marks = [mark for mark in run.marks if not mark.kind.startswith("worker_") or mark.detail]
    if not marks:
        return
    yield "<section id='marks'><h2>What happened</h2>"
    if len(marks) > MOST_MARKS:
        yield f"<p>The first {MOST_MARKS} of {len(marks):,}.</p>"
    rows = (
        f"<tr>{cell(when(mark.at - found.start), mark.at)}<th scope='row'>{text(mark.name)}</th>"
        f"{cell(run.lanes[mark.lane].name if mark.lane in run.lanes else '')}"
        f"{cell(mark.detail)}</tr>"
        for mark in marks[:MOST_MARKS]
    )
    yield _table(("#at", "what", "worker", "more"), rows)
    yield "</section>"
