"""What the executors of this process are doing, as plain data: for `unirun top`.

As a dump does, it looks at the reports of the backends and waits for nothing; it leaves out the
stacks, and of very many calls those that wait last.
"""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from typing import Any

from unirun import _dump, _dump_frames, _ending, _observe
from unirun._dump_records import CallReport, Report, copied

__all__ = ["find", "snapshot"]

MOST_CALLS = 500
"""Calls of one backend that are told of; of the rest there is a number. Those that run first."""
MOST_OBJECTS = 50
LONGEST = 200
"""Characters of a name, or of a message."""


def snapshot() -> dict[str, Any]:
    """Everything; times in seconds, None for what is not known."""
    threads = {each.ident: each for each in _dump_frames.threads()}
    executors = sorted(copied(_ending._open), key=id)
    return {
        "pid": os.getpid(),
        "program": " ".join(sys.argv)[:LONGEST] or sys.executable,
        "python": platform.python_version(),
        "at": time.time(),
        "executors": [_executor(each, threads) for each in executors],
    }


def _executor(executor: Any, threads: dict[int, Any]) -> dict[str, Any]:
    backends = copied(executor._backends.items())
    return {
        "name": _short(executor._name),
        "id": id(executor),
        "closed": bool(executor._closed),
        "held": _held(executor, backends),
        "backends": [_backend(name, each, threads) for name, each in backends],
    }


def _held(executor: Any, backends: list[tuple[str, Any]]) -> int:
    """Calls that wait for their turn under a limit of a view."""
    return sum(executor._held.waiting_for(name) for name in {each.name for _, each in backends})


def _backend(pool: str, backend: Any, threads: dict[int, Any]) -> dict[str, Any]:
    report = _dump._report(backend)
    names = {id(each.future): _dump._title(each) for each in report.calls}
    waits = _dump._Waits(report, threads, names)
    first = sorted(report.calls, key=lambda call: call.state == "waiting")[:MOST_CALLS]
    return {
        "name": pool,
        "size": report.size,
        "counts": _counts(backend, report),
        "calls": [_call(each, waits) for each in first],
        "waiting": sum(call.state == "waiting" for call in report.calls),
        "all": len(report.calls),
        "workers": [
            {"name": _short(each.name), "state": _short(each.state), "pid": each.pid}
            for each in report.workers
        ],
        "objects": [_short(line) for line in _dump._with_sleepers(report)][:MOST_OBJECTS],
        "notes": [_short(line) for line in report.notes],
    }


def _counts(backend: Any, report: Report) -> dict[str, int]:
    try:
        stats = backend.stats()
    except Exception:  # noqa: BLE001  # a backend of somebody else's; the rest is wanted all the same
        return {}
    names = ("workers", "pending", "running", "finished", "killed", "crashed", "abandoned")
    return {name: int(getattr(stats, name)) for name in names}


def _call(call: CallReport, waits: _dump._Waits) -> dict[str, Any]:
    future = call.future
    told = None if future is None else future.progress
    return {
        "id": None if future is None else _observe.number_of(future),
        "name": _short(call.name),
        "state": call.state,
        "age": call.age,
        "ran": call.ran,
        "attempt": call.attempt,
        "worker": _short(call.worker),
        "left": call.left,
        "waits": _short(waits.of(call)),
        "parent": None if call.parent is None else _observe.number_of(call.parent),
        "progress": told and [_finite(told.done), _finite(told.total), _short(told.message)],
    }


def _finite(number: float | None) -> float | None:
    """As JSON can write it."""
    return number if number is None or math.isfinite(number) else None


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def find(number: int) -> Any:
    """The future of the call with that number, None if there is none that has not ended."""
    for executor in copied(_ending._open):
        for backend in copied(executor._backends.values()):
            for call in _dump._report(backend).calls:
                if call.future is not None and _observe.number_of(call.future) == number:
                    return call.future
    return None
