"""What of unirun is alive in this process, whose it is, and what a test has left behind.

    alive: executors, activities and timers, calls, threads that were given up
    - known: what was there before the test, or belongs to a fixture of a wider scope
    = suspects ──(the default executor, those that may be kept, `grace` seconds)──> leaks

It costs nothing while calls are submitted: executors are known to `_ending`, activities and timers
to `_lasting`, and each backend tells of the calls it has, which is asked only if it has any.
"""

from __future__ import annotations

import fnmatch
import gc
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MethodType
from typing import Any, NamedTuple
from weakref import WeakSet, ref

from unirun import Executor, _ending, _executor, _lasting
from unirun._dump_records import CallReport, Report, copied
from unirun._future import Future
from unirun._lasting import Lasting
from unirun._timer import Timer
from unirun.backend import Backend

__all__ = ["Watch"]

LOOK = 0.01
"""Seconds after which is looked whether what ends has ended."""
MOST = 20
"""So many leaks are named; of the rest there is a number."""
MEANT = (
    "is it meant to? mark the test with @pytest.mark.unirun_leaks_allowed, or name an executor "
    "that many tests share in the ini setting unirun_keep"
)

Refs = list["ref[Any]"]


class Watch:
    """What belongs to whom, over all tests of a session."""

    def __init__(self, grace: float, keep: Sequence[str]) -> None:
        self._grace = grace
        self._keep = keep
        self._known: WeakSet[Any] = WeakSet()
        self._of_fixtures: dict[Any, Refs] = {}
        self._ended: list[tuple[str, Refs]] = []
        self.defaults: list[Executor] = []
        """The default executors of a test that had one of its own; ended after it."""

    # -- whose it is ------------------------------------------------------------------------------

    def alive(self) -> WeakSet[Any]:
        """All there is."""
        return WeakSet(_alive())

    def begin(self) -> None:
        """A test begins: nothing of what there is belongs to it."""
        self._known = self.alive()

    def belongs_to(self, fixture: Any, before: WeakSet[Any] | None) -> None:
        """This fixture has made what there is now and was not there before."""
        made = [each for each in _alive() if before is None or each not in before]
        self._known.update(made)
        self._of_fixtures.setdefault(fixture, []).extend(ref(each) for each in made)

    def has_ended(self, fixture: Any, what: str) -> None:
        """It has to answer for what it has made and is there still."""
        if made := self._of_fixtures.pop(fixture, None):
            self._ended.append((what, made))

    # -- what is left -----------------------------------------------------------------------------

    def judge(self, *, allowed: bool, stop: bool) -> str:
        """A test is over, with all that was set up for it: what to say about it, or "".

        Args:
            allowed: it may leave what it likes, as may the fixtures that have ended with it.
            stop: end the calls, activities and timers that are leaks.
        """
        ended, self._ended = self._ended, []
        told: list[str] = []
        try:
            if not allowed:
                suspects = [("the test", [ref(each) for each in self._new()]), *ended]
                told += filter(None, (self._tell(*each, stop) for each in suspects))
        finally:
            while self.defaults:
                self.defaults.pop().shutdown(wait=not told, kill=True)
        return "\n".join([*told, MEANT]) if told else ""

    def _new(self) -> list[Any]:
        calls = {id(call.future): call for call in _calls()}
        return [
            each
            for each in _alive()
            if each not in self._known and not self._is_called_by_known(calls.get(id(each)), calls)
        ]

    def _is_called_by_known(self, call: Call | None, calls: dict[int, Call]) -> bool:
        """Whether a call that was there already has submitted it."""
        while call is not None and call.report.parent is not None:
            if call.report.parent in self._known:
                return True
            call = calls.get(id(call.report.parent))
        return False

    def _tell(self, who: str, suspects: Refs, stop: bool) -> str:
        left = self._left_of(suspects)
        if not left:
            return ""
        calls = {id(call.future): call for call in _calls()}
        busy = {id(calls[id(each)].backend) for each in left if id(each) in calls}
        lines = [told for each in left if (told := _describe(each, calls, busy)) is not None]
        if stop:
            for each in left:
                _stop(each)
        whole = [f"{line.what}{line.rest}" for line in lines]
        if len(lines) == 1:
            return f"leaked by {who}: {whole[0]}"
        named = _shortened([line.what for line in lines], 3)
        head = f"leaked by {who}: {', '.join(named)}"
        return "\n  ".join([head, *_shortened(whole, MOST)])

    def _left_of(self, suspects: Refs) -> list[Any]:
        """Those that are alive, when the grace is over at the latest."""
        until = time.monotonic() + self._grace
        left = [suspect for suspect in suspects if self._is_left(suspect())]
        if left:
            gc.collect()  # what a reference cycle holds is late, not lost
        while any(self._may_end(suspect()) for suspect in left) and time.monotonic() < until:
            time.sleep(LOOK)
        things = [suspect() for suspect in left]
        return [each for each in things if self._is_left(each)]

    def _may_end(self, thing: Any) -> bool:
        """Whether it is worth to wait for it."""
        ends = not isinstance(thing, Executor) or thing._closed
        return ends and self._is_left(thing)

    def _is_left(self, thing: Any) -> bool:
        if isinstance(thing, Executor):
            if not thing._closed:
                return not self._may_be_kept(thing)
            return not all(backend.join(0) for backend in copied(thing._backends.values()))
        if isinstance(thing, Future):
            return not thing.done()
        if isinstance(thing, Backend):
            return not thing.join(0)
        return thing is not None and bool(thing.is_alive())

    def _may_be_kept(self, executor: Executor) -> bool:
        if executor is _executor._default or executor in self.defaults:
            return True
        return any(fnmatch.fnmatchcase(executor._name, each) for each in self._keep)


