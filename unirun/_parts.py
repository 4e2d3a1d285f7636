"""What is known of a chunk: its outcomes, put together from the parts that tell of them.

A part is what `_record` describes: the outcomes of some items that follow one another.  Parts
come in order, but may overlap, since what a worker has sent may be in its memory still.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from marshal import loads as unmarshal

from unirun._payload import loads
from unirun._record import ENTRIES, PICKLED, PLAIN, lease_of, numbers_in, seconds_of, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._record import Lease, Part

__all__ = ["Outcomes", "Parts"]


class Outcomes:
    """Values of items that follow one another; where there is an error, the value is a gap."""

    __slots__ = ("errors", "start", "values")

    def __init__(self, values: list[Any], errors: dict[int, BaseException] | None = None) -> None:
        self.values = values
        self.errors = {} if errors is None else errors
        self.start: int | None = None  # which item of its piece the first is for, where that counts

    @classmethod
    def of(cls, outcomes: list[tuple[bool, Any]]) -> Outcomes:
        errors = {at: value for at, (ok, value) in enumerate(outcomes) if not ok}
        made = cls([value for _, value in outcomes], errors)
        made.start = 0
        return made

    def __iter__(self) -> Iterator[tuple[bool, Any]]:
        for at, value in enumerate(self.values):
            yield (False, self.errors[at]) if at in self.errors else (True, value)


class Parts:
    """Collects the parts of one chunk: `hear` is called by the pool, the rest by who reads."""

    __slots__ = ("_heard", "taken")

    def __init__(self) -> None:
        self._heard: deque[tuple[bytes, Lease | None]] = deque()
        self.taken: int = 0  # outcomes so far

    def hear(self, part: bytes, memory: memoryview | None = None) -> None:
        """`memory`: the record of the worker that sent it."""
        self._heard.append((part, None if memory is None else lease_of(part, memory)))

    def take(self) -> list[Outcomes]:
        """The outcomes of which nothing was taken yet, as far as they were heard of."""
        found = []
        while self._heard:
            part, lease = self._heard.popleft()
            found += self.take_from(unpack(part, lease))
            del lease  # not before: its slots have been copied only now
        return found

    def take_unsaid(self, future: Any) -> list[Outcomes]:
        """As `take`, and what is only in the memory of a worker that is busy, or dead."""
        found = self.take()
        unsaid = getattr(future, "unsaid", None)  # only process futures have any
        return found if unsaid is None else found + self.take_from(unsaid(self.taken))

    def take_answer(self, answer: Any) -> tuple[float, list[Outcomes]]:
        """What `run_chunk` returned: seconds it took, and what was not taken yet."""
        if isinstance(answer, tuple):  # it ran where nothing can get lost
            return answer[0], [Outcomes.of(answer[1])]
        _handles: list[Any] = []  # kept until all outcomes have been unpickled
        if isinstance(answer, list):
            answer, *_handles = answer
        if isinstance(answer, bytes):
            self.hear(answer)
            answer = seconds_of(answer)
        return answer, self.take()

    def take_from(self, part: Part | None) -> list[Outcomes]:
        """As `take`, from one part; nothing if parts before it are still on their way."""
        if part is None or part[0] > self.taken:
            return []
        first, form, slots, entries = part
        known = 8 * (self.taken - first)
        if known >= len(slots):
            return []
        numbers = numbers_in(slots, form)
        outcomes = (
            _read_entries(numbers.tolist(), entries, self.taken - first)
            if form == ENTRIES
            else Outcomes(numbers[known // 8 :].tolist())
        )
        outcomes.start = self.taken
        self.taken += len(outcomes.values)
        return [outcomes]


def _read_entries(ends: list[int], entries: memoryview, known: int) -> Outcomes:
    values: list[Any] = []
    errors: dict[int, BaseException] = {}
    start = ends[known - 1] if known else 0
    for end in ends[known:]:
        value, error = _read_entry(bytes(entries[start : start + 1]), entries[start + 1 : end])
        if error is not None:
            errors[len(values)] = error
        values.append(value)
        start = end
    return Outcomes(values, errors)


def _read_entry(tag: bytes, data: memoryview) -> tuple[Any, BaseException | None]:
    if tag == PLAIN:
        return unmarshal(data), None
    if tag == PICKLED:
        return _load(data)
    from unirun._remote import decode  # only a call that failed pays for it

    return None, decode(bytes(data))


def _load(data: memoryview) -> tuple[Any, BaseException | None]:
    try:
        return loads(data), None
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # user code: SystemExit in a __setstate__ too  # noqa: BLE001
        from unirun._errors import DeserializationError  # 20 ms to import

        error = DeserializationError(f"a result could not be unpickled ({type(exc).__name__})")
        error.__cause__ = exc
        return None, error
