"""Reading a trace file: what is ours becomes a `Run`, what is not is refused with the reason.

A trace is JSON with one event on each line, so that of a program that was killed all but the last
line can be read.  Files that another tool has formatted anew are read as a whole instead.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from unirun._errors import UnirunError
from unirun.report.run import RAN_WELL, Call, Counter, Lane, Mark, Run, Submission

__all__ = ["NotATrace", "read"]

FORMAT = 1
"""The newest that is understood here."""
_GZIP = b"\x1f\x8b"
_US = 1e-6


class NotATrace(UnirunError, ValueError):
    """The file is no trace that unirun has written, or one that cannot be read here."""


def read(data: bytes, name: str) -> Run:
    """The run that `data` tells of; `name` is what the file is called in errors.

    Raises NotATrace.
    """
    text = _text(data, name)
    events = _Sorted(name)
    for event in _events(text, name, events):
        events.take(event)
    return events.finished()


# -- from bytes to events -------------------------------------------------------------------------


def _text(data: bytes, name: str) -> str:
    if data.startswith(_GZIP):
        data = _unpacked(data, name)
    if not data.strip():
        raise NotATrace(f"{name} is empty; a trace has at least the line that says what it is")
    try:
        # Whole lines only: the last one may end amid a character.
        return data.decode("utf-8", "replace")
    except MemoryError as exc:
        raise NotATrace(f"{name} is too large to be read here") from exc


def _unpacked(data: bytes, name: str) -> bytes:
    """All that can be had: a program that was killed has not written the end."""
    unpacked, left = [], data
    while left.startswith(_GZIP):
        decoder = zlib.decompressobj(wbits=31)
        try:
            unpacked.append(decoder.decompress(left))
        except zlib.error as exc:
            if unpacked:
                break
            raise NotATrace(f"{name} is damaged: {exc}; write the trace again") from exc
        left = decoder.unused_data
    return b"".join(unpacked)


def _events(text: str, name: str, counted: _Sorted) -> Iterator[dict[str, Any]]:
    start = text.lstrip("\ufeff \t\r\n")
    if start[:1] not in ("[", "{"):
        raise NotATrace(f"{name} is no trace: it is not JSON; give a file that unirun.trace wrote")
    lines = start.split("\n")  # not splitlines(): a name may have other separators
    if start[:1] == "[" and len(lines) > 1 and _parsed(_bare(lines[1])) is not None:
        yield from _by_line(lines, counted)
        return
    try:
        whole = json.loads(start)
    except (ValueError, RecursionError) as exc:
        why = f"{name} is no trace: it is not JSON ({exc}); give a file that unirun.trace wrote"
        raise NotATrace(why) from exc
    found = whole.get("traceEvents") if isinstance(whole, dict) else whole
    if not isinstance(found, list):
        raise NotATrace(f"{name} is JSON but no trace; give a file that unirun.trace wrote")
    yield from (event for event in found if isinstance(event, dict))


def _by_line(lines: Iterable[str], counted: _Sorted) -> Iterator[dict[str, Any]]:
    for line in lines:
        bare = _bare(line)
        if not bare:
            continue
        event = _parsed(bare)
        if event is None:
            counted.run.unread += 1
        else:
            yield event


def _bare(line: str) -> str:
    """Without what joins the lines to one JSON array."""
    return line.strip().strip("[],").strip()


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


# -- from events to a run -------------------------------------------------------------------------


class _Sorted:
    """Takes events in any order."""

    def __init__(self, name: str) -> None:
        self.run = Run()
        self._name = name
        self._is_ours = False
        self._names: dict[tuple[int, int], str] = {}
        self._processes: dict[int, str] = {}
        self._lives: dict[tuple[int, int], list[float | None]] = {}

    def take(self, event: dict[str, Any]) -> None:
        args = event.get("args")
        args = args if isinstance(args, dict) else {}
        key = _whole(event.get("pid")), _whole(event.get("tid"))
        at = _number(event.get("ts")) * _US
        match event.get("ph"):
            case "M":
                self._take_metadata(_string(event.get("name")), key, args)
            case "X" if event.get("cat") == "call":
                self.run.calls.append(_call(event, key, at, args))
            case "X" if event.get("cat") == "submit":
                end = at + _number(event.get("dur")) * _US
                number = _whole(args.get("call"))
                self.run.submissions[number] = Submission(number, at, end, key)
            case "i":
                self._take_mark(event, key, at, args)
            case "C":
                self._take_counter(_string(event.get("name")), key[0], at, args)

    def _take_metadata(self, name: str, key: tuple[int, int], args: dict[str, Any]) -> None:
        said = _string(args.get("name"))
        if name == "unirun_trace":
            self._is_ours = True
            self.run.about = args
        elif name == "unirun_end":
            self.run.is_whole = True
            self.run.dropped = _whole(args.get("dropped"))
            summed = args.get("summed")
            self.run.summed = [
                each for each in (summed if isinstance(summed, list) else ()) if _is_sum(each)
            ]
        elif name == "thread_name":
            self._names[key] = said
        elif name == "process_name":
            self._processes[key[0]] = said

    def _take_mark(
        self, event: dict[str, Any], key: tuple[int, int], at: float, args: dict[str, Any]
    ) -> None:
        kind = _string(event.get("cat"))
        life = self._lives.setdefault(key, [None, None])
        if kind == "worker_started":
            life[0] = at
        elif kind in ("worker_ended", "worker_died"):
            life[1] = at
        name, detail = _string(event.get("name")), _string(args.get("detail"))
        self.run.marks.append(Mark(name, kind, at, key, detail))

    def _take_counter(self, name: str, pid: int, at: float, args: dict[str, Any]) -> None:
        for key, value in args.items():
            found = self.run.counters.setdefault((key, pid), Counter(key, pid, []))
            found.points.append((at, _number(value)))

    def finished(self) -> Run:
        """The run, sorted; raises NotATrace if these were not our events."""
        run = self.run
        if not self._is_ours:
            raise NotATrace(
                f"{self._name} is no trace of unirun's: it does not say so; "
                "give a file that unirun.trace wrote"
            )
        version = _whole(run.about.get("format"))
        if version > FORMAT:
            raise NotATrace(
                f"{self._name} has format {version}, and this is unirun for format {FORMAT}; "
                "read it with a newer unirun"
            )
        run.calls.sort(key=lambda call: call.start)
        run.marks.sort(key=lambda mark: mark.at)
        for counter in run.counters.values():
            counter.points.sort()
        workers = {call.lane for call in run.calls}
        for key in sorted({*workers, *self._names}):
            born, died = self._lives.get(key, (None, None))
            process = self._processes.get(key[0], f"process {key[0]}")
            name = self._names.get(key, f"lane {key[1]}")
            run.lanes[key] = Lane(key, name, process, key in workers, born, died)
        return run


def _call(event: dict[str, Any], key: tuple[int, int], at: float, args: dict[str, Any]) -> Call:
    cpu = args.get("cpu")
    return Call(
        name=_string(event.get("name")) or "a call",
        start=at,
        end=at + max(0.0, _number(event.get("dur"))) * _US,
        lane=key,
        number=_whole(args.get("call")),
        state=_string(args.get("state")) or RAN_WELL,
        error=_string(args.get("error")),
        kind=_string(args.get("kind")),
        backend=_string(args.get("backend")),
        attempt=_whole(args.get("attempt")) or 1,
        parent=_whole(args.get("parent")),
        wait=_seconds(args, "wait"),
        encode=_seconds(args, "encode"),
        decode=_seconds(args, "decode"),
        answer=_seconds(args, "answer"),
        transfer=_seconds(args, "transfer"),
        bytes_in=_whole(args.get("bytes_in")),
        bytes_out=_whole(args.get("bytes_out")),
        cpu=None if cpu is None else _number(cpu) * _US,
        memory=_whole(args.get("memory")),
        pieces=max(1, _whole(args.get("pieces"))),
    )


# -- values that may be anything ------------------------------------------------------------------


def _seconds(args: dict[str, Any], key: str) -> float:
    return max(0.0, _number(args.get(key))) * _US


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    try:
        found = float(value)
    except OverflowError:
        return 0.0
    return found if math.isfinite(found) else 0.0


def _whole(value: Any) -> int:
    return int(_number(value))


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _is_sum(value: Any) -> bool:
    """Whether it is a row of calls that were only counted."""
    return isinstance(value, dict) and isinstance(value.get("name"), str)
