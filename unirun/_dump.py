"""What an executor is doing, as a text: every call, worker, shared object and stack.

    reports of the backends (plain facts) ──┐
    stacks of our own threads ──────────────┼──> text
    stacks of the workers, by a signal ─────┘

It is for programs that hang, so it relies on nothing that may: no lock is waited for longer than a
moment, no worker has to answer, and what cannot be told is a line that says why.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from unirun import _dump_frames, _dump_signal, _ending
from unirun._dump_records import CallReport, Report, copied

if TYPE_CHECKING:
    from typing import TextIO

    from unirun._executor import Executor

__all__ = ["dump", "text_about"]

MOST_WAITING = 100
"""Calls of one backend that wait and are listed; of the rest there is a number."""


def dump(file: TextIO | None = None) -> str:
    """What every executor of this process is doing; see `Executor.dump`.

    Args:
        file: where to write the text as well.
    """
    return text_about(copied(_ending._open), file)


def text_about(executors: Iterable[Executor], file: TextIO | None = None) -> str:
    """The text; written to `file` as well."""
    text = "\n".join(_lines(list(executors))) + "\n"
    if file is not None:
        file.write(text)
        file.flush()
    return text


def _lines(executors: list[Executor]) -> Iterator[str]:
    threads = {each.ident: each for each in _dump_frames.threads()}
    version = ".".join(map(str, sys.version_info[:3]))
    yield f"unirun: dump of process {os.getpid()} (Python {version}), {time.strftime('%F %T')}"
    workers: dict[int, tuple[str, str]] = {}
    for executor in sorted(executors, key=id):
        yield ""
        reports = [_report(backend) for backend in copied(executor._backends.values())]
        yield from _about_executor(executor, reports)
        for report in reports:
            yield from _about_backend(report, threads)
            of = f"{executor._name!r}, {report.name}", report.root
            workers |= {each.pid: of for each in report.workers if each.pid is not None}
    yield from _stacks_here(threads)
    yield from _stacks_of_workers(workers)


def _report(backend: Any) -> Report:
    try:
        report: Report = backend.report()
    except Exception as exc:  # noqa: BLE001  # a backend of somebody else's; the rest is wanted all the same
        why = f"cannot be told: {type(exc).__name__}: {exc}"
        return Report(backend.name, 0, [], [], notes=[why])
    return report


def _about_executor(executor: Any, reports: list[Report]) -> Iterator[str]:
    state = ", shut down" if executor._closed else ""
    names = ", ".join(f"{each.name} ({each.size} workers)" for each in reports)
    yield f"executor {executor._name!r}{state}: {names or 'nothing has started'}"
    gate = executor._gate
    if gate is not None:
        yield f"  max_pending: {gate._calls} calls and {gate._bytes} bytes are pending"
    for report in reports:
        held = executor._held.waiting_for(report.name)
        if held:
            yield f"  {held} calls for {report.name} wait their turn under a limit of their own"
    for activity in copied(executor._activities.values()):
        yield f"  activity {activity.name!r} runs"


# -- calls and workers ----------------------------------------------------------------------------


def _about_backend(report: Report, threads: dict[int, _dump_frames.Thread]) -> Iterator[str]:
    yield f"  {report.name}:"
    yield from (f"    {note}" for note in report.notes)
    names = {id(each.future): _title(each) for each in report.calls}
    yield from _calls(report, _Waits(report, threads, names))
    for worker in report.workers:
        yield f"    worker {worker.name}: {worker.state}"
    if report.objects:
        yield "    shared objects:"
        yield from (f"      {line}" for line in _with_sleepers(report))


def _with_sleepers(report: Report) -> Iterator[str]:
    """Who waits in a cell is known to nobody but the worker that does."""
    told = "\n".join(report.objects)
    for line in report.objects:
        yield line
        name = line.partition(":")[0]
        for worker in report.workers:
            number = f"#{worker.waits & 0xFFFFF:x}"
            if worker.waits and name.endswith(number) and f"process {worker.pid})" not in told:
                yield f"  waited for by {worker.name}"


def _title(call: CallReport) -> str:
    return call.name if call.id is None else f"{call.name} #{call.id}"


class _Waits:
    """What the calls of a backend wait for, in words."""

    def __init__(
        self, report: Report, threads: dict[int, _dump_frames.Thread], names: dict[int, str]
    ) -> None:
        self._names = names
        self._threads = threads
        self._objects = [line.partition(":")[0] for line in report.objects if line[:1] != " "]
        self._workers = {each.name: each for each in report.workers}
        self._innermost: dict[str, int] = {}  # by worker; backends tell of those first
        for call in report.calls:
            if call.state == "running":
                self._innermost.setdefault(call.worker, id(call.future))

    def of(self, call: CallReport) -> str:
        if call.state != "running":
            return "for a worker" if not call.worker else ""
        name = call.worker.removeprefix("thread ").strip("'")
        worker = self._workers.get(call.worker) or self._workers.get(name)
        if worker is None:
            return ""
        if worker.waits or worker.awaits is not None:
            told = worker.awaits is not None
            what = self.describe(worker.awaits) if told else self._object(worker.waits)
            return f"for {what}, since {worker.waited:.1f} s"
        if self._innermost[call.worker] != id(call.future):
            return "for a call that its thread runs meanwhile"
        thread = None if worker.ident is None else self._threads.get(worker.ident)
        wait = None if thread is None else _dump_frames.wait_of(thread.frame)
        if thread is None or wait is None:
            return ""
        what = f"{wait.what} {self.describe(wait.subject)}".strip()
        return f"for {what} at {_dump_frames.place_of(thread.frame)}"

    def _object(self, number: int) -> str:
        end = f"#{number & 0xFFFFF:x}"
        return next((name for name in self._objects if name.endswith(end)), f"object {end}")

    def describe(self, subject: Any) -> str:
        if subject is None:
            return ""
        if id(subject) in self._names:
            return f"call {self._names[id(subject)]}"
        number = getattr(subject, "_object_id", None)
        if isinstance(number, int):
            return f"{subject.kind} #{number & 0xFFFFF:x}"
        if isinstance(subject, threading.Thread):
            return f"thread {subject.name!r}"
        items = getattr(subject, "queue", None)  # of a `queue.Queue`; its qsize() takes a lock
        size = "" if items is None else f" with {len(items)} items"
        return f"{type(subject).__name__} at {id(subject):#x}{size}"


def _calls(report: Report, waits: _Waits) -> Iterator[str]:
    known = {id(call.future) for call in report.calls}
    children: dict[int, list[CallReport]] = {}
    for call in report.calls:
        parent = id(call.parent)
        nested = call.parent is not None and parent in known
        children.setdefault(parent if nested else 0, []).append(call)
    waiting = 0

    def show(calls: list[CallReport], indent: str) -> Iterator[str]:
        nonlocal waiting
        for call in calls:
            waiting += call.state == "waiting"
            if call.state != "waiting" or waiting <= MOST_WAITING:
                yield f"{indent}call {_about(call, waits.of(call))}"
            if call.future is not None:
                yield from show(children.pop(id(call.future), []), indent + "  ")

    yield from show(children.pop(0, []), "    ")
    for rest in list(children.values()):  # each the child of another: that cannot be, but is told
        yield from show(rest, "    ")
    if waiting > MOST_WAITING:
        yield f"    ... and {waiting - MOST_WAITING} more calls that wait"


def _about(call: CallReport, waits: str) -> str:
    parts = [call.state + (f" on {call.worker}" if call.worker else "")]
    if call.ran is not None:
        parts.append(f"began {call.ran:.1f} s ago")
    if call.age is not None:
        parts.append(f"submitted {call.age:.1f} s ago")
    parts.append(f"attempt {call.attempt}")
    if call.left is not None:
        late = call.left < 0
        parts.append(f"{-call.left:.1f} s overdue" if late else f"{call.left:.1f} s left")
    if waits:
        parts.append(f"waits {waits}")
    return f"{_title(call)}: {', '.join(parts)}"


# -- stacks ---------------------------------------------------------------------------------------


def _stacks_here(threads: dict[int, _dump_frames.Thread]) -> Iterator[str]:
    yield ""
    yield f"stacks of process {os.getpid()}, innermost call first:"
    me = sys._getframe()
    own = _dump_frames.Thread(threading.get_ident(), threading.current_thread().name, me)
    for thread in [own, *threads.values()]:
        asks = ", which makes this dump" if thread is own else ""
        yield f"thread {thread.name!r}{asks}:"
        yield from _dump_frames.stack_of(thread.frame)


def _stacks_of_workers(workers: dict[int, tuple[str, str]]) -> Iterator[str]:
    answers = _dump_signal.ask_all(workers)
    for pid, (of, root) in workers.items():
        yield ""
        yield f"stacks of worker {pid} ({of}):"
        for part in answers[pid].strip().split("\n\n"):
            yield from _without_root(part.splitlines(), root)


def _without_root(lines: list[str], root: str) -> list[str]:
    """The frames of a thread down to the task: how the worker came to call it helps nobody."""
    ours = [at for at, line in enumerate(lines) if root and f'"{root}"' in line]
    return lines[: max(2, ours[0])] if ours else lines
