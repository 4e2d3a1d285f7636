"""Where calls of a measured function are expected to end soonest: pure arithmetic.

Seconds of one call, when as many are under way as were seen to be:

    thread    the longest of: what it holds the GIL, plus the submit, which needs the GIL too
                              its computing over the cores, its whole time over the threads
                              what was seen to lie between the ends of two, if they compute
    process   the longest of: what sending it takes here
                              its computing and unpacking over the cores, its time over the workers

A change of backend must pay by a fifth, so that two that are alike do not take turns; by more,
where it is not known whether calls hold the GIL, and is taken for granted: of those that are short.
"""

from __future__ import annotations

from unirun._records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unirun._profile import Figures

__all__ = ["Forecast", "Place", "best", "enough_to_start"]

HAND_OVER = 3e-6  # of one call to a thread; all of it with the GIL held
SEND, RECEIVE = 12e-6, 4e-6  # of one call to a process: in the parent, in the worker
ALONE = 4e-5  # what a call to a process takes longer where nothing else is under way
HAND_OVER_ITEM, SEND_ITEM, RECEIVE_ITEM = 2.5e-7, 1e-6, 5e-7  # of a map, in a large piece
PER_OBJECT, PER_BYTE = 4e-8, 4e-10  # of a pickle, on either side
MARGIN, UNSURE = 1.2, 1.5
UNTOUCHED = 2e-4
"""Seconds from which on a call is not made longer by being measured."""
START = 0.05
"""Seconds of computing that are spent before worker processes are started for them."""


_MANY = 1 << 20


@record
class Place:
    """What there is to run on."""

    cores: int
    threads: int
    processes: int
    gil: bool = True


@record
class Forecast:
    """Where, and in how many seconds there and at the other place."""

    place: str
    seconds: float
    otherwise: float
    company: int

    def __str__(self) -> str:
        what = (
            f"with {self.company} calls at a time, each" if self.company else "in maps, each item"
        )
        return f"{what} takes {_us(self.seconds)} there and {_us(self.otherwise)} elsewhere, about"


def best(known: Figures, place: Place, *, in_map: bool, now: str = "thread") -> Forecast:
    """On "thread" or "process"; `now`: where such calls go at present."""
    company = _MANY if in_map else max(1, known.parallel)
    thread = _in_threads(known, place, company, in_map=in_map)
    process = _in_processes(known, place, company, in_map=in_map)
    company = 0 if in_map else company
    margin = MARGIN if known.gil_share is not None else UNSURE
    if process * (1 / MARGIN if now == "process" else margin) < thread:
        return Forecast("process", process, thread, company)
    return Forecast("thread", thread, process, company)


def enough_to_start(spent: float) -> bool:
    """Whether so many seconds of computing with the GIL are worth worker processes."""
    return spent >= START


def _in_threads(known: Figures, place: Place, company: int, *, in_map: bool) -> float:
    seen = known.together if known.cpu_seconds >= UNTOUCHED and known.cpu_share > 0.5 else 0.0
    if company == 1:
        seen = 0.0
    guess = 0.0 if seen else 1.0  # what was seen says more than the worst that can be thought of
    share = known.gil_share if known.gil_share is not None else guess
    holds = known.cpu_seconds * share if place.gil else 0.0
    cost = HAND_OVER_ITEM if in_map else HAND_OVER
    computes = known.cpu_seconds / min(place.cores, place.threads, company)
    return max(holds + cost, computes, known.seconds / min(place.threads, company), seen)


def _in_processes(known: Figures, place: Place, company: int, *, in_map: bool) -> float:
    size = known.bytes_in + known.bytes_out
    packing = known.objects * PER_OBJECT + size * PER_BYTE
    send, receive = (SEND_ITEM, RECEIVE_ITEM) if in_map else (SEND, RECEIVE)
    workers = min(place.processes, company)
    computes = (known.cpu_seconds + receive + packing) / min(place.cores, workers)
    alone = 2 * packing + ALONE if company == 1 else 0.0
    return max(send + packing, computes, known.seconds / workers) + alone


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:,.3g} us" if seconds < 1e-3 else f"{seconds * 1e3:,.3g} ms"