# -- what is alive --------------------------------------------------------------------------------


class Call(NamedTuple):
    """One that has not ended."""

    future: Any
    report: CallReport
    backend: Backend
    executor: str


def _alive() -> Iterator[Any]:
    yield from copied(_ending._open)
    yield from copied(_ending._left)
    yield from copied(_lasting._lasting.values())
    yield from (call.future for call in _calls())
    yield from _given_up()


def _calls() -> Iterator[Call]:
    others = {id(getattr(each, "_future", None)) for each in copied(_lasting._lasting.values())}
    for executor in copied(_ending._open):
        retried = executor._held._retried
        again = [] if retried is None else copied(retried._open)
        attempts = {id(each._attempt): each for each in again}
        for backend in copied(executor._backends.values()):
            for call in _calls_of(backend, executor._name):
                whole = attempts.pop(id(call.future), call.future)
                if id(whole) not in others:
                    yield call._replace(future=whole)
            for each in attempts.values():
                told = CallReport(each, "(between two attempts)")
                yield Call(each, told, backend, executor._name)
            attempts.clear()
    for backend in copied(_ending._left):
        yield from _calls_of(backend, backend.spec.name)


def _calls_of(backend: Backend, executor: str) -> Iterator[Call]:
    stats = backend.stats()
    if stats.pending or stats.running:
        for report in report_of(backend).calls:
            if report.future is not None and not report.future.done():
                yield Call(report.future, report, backend, executor)


def _given_up() -> Iterator[threading.Thread]:
    """Threads whose call is abandoned and still runs: no backend counts them any more."""
    for thread in threading.enumerate():
        target = getattr(thread, "_target", None)  # deleted when it ends, as its arguments
        if type(target) is MethodType and isinstance(target.__self__, Backend):
            worker = next(iter(getattr(thread, "_args", ())), None)
            if getattr(worker, "abandoned", False):
                yield thread


def report_of(backend: Backend) -> Report:
    """What it tells of itself, whatever goes wrong there."""
    from unirun._dump import _report  # for who has calls that have not ended

    return _report(backend)


