"""Events and barriers as they live in their host; the rules they keep are in `coordinator.py`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar, Final

from unirun.coordinator import Coordinator, Kinds, Request, Session, SharedObject


class Event(SharedObject):
    """A flag to wait for."""

    kind = "Event"

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__(coordinator)
        self._is_set = False
        self._was_set = False  # since the host has its state no more
        self._waiting: list[Request] = []

    def set(self, request: Request) -> None:
        self._is_set = self._was_set = True
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            self._answer(each, "ok", True)
        self._answer(request, "ok")

    def clear(self, request: Request) -> None:
        self._is_set = False
        self._answer(request, "ok")

    def is_set(self, request: Request) -> None:
        self._answer(request, "ok", self._is_set)

    def wait(self, request: Request) -> None:
        if self._is_set:
            self._answer(request, "ok", True)
        else:
            self._waiting.append(request)
            self._park(request)

    def timed_out(self, request: Request) -> None:
        self.withdrawn(request)
        self._answer(request, "timeout")

    def withdrawn(self, request: Request) -> None:
        if request in self._waiting:
            self._waiting.remove(request)

    def take_over(self, *state: Any) -> None:
        (self._is_set,) = state
        self._was_set = False

    def hand_over(self) -> tuple[bool, bool] | None:
        return None if self._waiting else (self._is_set, self._was_set)

    operations: ClassVar = {"clear": clear, "is_set": is_set, "set": set, "wait": wait}


class Barrier(SharedObject):
    """A barrier.

    With an action, the party that completes it is told to "act", and the others wait until it
    reports `acted`.  Whoever arrives meanwhile belongs to the next round.
    """

    kind = "Barrier"

    def __init__(self, coordinator: Coordinator, parties: int, action: bytes | None = None) -> None:
        super().__init__(coordinator)
        if parties < 1:
            raise ValueError("parties must be >= 1")
        self._parties = parties
        self._action = action
        self._waiting: list[Request] = []  # this round, in order of arrival
        self._acting: Request | None = None  # the last of them, while it runs the action
        self._early: list[Request] = []  # of the next round
        self._spoiled = False  # somebody left the next round in a way that breaks it
        self._broken = False
        self._reason: str | None = None  # why, where there is more to say than that
        self._needed_by: dict[Session, int] = {}  # and how often each has said so

    def wait(self, request: Request, standing: Hashable = None) -> None:
        """Wait; `standing` says what cannot do anything else meanwhile, a thread or a process."""
        request.detail = standing
        self._join(request)

    def _join(self, request: Request) -> None:
        if self._broken:
            self._answer(request, "broken", self._reason)
        elif self._acting is not None:
            self._early.append(request)
            self._park(request)
        else:
            self._waiting.append(request)
            self._arrived(request)

    def acted(self, request: Request, succeeded: bool) -> None:
        """The action is over; answered "ok" with the caller's index, or "broken"."""
        acting = self._acting
        if acting is None or acting.session != request.session:
            self._answer(request, "broken")  # aborted, reset or timed out meanwhile
        elif succeeded:
            self._answer(request, "ok", self._parties - 1)
            self._release()
        else:
            self._answer(request, "broken")
            self._break()

    def abort(self, request: Request) -> None:
        self._break()
        self._answer(request, "ok")

    def reset(self, request: Request) -> None:
        self._break()
        self._broken, self._reason = False, None
        self._answer(request, "ok")

    def state(self, request: Request) -> None:
        self._answer(request, "ok", (len(self._waiting), self._broken))

    def need(self, request: Request) -> None:
        """From now on this session counts as a party, whether it waits or not."""
        session = request.session
        self._needed_by[session] = self._needed_by.get(session, 0) + 1
        self._coordinator.hold(session, self)
        self._answer(request, "ok")

    def unneed(self, request: Request) -> None:
        """Take back one `need`."""
        left = self._needed_by.pop(request.session, 0) - 1
        if left > 0:
            self._needed_by[request.session] = left
        else:
            self._coordinator.let_go(request.session, self)
        self._answer(request, "ok")

    @property
    def parties(self) -> int:
        return self._parties

    @property
    def is_plain(self) -> bool:
        """Whether nothing more has to be known of it than who waits and whether it is broken."""
        return self._action is None

    def take_over(self, *state: Any) -> None:
        (self._broken,) = state

    def hand_over(self) -> tuple[bool] | None:
        if self._waiting or self._early or self._acting is not None or self._reason:
            return None
        return (self._broken,)

    apart: ClassVar = frozenset({"need", "unneed"})

    @property
    def standing(self) -> list[Hashable]:
        """What stands in this round, in the order of arrival."""
        return [request.detail for request in self._waiting]

    def timed_out(self, request: Request) -> None:
        self.lost(request)
        self._answer(request, "broken")

    def withdrawn(self, request: Request) -> None:
        if request is self._acting:
            self._break()
        for round_ in (self._waiting, self._early):
            if request in round_:
                round_.remove(request)

    def lost(self, request: Request) -> None:
        if self._acting is None or request in self._waiting:
            self._break()
        else:
            self._spoiled = True
            self.withdrawn(request)

    def owner_lost(self, session: Session) -> None:
        del self._needed_by[session]
        if self._acting is None:
            self._break()
        else:
            self._spoiled = True  # all of this round have come; the next would miss it

    def spoiled(self, reason: str) -> None:
        if self._waiting and self._acting is None:
            self._reason = reason
            self._break()

    def _arrived(self, request: Request) -> None:
        if len(self._waiting) < self._parties:
            self._park(request)
        elif self._action is None:
            self._release()
        else:
            self._acting = request
            self._answer(request, "act", self._action, keep=True)

    def _release(self) -> None:
        passed, acting = self._waiting, self._acting
        self._waiting, self._acting = [], None
        for index, party in enumerate(passed):
            self._answer(party, "ok", index)
        if acting is not None:
            self._coordinator.settle(acting)
            self._next_round()

    def _next_round(self) -> None:
        early, self._early = self._early, []
        self._broken, self._spoiled = self._spoiled, False
        for party in early:
            self._join(party)

    def _break(self) -> None:
        self._broken = True
        parties, acting = self._waiting + self._early, self._acting
        self._waiting, self._early, self._acting, self._spoiled = [], [], None, False
        for party in parties:
            self._answer(party, "broken", self._reason)
        if acting is not None:
            self._coordinator.settle(acting)

    operations: ClassVar = {
        "abort": abort,
        "acted": acted,
        "need": need,
        "reset": reset,
        "state": state,
        "unneed": unneed,
        "wait": wait,
    }


BARRIERS: Final[Kinds] = {"Barrier": Barrier, "Event": Event}
