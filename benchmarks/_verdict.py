"""What a stress run must have left behind: pure rules over calls, futures' ends and the start log.

1. Every future has ended.
2. It ended as its call allows: a value for one that returns, its own exception for one that
   raises, a crash for one that kills its worker, a time-out for one that had one and hangs, and
   killed or cancelled only where that was asked for.
3. No call began twice.
4. A call with an outcome of its body began; one that was cancelled did not.
5. A True from cancel() or kill() holds: the future did not end otherwise.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks._faults import CRASH, HANG, QUICK, RAISE, SLOW

VALUE, RAISED, CRASHED, TIMED_OUT = "value", "raised", "crashed", "timed out"
CANCELLED, KILLED, OPEN = "cancelled", "killed", "open"

BY_BODY = {QUICK: VALUE, SLOW: VALUE, RAISE: RAISED, CRASH: CRASHED}


@dataclass(slots=True)
class Call:
    """What was submitted under one number, and what was done to it."""

    mode: str
    limited: bool = False
    """It has a timeout, shorter than a hang."""
    cancel_asked: bool = False
    kill_asked: bool = False
    promised: bool = False
    """cancel() or kill() returned True."""


def violations(
    calls: Sequence[Call], ends: Sequence[str], started: Mapping[int, int]
) -> Iterator[str]:
    """One line for each breach; `ends` as named above, or any other text for a wrong outcome."""
    for number, (call, end) in enumerate(zip(calls, ends, strict=True)):
        for breach in _breaches(call, end, started.get(number, 0)):
            yield f"call {number} ({call.mode}): {breach}"
    for number in sorted(set(started) - set(range(len(calls)))):
        yield f"call {number} was never submitted, but began"


def _breaches(call: Call, end: str, starts: int) -> Iterator[str]:
    if end == OPEN:
        yield "its future never ended"
    elif end not in _allowed(call):
        yield f"ended as {end!r}; allowed: {', '.join(sorted(_allowed(call)))}"
    if call.promised and end not in (CANCELLED, KILLED):
        yield f"cancel() or kill() returned True, but it ended as {end!r}"
    if starts > 1:
        yield f"began {starts} times"
    if starts == 0 and end not in (CANCELLED, KILLED, OPEN):
        yield f"ended as {end!r}, but never began"
    if starts and end == CANCELLED:
        yield "was cancelled, but began"


def _allowed(call: Call) -> set[str]:
    allowed = {BY_BODY[call.mode]} if call.mode in BY_BODY else set()
    if call.mode == HANG and call.limited:
        allowed.add(TIMED_OUT)
    if call.kill_asked:
        allowed |= {KILLED, CANCELLED}
    return allowed | ({CANCELLED} if call.cancel_asked else set())


def read_log(lines: Iterable[str]) -> Counter[int]:
    """Number of a call -> how often it began."""
    return Counter(int(line) for line in lines)
