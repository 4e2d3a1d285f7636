"""What a stress run must have left behind: pure rules over calls, futures' ends and the start log.

1. Every future has ended.
2. It ended as its call allows: a value for one that returns, its own exception for one that
   raises, a crash for one that kills its worker, a time-out for one that had one and hangs, and
   killed, cancelled or left behind in its thread only where that was asked for.
3. No call began twice.
4. A call with an outcome of its body began; one that was cancelled, waited too long or was
   refused by an executor that is shut down did not.
5. A True from cancel() or kill() holds: the future did not end otherwise.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks._faults import CRASH, HANG, LINGER, QUICK, RAISE, SLOW

VALUE, RAISED, CRASHED, TIMED_OUT = "value", "raised", "crashed", "timed out"
CANCELLED, KILLED, OPEN = "cancelled", "killed", "open"
EXPIRED, REFUSED, LEFT = "expired", "refused", "left behind"

BY_BODY = {QUICK: VALUE, SLOW: VALUE, LINGER: VALUE, RAISE: RAISED, CRASH: CRASHED}
WITHOUT_BODY = (CANCELLED, EXPIRED, REFUSED)


@dataclass(slots=True)
class Call:
    """What was submitted under one number, and what was done to it."""

    mode: str
    limited: bool = False
    """It has a timeout, shorter than a hang."""
    hurried: bool = False
    """It may wait only for a moment."""
    refused: bool = False
    """Its executor was shut down by then."""
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
    # A time-out runs from the moment at which an idle worker was sent the call; it may be that
    # the machine has not let that worker do anything since.
    if starts == 0 and end not in (*WITHOUT_BODY, KILLED, TIMED_OUT, OPEN):
        yield f"ended as {end!r}, but never began"
    if starts and end in WITHOUT_BODY:
        yield f"was {end}, but began"


def _allowed(call: Call) -> set[str]:
    allowed = {BY_BODY[call.mode]} if call.mode in BY_BODY else set()
    if call.refused:
        return {REFUSED}
    if call.mode in (HANG, LINGER) and call.limited:
        allowed.add(TIMED_OUT)
    if call.hurried:
        allowed.add(EXPIRED)
    if call.kill_asked:
        allowed |= {KILLED, CANCELLED, LEFT}
    return allowed | ({CANCELLED} if call.cancel_asked else set())


def read_log(lines: Iterable[str]) -> Counter[int]:
    """Number of a call -> how often it began."""
    return Counter(int(line) for line in lines)
