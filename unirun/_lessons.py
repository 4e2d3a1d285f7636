"""What is learned about one function from the calls of it that are measured."""

from __future__ import annotations

import threading
from collections import deque
from time import perf_counter

from unirun._gauge import Sample, weigh

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._profile import Figures

__all__ = ["Lessons"]

ENOUGH, FIRST = 3, 12
"""Calls that are measured before anything is chosen: long ones, and short ones."""
LONG = 2e-4
"""Seconds of computing from which on the share of the GIL is looked at; it is 1 below."""
ODD = 2
"""So many of them, one behind the other."""
FAR, STRANGE = 2.0, 8
"""Where only the wall time is known: that many times more, and in so many pieces."""
MOST = 32
"""Calls that are measured at the same time."""
CROWD, STEADY = 4, 8
"""Calls under way that leave no thread idle, at least; and ends among such that tell their pace."""
PROBED = 0.02
"""Seconds that the probe has looked when that share is known."""
NEWEST = 0.3
"""How much the newest call counts, against all before."""
DRIFT = 3.0
"""A call that computes so many times longer or shorter than was known tells of a new kind."""


class Lessons:
    """The figures of a function, and whether they are enough to go by."""

    def __init__(self, known: Figures) -> None:
        self.known = known
        # Calls under way, about: counted without a lock, also by a `__del__`.
        self._active = 0
        self._wait = max(0.0, known.seconds - known.cpu_seconds)  # of each call
        self._odd = 0  # calls, one behind the other, that seem new
        self._strange = 0  # pieces of maps elsewhere, one behind the other, that seem new
        # Guards all below, and the figures while they are written. Calls nothing of others.
        self._lock = threading.Lock()
        self._seen = ENOUGH if known.calls >= ENOUGH else 0  # calls of this kind of work
        self._said = (0.0, 0.0)  # the last that the probe said
        self._forget()
        self._looked = PROBED if known.gil_share is not None else 0.0
        self.spent = 0.0
        """Seconds of computing with the GIL that were measured."""

    def is_busy(self) -> bool:
        """So many calls are being measured that one more would tell nothing."""
        return self._active >= MOST

    def begin(self) -> None:
        """A call that is measured is submitted."""
        self._active += 1
        self.known.parallel = max(self.known.parallel, self._active)

    def wants_probe(self, items: int) -> bool:
        """For a call, or a piece of a map with so many items."""
        long = self.known.cpu_seconds * max(1, items) >= LONG
        return long and self._seen > 0 and self._looked < PROBED

    def are_enough(self, *, gil_matters: bool) -> bool:
        """Something can be chosen; `gil_matters`: it depends on who holds the GIL."""
        if self._seen < ENOUGH:
            return False
        if self.known.cpu_seconds < LONG:
            return self._seen >= FIRST
        return not gil_matters or self._looked >= PROBED

    def probing(self, said: tuple[float, float] | None) -> None:
        """A call begins that is probed; `said` by the probe: None, if it goes on for us."""
        with self._lock:
            if said is not None:  # what it has found out about others is left out
                self._said = said

    def end(self, sample: Sample, given: Any, results: Any) -> None:
        """A measured call has ended."""
        size_in, parts_in = weigh(given)
        size_out, parts_out = weigh(results)
        with self._lock:
            self._keep_pace(sample.items)
        self.drop()
        with self._lock:
            self._learn(sample, (size_in, size_out, parts_in + parts_out))

    def drop(self) -> None:
        """Such a call has ended, or never will."""
        self._active = max(0, self._active - 1)

    def assume(self, calls: int) -> None:
        """So many calls will not be measured, and compute as those before."""
        share = self.known.gil_share
        self.spent += calls * self.known.cpu_seconds * (1.0 if share is None else share)

    def seems_new(self, seconds: float) -> bool:
        """A piece of a map, of which an item took so long elsewhere, is not of the known kind, nor
        were those before it: one may be slow because the machine is busy."""
        is_strange = _differs(seconds, FAR * self.known.seconds) and seconds > self.known.seconds
        is_strange |= _differs(self.known.seconds, FAR * seconds) and seconds < self.known.seconds
        self._strange = self._strange + 1 if is_strange else 0
        return self._strange >= STRANGE

    def begin_again(self) -> None:
        """What is known is not believed any more."""
        with self._lock:
            self._strange = 0
            self._begin_again()

    def _begin_again(self) -> None:
        """Called with the lock held."""
        self._seen, self.known.gil_share, self.known.together = 0, None, 0.0
        self._forget()

    def _forget(self) -> None:
        # Of the calls that were probed, all together: the probe is late by more than a short call
        # takes, so that no single one can be told from those beside it.
        self._held = self._looked = self._cpu = self._wall = 0.0
        self._probed = 0  # items
        self._since, self._ended = 0.0, 0  # when there was a crowd, and what has ended in it
        self._waits: deque[float] = deque(maxlen=64)

    def _learn(self, sample: Sample, weights: tuple[float, float, float]) -> None:
        """Called with the lock held."""
        known, items = self.known, sample.items
        cpu = sample.cpu / items
        if self._seen >= ENOUGH and _differs(cpu, known.cpu_seconds):
            self._odd += 1
            if self._odd < ODD:  # something else has come between, perhaps
                return
            self._begin_again()  # what was known of the GIL may not hold for it
        self._odd = 0
        part = NEWEST if self._seen else 1.0
        known.cpu_seconds += (cpu - known.cpu_seconds) * part
        if sample.probe is not None:
            self._learn_of_gil(sample)
        elif not self._probed:  # threads make one another's calls longer: the shortest is its own
            wait = max(0.0, sample.wall / items - cpu)
            self._wait = wait if not self._seen else min(wait, self._wait * 1.1)
        known.seconds = known.cpu_seconds + self._wait
        size_in, size_out, objects = weights
        known.bytes_in += (size_in / items - known.bytes_in) * part
        known.bytes_out += (size_out / items - known.bytes_out) * part
        known.objects += (objects / items - known.objects) * part
        known.calls += items
        self._seen += items
        self.spent += sample.cpu * (1.0 if known.gil_share is None else known.gil_share)

    def _keep_pace(self, items: int) -> None:
        """How soon one ends after the other on threads, whatever they stand in line for there: a
        lock of some library is not seen by whoever looks at the GIL. Called with the lock held."""
        if self._active < max(CROWD, self.known.parallel // 2):
            self._since = 0.0
        elif not self._since:
            self._since, self._ended = perf_counter(), 0
        else:
            self._ended += items
            if self._ended >= STEADY * items:
                self.known.together = (perf_counter() - self._since) / self._ended

    def _learn_of_gil(self, sample: Sample) -> None:
        """Called with the lock held."""
        assert sample.probe is not None
        held, looked = sample.probe
        self._held += held - self._said[0]
        self._looked += looked - self._said[1]
        self._said = sample.probe
        self._cpu += sample.cpu
        self._wall += sample.wall - sample.queued
        self._probed += sample.items
        self._waits.append((sample.wall - sample.queued - sample.cpu) / sample.items)
        if not self._looked or not self._cpu:
            return
        known = self.known
        share = min(1.0, self._held / self._cpu)
        if self._looked >= PROBED:
            known.gil_share = share
        # What is left when it neither waits for the GIL, while others hold it, nor for a core.
        cpu, wall = self._cpu / self._probed, self._wall / self._probed
        others = max(0.0, self._held / self._looked * wall - share * cpu)
        waits = sorted(self._waits)[len(self._waits) // 4]  # a quarter has met nobody, mostly
        self._wait = max(0.0, min(waits, wall - others - cpu))


def _differs(now: float, before: float) -> bool:
    """By more than measuring is exact."""
    least, most = sorted((now, before))
    return most > LONG and most > DRIFT * least
