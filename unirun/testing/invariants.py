"""What must hold whatever happens: every invariant stated once, for all who check it.

Four checkers call these functions, each with what it knows: the exploration of every order of
events, the `Simulator`, the random programs, and the model that runs beside real backends.  Each
returns if the invariant holds, and raises Broken, an AssertionError, with the facts if it does not.

An author of a backend calls them the same way, from a test of their own:

    invariants.ends_once(call, ended)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Any, Final

from unirun._errors import UnirunError

__all__ = [
    *("ALL", "MOST_FAILED_STARTS", "Broken", "dead_then_resolved", "ends_once", "exclusion"),
    *("inheritance", "nothing_left", "one_victim", "progress", "restarts", "slots", "starts"),
    *("window",),
]

MOST_FAILED_STARTS: Final = 4
"""Workers in a row that may die before they began a call, until nothing more is tried."""


class Broken(UnirunError, AssertionError):
    """An invariant does not hold; the text says which, and the facts."""


def check(holds: bool, rule: str) -> None:
    """For what a checker knows beyond the invariants below."""
    if not holds:
        raise Broken(rule)


def ends_once(call: Hashable, ended: Collection[Any]) -> None:
    """Every future ends exactly once: `call`, which ends now, is not among the ended."""
    if call in ended:
        raise Broken(f"ends once: {call} ended twice")


def starts(call: Any, number: int, retries: int = 0) -> None:
    """The body of a call starts at most 1 + `retries` times; this is start number `number`."""
    if number > 1 + retries:
        raise Broken(f"starts <= 1 + retries: {call} began {number} times, with {retries} retries")


def one_victim(worker: Any, ran: Any, victims: Collection[Any]) -> None:
    """A death changes the outcome of at most the call that `ran` in that worker (None: none)."""
    for victim in victims:
        if victim is not ran:
            raise Broken(f"one victim: {worker} died in {ran}, and that ended {victim}")


def progress(waiting: int, free: int, idle: int, coming: int) -> None:
    """Queued work and a free slot mean progress.

    waiting: calls that no worker has.
    free: slots in which no call runs.
    idle: workers that could begin one, and do not.
    coming: workers that come up.
    """
    stuck = min(waiting, free)
    if stuck > 0 and (idle or stuck > coming):
        raise Broken(
            f"progress: {waiting} calls wait, {free} slots are free, "
            f"{idle} workers are idle, {coming} are coming"
        )


def dead_then_resolved(call: Any, alive: bool) -> None:
    """After a kill or a time-out: dead, then resolved.  `alive`: whether who ran it still is."""
    if alive:
        raise Broken(f"dead, then resolved: {call} ended as killed while its worker lived")


def slots(running: int, workers: int, blocked: int = 0) -> None:
    """No more calls run than there are workers, and calls that wait for a call they submitted."""
    if running > workers + blocked:
        raise Broken(f"slots: {running} run, with {workers} workers and {blocked} blocked parents")


def nothing_left(
    futures: Collection[Any] = (),
    processes: Collection[Any] = (),
    descriptors: Collection[Any] = (),
) -> None:
    """After shutdown every future ended, every process was reaped, every descriptor is shut."""
    for what, left in ("futures", futures), ("processes", processes), ("descriptors", descriptors):
        if left:
            raise Broken(f"nothing left: {what} {sorted(map(str, left))} outlived the shutdown")


def window(drawn: int, read: int, size: int) -> None:
    """A map has drawn at most `size` items more from its input than results were read."""
    if drawn - read > size:
        raise Broken(f"window: {drawn} items drawn, {read} results read, a window of {size}")


def restarts(failed: int, most: int = MOST_FAILED_STARTS) -> None:
    """A worker is started only after fewer than `most` in a row died before they began a call."""
    if failed >= most:
        raise Broken(f"restarts: one more after {failed} that died before they began a call")


def exclusion(lock: Any, holders: Collection[Any], most: int = 1) -> None:
    """At most `most` of the living hold a lock or permits at any time."""
    if len(holders) > most:
        raise Broken(f"mutual exclusion: {lock} is held by {', '.join(map(str, holders))}")


def inheritance(lock: Any, heirs: Collection[Any], owner: Any, abandoned: bool) -> None:
    """A dead holder's lock is marked abandoned, and belongs to one of those who waited for it."""
    if not abandoned:
        raise Broken(f"inheritance: the holder of {lock} died, and it is not marked abandoned")
    if heirs and owner not in heirs:
        raise Broken(f"inheritance: {lock} of a dead holder belongs to {owner}, not to {heirs}")


ALL: Final[dict[str, Callable[..., None]]] = {
    each.__name__: each
    for each in (
        *(ends_once, starts, one_victim, progress, dead_then_resolved, slots, nothing_left),
        *(window, restarts, exclusion, inheritance),
    )
}
"""All of them by name."""
