"""What a trace file holds: events as lines of the Trace Event Format, one JSON object each.

    submitted ──> kept until its end ──> slice of the submit ─flow─> slice of the call, marks

1. A call is written when it has ended, as one slice with all that is known; so what is kept is only
   for calls that are open, and of those OPEN at most: of others the submit is not drawn.
2. Slices of a lane nest or are apart, as viewers demand: a call that would cut another one goes
   to a lane beside it. Coroutines that run at once have a lane each.
3. An arrow needs a slice at both ends. It starts at the slice of its submit, or of the call that
   has submitted it, and then both ends are written when that has ended.
4. The first `limit` calls are drawn. After them only those that failed or took SLOW are, `limit`
   more at most, and the others are summed up by task: the file has an end, and memory too.
5. Numbers come before texts in a line: some readers understand escapes in no key they look through.

Pure: no clock, no file, no thread; `unirun._trace` feeds it from one thread.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Lane = tuple[int, int]  # process and lane: what the format calls pid and tid
    Known = dict[str, Any]  # of an event

__all__ = ["FORMAT", "SLOW", "Picture"]

FORMAT = 1
"""Of the file; readers refuse newer ones."""
SLOW = 0.1
"""Seconds from which on a call is drawn even if many were."""
OPEN = 100_000
"""Calls whose submit is remembered until they end."""
TASKS = 10_000
"""Tasks that are counted apart; the rest together."""
ARROWS = 10_000
"""From one call to those it has submitted."""
PART = 20e-6
"""Seconds below which pickling has no slice of its own."""
RECENT = 16
"""Slices of a lane that a new one is compared with."""
BESIDE = 1 << 24
"""Numbers of lanes that no thread has begin here."""
ELSEWHERE = 1 << 24
"""Numbers of processes of other machines, which no process of this one has, begin here."""
PARTS = "pickling"
_PARTS_OF_US = tuple(f".{n:03d}" for n in range(1000))
ENDS = frozenset(("finished", "failed", "cancelled", "killed", "timed_out", "crashed"))
_MARKED = {"killed": "killed", "crashed": "crashed", "timed_out": "timed out"}
_WORKERS = {
    "worker_started": "worker started",
    "worker_ended": "worker ended",
    "worker_killed": "worker killed",
    "worker_died": "worker died",
}


def quoted(text: str) -> str:
    """As JSON. What UTF-8 has no bytes for is replaced."""
    plain = text.encode("utf-8", "replace").decode("utf-8")
    return json.dumps(plain[:500], ensure_ascii=False)


def us(ns: int) -> str:
    """Microseconds, exactly: what takes a number to pieces by itself costs ten times as much."""
    return f"{ns // 1000}{_PARTS_OF_US[ns % 1000]}"


class Picture:
    """Makes the lines; times of events are seconds on the clock that `origin` is of."""

    def __init__(self, origin: float, pid: int, limit: int) -> None:
        self._origin = origin
        self._pid = pid
        self._limit = limit
        self.drawn = 0
        self.forgotten = 0  # submits that were not remembered
        self._summed: dict[str, list[float]] = {}
        # By call and attempt: when, how long, from which lane, by which call.
        self._submits: dict[tuple[int, int], tuple[float, float, Lane, int]] = {}
        self._open: set[int] = set()  # calls that were submitted and have not ended
        self._children: dict[int, list[tuple[int, Lane, int]]] = {}  # arrows, by parent
        self._lanes: dict[Lane, str] = {}
        self._elsewhere: dict[tuple[str, int], int] = {}  # by machine and process: its number here
        self._processes: dict[int, str] = {}
        self._beside: dict[tuple[Lane, int], Lane] = {}
        self._recent: dict[Lane, deque[tuple[int, int]]] = {}
        self._threads: dict[tuple[int, str], int] = {}  # by backend and name of the worker
        self._ends: list[int] = []  # of the last slices on the lanes of coroutines, sorted, ...
        self._slots: list[int] = []  # ... and the lanes
        self._arrows = 0
        self._quoted: dict[str, str] = {}
        self._words: dict[tuple[Any, ...], str] = {}
        self._out: list[str] = []

    def lines(self) -> list[str]:
        """What has come up since the last time."""
        out, self._out = self._out, []
        return out

    # -- what happens -----------------------------------------------------------------------------

    def see(self, known: Known, thread: int, name: str) -> None:
        """An event, and the thread that told it: its number and name."""
        what = known["what"]
        if what == "submitted":
            get = known.get
            what_of = known["call"], get("attempt"), known["at"], get("packing"), get("parent")
            self.submit(*what_of, thread, name)
        elif what in ENDS:
            self._ended(known, thread, name)
        elif what in _WORKERS:
            self._mark(what, _WORKERS[what], known["at"], self._lane(known, thread, name), known)
        elif what == "retried":
            lane = self._lane(known, thread, name)
            self._mark(what, f"retry of {_name(known)}", known["at"], lane, known)

    def submit(
        self,
        call: int,
        attempt: int | None,
        at: float,
        packing: float | None,
        parent: int | None,
        thread: int,
        name: str,
    ) -> None:
        """As `see`, of an event "submitted"."""
        if len(self._submits) >= OPEN:
            self.forgotten += 1
            return
        lane = self._pid, thread
        if lane not in self._lanes:
            self._name_lane(lane, name)
        self._open.add(call)
        self._submits[call, attempt or 1] = at, packing or 0.0, lane, parent or 0

    def _ended(self, known: Known, thread: int, name: str) -> None:
        submit = self._submits.pop((known["call"], known.get("attempt") or 1), None)
        self._open.discard(known["call"])
        start, end = known.get("started"), known.get("finished")
        if start is None:
            self._never_ran(known, submit)
            return
        end = known["at"] if end is None else end
        if self._is_kept(known, end - start):
            self._call(known, submit, self._lane(known, thread, name), start, end)
        if self._children:
            self._children.pop(known["call"], None)

    def _is_kept(self, known: Known, seconds: float) -> bool:
        """Rule 4."""
        self.drawn += 1
        if self.drawn <= self._limit:
            return True
        fine = known["what"] == "finished"
        if not (fine and seconds < SLOW) and self.drawn <= 2 * self._limit:
            return True
        self.drawn -= 1
        name = _name(known)
        name = name if name in self._summed or len(self._summed) < TASKS else "(other tasks)"
        row = self._summed.setdefault(name, [0, 0.0, 0, 0.0])
        row[0] += 1
        row[1] += seconds
        row[2] += not fine
        row[3] = max(row[3], seconds)
        return False

    # -- what is written --------------------------------------------------------------------------

    def _call(
        self,
        known: Known,
        submit: tuple[float, float, Lane, int] | None,
        lane: Lane,
        start: float,
        end: float,
    ) -> None:
        begin, over = self._ns(start), self._ns(end)
        if over <= begin:
            over = begin + 1  # an arrow finds no slice that is over as it begins
        if known.get("backend") == "coroutine":
            lane = self._coroutine_lane(begin, over)
        else:
            lane = self._fitting(lane, begin, over)
        call, task = known["call"], known.get("task") or "a call"
        name = self._quoted.get(task) or self._quote(task)
        self._out.append(
            f'{{"ph":"X","ts":{us(begin)},"dur":{us(over - begin)},"pid":{lane[0]},"tid":'
            f'{lane[1]},"cat":"call","name":{name},"args":{{{self._args(known, submit, start)}}}}}'
        )
        if (known.get("unpacking") or 0.0) >= PART or (known.get("repacking") or 0.0) >= PART:
            self._parts(known, lane, begin, over)
        if submit is not None:
            self._submit(submit, call, lane, begin)
        if self._children:
            for at, to, then in self._children.pop(call, ()):
                self._arrow(lane, min(max(at - 500, begin), over - 1), to, then)
        if (what := known["what"]) in _MARKED:
            self._mark(what, f"{_MARKED[what]} {_name(known)}", end, lane, known)

    def _parts(self, known: Known, lane: Lane, begin: int, over: int) -> None:
        decode, answer = known.get("unpacking") or 0.0, known.get("repacking") or 0.0
        took = over - begin
        if decode >= PART:
            took = min(round(decode * 1e9), took)
            self._slice(PARTS, "unpickle arguments", lane, begin, took)
            took = over - begin - took
        if answer >= PART and took > 0:
            took = min(round(answer * 1e9), took)
            self._slice(PARTS, "pickle result", lane, over - took, took)

    def _slice(self, kind: str, name: str, lane: Lane, begin: int, took: int) -> None:
        self._out.append(
            f'{{"ph":"X","ts":{us(begin)},"dur":{us(took)},"pid":{lane[0]},'
            f'"tid":{lane[1]},"cat":"{kind}","name":"{name}"}}'
        )

    def _submit(
        self, submit: tuple[float, float, Lane, int], call: int, lane: Lane, begin: int
    ) -> None:
        """Its slice and the arrow from there; or from its parent, once that is drawn."""
        at, packing, (pid, tid), parent = submit
        end = self._ns(at)
        if parent in self._open:
            arrows = self._children.setdefault(parent, [])
            if len(arrows) < ARROWS:
                arrows.append((end, lane, begin))
            return
        took = round(packing * 1e9) if packing > 1e-6 else 1000
        start = end - took if end > took else 0
        here = f'"pid":{pid},"tid":{tid}'
        self._arrows += 1
        tail = f'"id":{self._arrows},"cat":"submit","name":"submit"}}'
        self._out.append(
            f'{{"ph":"X","ts":{us(start)},"dur":{us(took)},{here},"cat":"submit","name":"submit",'
            f'"args":{{"call":{call}}}}},\n{{"ph":"s","ts":{us(end - 500)},{here},{tail},\n'
            f'{{"ph":"f","bp":"e","ts":{us(begin)},"pid":{lane[0]},"tid":{lane[1]},{tail}'
        )

    def _arrow(self, source: Lane, at: int, target: Lane, then: int) -> None:
        """From and to a moment within a slice: it does not hold its last one."""
        self._arrows += 1
        tail = f'"id":{self._arrows},"cat":"submit","name":"submit"}}'
        self._out.append(
            f'{{"ph":"s","ts":{us(at)},"pid":{source[0]},"tid":{source[1]},{tail},\n'
            f'{{"ph":"f","bp":"e","ts":{us(then)},"pid":{target[0]},"tid":{target[1]},{tail}'
        )

    def _never_ran(self, known: Known, submit: tuple[float, float, Lane, int] | None) -> None:
        lane = submit[2] if submit else (self._pid, self._pid)
        what = known["what"]
        self._mark(what, f"{_MARKED.get(what, what)} {_name(known)}", known["at"], lane, known)

    def _mark(self, kind: str, name: str, at: float, lane: Lane, known: Known) -> None:
        said = {"call": known.get("call"), "detail": _detail(known)}
        args = ",".join(f'"{k}":{json.dumps(v)}' for k, v in said.items() if v)
        self._out.append(
            f'{{"ph":"i","s":"t","ts":{us(self._ns(at))},"pid":{lane[0]},"tid":{lane[1]},'
            f'"cat":"{kind}","name":{quoted(name)},"args":{{{args}}}}}'
        )

    # -- around the calls -------------------------------------------------------------------------

    def count(self, name: str, pid: int, at: float, values: dict[str, float]) -> None:
        """Counters of a process."""
        args = ",".join(f'"{key}":{value:.10g}' for key, value in values.items())
        self._out.append(
            f'{{"ph":"C","ts":{us(self._ns(at))},"pid":{pid},"tid":{pid},"name":"{name}",'
            f'"args":{{{args}}}}}'
        )

    def begin(self, about: dict[str, object]) -> None:
        """The first lines: what file this is."""
        about = {"format": FORMAT, "pid": self._pid, **about}
        self._metadata("unirun_trace", (self._pid, self._pid), about)
        self._name_process(self._pid, str(about.get("program") or "program"))
        self._name_lane((self._pid, self._pid), "main thread")

    def end(self, **counted: int) -> None:
        """The last lines: what was not drawn."""
        summed = [
            {"name": name, "calls": row[0], "seconds": row[1], "failed": row[2], "longest": row[3]}
            for name, row in self._summed.items()
        ]
        args = {**counted, "drawn": self.drawn, "forgotten": self.forgotten, "summed": summed}
        self._metadata("unirun_end", (self._pid, self._pid), args)

    # -- lanes ------------------------------------------------------------------------------------

    def _lane(self, known: Known, thread: int, name: str) -> Lane:
        """Where the calls of that worker are drawn; told by itself, or of it by another thread."""
        pid, worker = known.get("pid") or self._pid, known.get("worker")
        if machine := known.get("machine"):
            there = self._elsewhere.setdefault((machine, pid), ELSEWHERE + len(self._elsewhere))
            if (there, there) not in self._lanes:
                self._name_process(there, f"worker {pid} on {machine}")
                self._name_lane((there, there), f"pid {pid} on {machine}")
            return there, there
        if pid != self._pid:
            if (pid, pid) not in self._lanes:
                self._name_process(pid, f"worker {pid}")
                self._name_lane((pid, pid), f"pid {pid}")
            return pid, pid
        if worker is not None:
            key = known.get("source") or 0, worker
            if worker == name:
                if self._threads.get(key) != thread:
                    self._threads[key] = thread
                    self._name_lane((pid, thread), worker, anew=True)
                return pid, thread
            if key in self._threads:
                thread = self._threads[key]
            else:
                thread = self._threads[key] = BESIDE + len(self._threads)
                name = worker
        self._name_lane((pid, thread), name)
        return pid, thread

    def _coroutine_lane(self, begin: int, over: int) -> Lane:
        """Of those that are free by then, the one that has been so for the shortest time."""
        found = bisect_right(self._ends, begin) - 1
        if found >= 0:
            slot = self._slots.pop(found)
            del self._ends[found]
        else:
            slot = len(self._slots) + 1
        place = bisect_right(self._ends, over)
        self._ends.insert(place, over)
        self._slots.insert(place, slot)
        lane = self._pid, 3 * BESIDE + slot
        self._name_lane(lane, f"coroutines {slot}")
        return lane

    def _fitting(self, lane: Lane, start: int, end: int) -> Lane:
        """That lane, or one beside it where no slice is cut in two."""
        tried, number = lane, 0
        while not self._fits(tried, start, end):
            number += 1
            beside = self._beside.get((lane, number))
            if beside is None:
                beside = lane[0], 2 * BESIDE + len(self._beside)
                self._beside[lane, number] = beside
                self._name_lane(beside, f"{self._lanes.get(lane, 'lane')} ({number + 1})")
            tried = beside
        return tried

    def _fits(self, lane: Lane, start: int, end: int) -> bool:
        recent = self._recent.get(lane)
        if recent is None:
            recent = self._recent[lane] = deque(maxlen=RECENT)
        if not recent or recent[-1][1] <= start:
            recent.append((start, end))
            return True
        if any(a < start < b < end or start < a < end < b for a, b in recent):
            return False
        outer = [(a, b) for a, b in recent if not (start <= a and b <= end)]
        if not any(a <= start and end <= b for a, b in outer):
            outer.append((start, end))
        self._recent[lane] = deque(sorted(outer), maxlen=RECENT)
        return True

    def _name_lane(self, lane: Lane, name: str, *, anew: bool = False) -> None:
        known = self._lanes.get(lane)
        if known is None or (anew and known != name):
            self._lanes[lane] = name
            self._metadata("thread_name", lane, {"name": name})
            if known is None:
                self._metadata("thread_sort_index", lane, {"sort_index": len(self._lanes)})

    def _name_process(self, pid: int, name: str) -> None:
        if pid not in self._processes:
            self._processes[pid] = name
            lane = pid, pid
            self._metadata("process_name", lane, {"name": name})
            self._metadata("process_sort_index", lane, {"sort_index": len(self._processes)})

    def _metadata(self, name: str, lane: Lane, args: dict[str, object]) -> None:
        said = json.dumps(args, ensure_ascii=False, default=str)
        said = said.encode("utf-8", "replace").decode("utf-8")
        self._out.append(
            f'{{"ph":"M","ts":0,"pid":{lane[0]},"tid":{lane[1]},"name":"{name}","args":{said}}}'
        )

    # -- pieces -----------------------------------------------------------------------------------

    def _ns(self, at: float) -> int:
        """Whole nanoseconds, as they are written: so what is apart or nests does so there too."""
        return max(0, round((at - self._origin) * 1e9))

    def _args(self, known: Known, submit: Any, start: float) -> str:
        """What a slice tells of its call; times in whole microseconds. The hottest place here."""
        get = known.get
        queued = get("queued") or (submit[0] if submit else start)
        said = f'"call":{known["call"]},"wait":{max(0, round((start - queued) * 1e6))}'
        if submit:
            _, packing, _, parent = submit
            if packing:
                said += f',"encode":{round(packing * 1e6)}'
            if parent:
                said += f',"parent":{parent}'
        if (seconds := get("cpu")) is not None:
            said += f',"cpu":{round(seconds * 1e6)}'
        if get("pid") != self._pid:
            said += _travelled(known)
        if value := get("items"):
            said += f',"pieces":{value}'
        if (attempt := get("attempt")) and attempt != 1:
            said += f',"attempt":{attempt}'
        words = known["what"], get("kind"), get("backend"), get("error")
        return said + (self._words.get(words) or self._quote_words(words))

    def _quote_words(self, words: tuple[Any, ...]) -> str:
        """The texts of a call: the same few again and again."""
        pairs = zip(("state", "kind", "backend", "error"), words, strict=True)
        said = "".join(f',"{key}":{quoted(word)}' for key, word in pairs if word)
        if len(self._words) < TASKS:
            self._words[words] = said
        return said

    def _quote(self, name: str) -> str:
        known = self._quoted.get(name)
        if known is None:
            known = quoted(name)
            if len(self._quoted) < TASKS:
                self._quoted[name] = known
        return known


def _name(known: Known) -> str:
    return known.get("task") or "a call"


def _travelled(known: Known) -> str:
    """Of a call in another process."""
    get, said = known.get, ""
    if (seconds := get("unpacking")) is not None:
        said += f',"decode":{round(seconds * 1e6)}'
    if (seconds := get("repacking")) is not None:
        said += f',"answer":{round(seconds * 1e6)}'
    if (end := get("finished")) is not None:
        said += f',"transfer":{max(0, round((known["at"] - end) * 1e6))}'
    if value := get("bytes_in"):
        said += f',"bytes_in":{value}'
    if value := get("bytes_out"):
        said += f',"bytes_out":{value}'
    if value := get("peak"):
        said += f',"memory":{value}'
    return said


def _detail(known: Known) -> str:
    code = None if known["what"] == "worker_ended" else known.get("exitcode")
    parts = [str(known["error"])] if known.get("error") else []
    if code:
        parts.append(f"signal {-code}" if code < 0 else f"exit code {code}")
    return ", ".join(parts)
