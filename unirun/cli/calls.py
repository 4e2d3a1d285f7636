"""Inputs on their way through an executor, and what comes back.

A call carries one input, or as many as `--chunksize` says.  If the worker of a call dies, the
inputs before have their outcomes, the one it was at has the crash, and those after it are sent
again: each runs once.
"""

from __future__ import annotations

import functools
import operator
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from unirun._chunk import run_chunk
from unirun._errors import NotKillable
from unirun._future import Future
from unirun._parts import Parts
from unirun._prompt import span
from unirun._sending import Sending
from unirun._submitter import View
from unirun.cli.inputs import End, Input, Reader
from unirun.cli.lines import Outcome
from unirun.cli.options import misuse

__all__ = ["Call", "Calls"]

LOOK = 0.2
"""Seconds between two looks at calls that run."""


class Call:
    """Some inputs and the outcomes that are there so far."""

    __slots__ = ("future", "inputs", "parts")

    def __init__(self, inputs: list[Input]) -> None:
        self.inputs = inputs
        self.parts = Parts()  # outcomes sent ahead; heard by the pool's loop
        self.future: Future[Any]


class Calls:
    """Maps `fn` over what `reader` reads; one thread uses it.

    Args:
        view: the executor and the options of the calls.
        ordered: outcomes in the order of the inputs, else as they come.
        chunksize: how many inputs that are there travel together.
        look: called several times a second while nothing has ended.
    """

    def __init__(
        self,
        view: View,
        fn: Callable[..., Any],
        reader: Reader,
        *,
        ordered: bool,
        chunksize: int,
        look: Callable[[], object] | None = None,
    ) -> None:
        self._view = view
        self._fn = fn
        self._reader = reader
        self._ordered = ordered
        self._chunksize = chunksize
        owner, given = view._owner, view._given
        self._sending = Sending(owner, fn, given, owner._plan(fn, given))
        self._look = look
        # Inputs, an End, and calls that have ended: all that can happen, in one place to wait at.
        self._events: queue.SimpleQueue[Input | End | Call] = reader.events
        self._gathered: list[Input] = []
        self._calls: deque[Call] = deque()

    def _next_event(self) -> Input | End | Call:
        while True:
            try:
                # With a limit, or we might be deaf to Ctrl-C.
                return self._events.get(timeout=span(LOOK if self._look else None))
            except queue.Empty:
                if self._look is not None:
                    self._look()

    @property
    def sent(self) -> Iterable[Call]:
        """What is on its way; changes meanwhile."""
        return self._calls

    def outcomes(self) -> Iterator[Outcome]:
        """Every outcome; a slot of the reader is freed when the next one is asked for."""
        ended = False
        while self._calls or self._gathered or not ended:
            event = self._next_event()
            if isinstance(event, Input):
                self._take(event)
            elif isinstance(event, Call):
                for outcome in self._ready(event):
                    yield outcome
                    self._reader.release()
            else:
                ended = True
                if event.error is not None:
                    raise event.error
            if self._events.empty():
                self._send_gathered()  # who waits for company might wait for ever

    def stop(self, grace: float) -> None:
        """Ask every call to end: SIGTERM, and after `grace` seconds SIGKILL; returns at once."""
        for call in self._calls:
            if not call.future.cancel():  # also tells a call in a thread to stop
                try:
                    call.future._request_kill(grace)
                except NotKillable:
                    continue

    # -- sending ----------------------------------------------------------------------------------

    def _take(self, one: Input) -> None:
        if one.error is not None:
            self._send_gathered()
            self._send([one], self._calls.append)
            return
        self._gathered.append(one)
        if len(self._gathered) >= self._chunksize:
            self._send_gathered()

    def _send_gathered(self) -> None:
        if self._gathered:
            inputs, self._gathered = self._gathered, []
            self._send(inputs, self._calls.append)

    def _send(self, inputs: list[Input], place: Callable[[Call], None]) -> None:
        call = Call(inputs)
        with misuse():  # a function that this backend cannot run; or workers that cannot start
            call.future = self._submit(call)
        place(call)
        call.future.add_done_callback(lambda _: self._events.put(call))

    def _submit(self, call: Call) -> Future[Any]:
        first = call.inputs[0]
        if first.error is not None:
            future: Future[Any] = Future()
            future.set_exception(first.error)
            return future
        if self._chunksize == 1:
            seed = self._sending.seed_of(first.index)
            view = self._view if seed is None else self._view.options(seed=seed)
            return view.submit(self._fn, *first.args, **first.kwargs)
        bound = [functools.partial(self._fn, *one.args, **one.kwargs) for one in call.inputs]
        known: Any = {"on_part": call.parts.hear, "first": first.index}
        return self._sending(run_chunk, operator.call, (bound,), **known)

    # -- what has ended ---------------------------------------------------------------------------

    def _ready(self, ended: Call) -> Iterator[Outcome]:
        if not self._ordered:
            self._calls.remove(ended)
            yield from self._settle(ended)
            return
        while self._calls and self._calls[0].future.done():
            yield from self._settle(self._calls.popleft())

    def _settle(self, call: Call) -> Iterator[Outcome]:
        """The outcomes of a call that has ended; what it did not get to is sent again."""
        error = _error_of(call.future)
        if isinstance(error, KeyboardInterrupt):
            raise error  # Ctrl-C while an inline call ran in our thread: it is for us
        outcomes = self._outcomes_of(call, error)
        for one, (ok, value) in zip(call.inputs, outcomes, strict=False):
            yield Outcome(one, value) if ok else Outcome(one, error=value)
        left = call.inputs[len(outcomes) :]
        if left[1:]:
            self._send(left[1:], self._calls.appendleft)
        if left:
            yield Outcome(left[0], error=error)

    def _outcomes_of(self, call: Call, error: BaseException | None) -> list[tuple[bool, Any]]:
        if error is not None:
            found = call.parts.take_unsaid(call.future)
        elif self._chunksize == 1:
            return [(True, call.future.result())]
        else:
            _, found = call.parts.take_answer(call.future.result())
        return [outcome for outcomes in found for outcome in outcomes]


def _error_of(future: Future[Any]) -> BaseException | None:
    return future._failure() if future.cancelled() else future.exception()