# -- in words -------------------------------------------------------------------------------------


class Line(NamedTuple):
    """What is left, and the rest of a line about it, which ends with what to do."""

    what: str
    rest: str


def _describe(thing: Any, calls: dict[int, Call], busy: set[int]) -> Line | None:
    """None where the lines of its calls say it; `busy` has the backends of these."""
    if isinstance(thing, Executor):
        return _about_executor(thing, busy)
    if isinstance(thing, Backend):
        if id(thing) in busy:
            return None
        return Line(f"workers of a dropped executor {thing.spec.name!r}", _workers([thing]))
    if isinstance(thing, Future):
        return _about_call(calls.get(id(thing)))
    if isinstance(thing, Lasting):
        return _about_lasting(thing)
    return Line(
        f"thread {thing.name!r}",
        f", which runs a call that was given up{_where(thing)}; a thread cannot be killed: have "
        'the call look at unirun.current_task().cancelled, or run it with kind="isolated"',
    )


def _about_executor(executor: Executor, busy: set[int]) -> Line | None:
    backends = copied(executor._backends.values())
    what, where = f"executor {executor._name!r}", f", made at {_place(executor)}"
    if not executor._closed:
        remedy = "use `with Executor(...)`, or call shutdown()"
        return Line(what, f"{where}, not shut down{_workers(backends)}; {remedy}")
    if any(id(each) in busy for each in backends):
        return None
    return Line(what, f"{where}, shut down{_workers(backends)}; wait for it with shutdown()")


def _place(executor: Executor) -> str:
    file, line = executor._made_at
    path, here = Path(file), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{line}"


def _workers(backends: list[Backend]) -> str:
    workers = [each for backend in backends for each in report_of(backend).workers]
    names = [
        f"{each.name if each.pid else f'thread {each.name!r}'} ({each.state})" for each in workers
    ]
    return f", with {', '.join(_shortened(names, 5))}" if names else ""


def _about_call(call: Call | None) -> Line:
    if call is None:  # it is being handed over from one to another
        return Line("a call", "; wait for its result(), or cancel() it")
    report = call.report
    number = "" if report.id is None else f" #{report.id}"
    where = f" on {report.worker}" if report.worker else ""
    age = "" if report.age is None else f", submitted {report.age:.1f} s ago"
    remedy = "cancel() or kill() it"
    if "killable" not in call.backend.capabilities:
        remedy = "cancel() it, for which the call looks at unirun.current_task().cancelled"
    return Line(
        f"call {report.name}{number}",
        f" of executor {call.executor!r}, {report.state}{where}{age}; "
        f"wait for its result(), or {remedy}",
    )


def _about_lasting(thing: Lasting) -> Line:
    what = type(thing)._what.partition(" ")[2]
    pid = getattr(thing, "pid", None)
    remedy = "have it end, and join() it" if pid is None else "kill() it, or join() it"
    if isinstance(thing, Timer):
        remedy = "cancel() it, or join() it"
    where = "" if pid is None else f" on pid {pid}"
    return Line(f"{what} {thing.name!r}", f", not ended{where}; {remedy}")


def _where(thread: threading.Thread) -> str:
    from unirun import _dump_frames

    frames = [each.frame for each in _dump_frames.threads() if each.ident == thread.ident]
    return f" at {_dump_frames.place_of(frames[0])}" if frames else ""


def _shortened(items: list[str], most: int) -> list[str]:
    more = len(items) - most
    return items if more <= 0 else [*items[:most], f"... and {more} more"]


def _stop(thing: Any) -> None:
    """What is a leak must not disturb the tests that follow; executors are left as they are.

    A thread cannot be ended: who runs in it is asked to.
    """
    if isinstance(thing, Future):
        if not thing.cancel():
            thing._stop_for_good()
    elif isinstance(thing, Lasting):
        thing.cancel() if isinstance(thing, Timer) else thing._end_now()
