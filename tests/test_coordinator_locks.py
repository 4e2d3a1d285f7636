"""The rules of `coordinator.py` for locks: every interleaving of small programs."""

from collections.abc import Iterator
from typing import Any

import pytest
from test_coordinator import NOW, TIMED, Move, Party, World, explore

from unirun._hosted_locks import LOCKS
from unirun.coordinator import Coordinator
from unirun.testing import invariants

KINDS = {**LOCKS}


class LockWorld(World):
    """Parties that know what they hold, and release only that."""

    limit = 1  # how much all of them may hold together

    def __init__(self, kind: str, params: Any, programs: Any, deaths: int) -> None:
        super().__init__(kind, params, programs, deaths)
        self.held = dict.fromkeys(programs, 0)
        self.saved = dict.fromkeys(programs, 0)
        self.limit = max([1, *params])
        if kind in ("Lock", "RLock"):
            self.condition = self.coordinator.create("Condition", self.object)

    def moves(self) -> Iterator[Move]:
        yield from super().moves()
        for name, party in self.parties.items():
            acquired = party.seen and party.seen[-1][:2] == ("acquire", "ok")
            if self.cancels and party.alive and party.pending is None and acquired:
                yield "regret", name

    def _regret(self, party: Party, name: str) -> None:
        """It was interrupted just when it had the lock."""
        self.held[name] -= 1
        party.seen.pop()
        super()._cancel(party, name)

    def _ask(self, party: Party, name: str) -> None:
        op = party.program[0][0]
        if op in ("release", "wait", "notify") and not self.held[name]:
            party.program.pop(0)  # it never got what it would need
            return
        super()._ask(party, name)

    def _request(self, party: Party, name: str, op: str, args: Any, deadline: Any = None) -> None:
        if op in ("wait", "notify"):
            if op == "wait":
                self.saved[name], self.held[name] = self.held[name], 0
            lock, self.object = self.object, self.condition
            super()._request(party, name, op, args, deadline)
            self.object = lock
        else:
            super()._request(party, name, op, args, deadline)

    def _deliver(self, replies: list[Any]) -> None:
        for reply in replies:
            name, _, status, _ = reply
            op = self.parties[name].op
            assert status in ("ok", "timeout")
            if status == "ok" and op == "acquire":
                self.held[name] += 1
            elif status == "ok" and op == "wait":
                self.held[name] = self.saved[name]
            elif op == "release":
                self.held[name] -= 1
            super()._deliver([reply])

    def _cancel(self, party: Party, name: str) -> None:
        super()._cancel(party, name)
        if party.op == "wait":
            party.program = []  # an interrupted wait leaves it without the lock

    def _die(self, party: Party, name: str) -> None:
        self.held[name] = 0
        super()._die(party, name)

    def _check(self) -> None:
        holders = [name for name, depth in self.held.items() for _ in range(depth)]
        holders = list(set(holders)) if self.subject.kind == "RLock" else holders
        invariants.exclusion(self.subject.kind, holders, self.limit)
        subject: Any = self.subject
        if hasattr(subject, "_depth"):
            assert subject._depth == sum(self.held.values()), "rule 10: held by the living only"
            assert not (subject._waiting and not subject._depth), "somebody could go on"
        else:
            assert subject._value == self.limit - sum(self.held.values()), "rule 11"
            assert not (subject._waiting and subject._value), "somebody could go on"

    def key(self) -> str:
        waiting: Any = ()
        if hasattr(self, "condition"):
            waiting = self.coordinator._objects[self.condition]._waiting  # type: ignore[attr-defined]
            waiting = [(each.session, each.id) for each in waiting]
        return super().key() + repr((self.held, self.saved, waiting))


TAKE = [("acquire",), ("release",)]
TRY = [("acquire", NOW), ("release",)]
HURRY = [("acquire", TIMED), ("release",)]


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_lock_has_one_living_owner(kind: str) -> None:
    programs: dict[str, list[Any]] = {"one": TAKE * 2, "two": HURRY, "three": TRY}
    for world in explore(kind, (), programs, world_type=LockWorld):
        assert not any(world.held.values())


def test_an_rlock_is_released_as_often_as_it_was_acquired() -> None:
    deep: list[Any] = [("acquire",), *TAKE, *HURRY, ("release",)]
    explore("RLock", (), {"one": deep, "two": HURRY, "three": TAKE}, world_type=LockWorld)


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
def test_permits_are_as_many_as_there_were(kind: str) -> None:
    programs: dict[str, list[Any]] = {"one": TAKE * 2, "two": HURRY, "three": [*TRY, *TAKE]}
    for world in explore(kind, (2,), programs, world_type=LockWorld):
        assert world.subject._value == 2


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
@pytest.mark.parametrize("number", [1, None])
def test_whoever_is_notified_owns_the_lock_again(kind: str, number: int | None) -> None:
    wait = [("acquire",), ("wait", TIMED), ("release",)]
    notify = [("acquire",), ("notify", number), ("release",)]
    programs: dict[str, list[Any]] = {"one": wait, "two": wait, "three": notify}
    for world in explore(kind, (), programs, world_type=LockWorld):
        waits = [
            value for party in world.parties.values() for op, _, value in party.seen if op == "wait"
        ]
        if number and world.deaths and world.cancels:  # else it may have been passed on
            assert sum(waits) <= 1, "one was notified"


def test_a_wait_releases_every_level_of_an_rlock() -> None:
    deep = [("acquire",), ("acquire",), ("wait", TIMED), ("release",), ("release",)]
    notify = [("acquire",), ("notify", 1), ("release",)]
    explore("RLock", (), {"one": deep, "two": notify}, world_type=LockWorld)
    at_once = [("acquire",), ("acquire",), ("wait", NOW), ("release",), ("release",)]
    for world in explore("RLock", (), {"one": at_once, "two": TAKE}, world_type=LockWorld):
        assert not any(world.held.values())


def locks(kind: str, *params: Any) -> tuple[Coordinator, int]:
    coordinator = Coordinator(KINDS)
    return coordinator, coordinator.create(kind, *params)


def test_a_lock_is_abandoned_until_its_next_owner_has_released_it() -> None:
    coordinator, lock = locks("Lock")
    coordinator.request("one", 1, "acquire", lock)
    coordinator.request("two", 1, "acquire", lock)
    assert coordinator.session_lost("one") == [("two", 1, "ok", True)]
    assert coordinator.request("x", 1, "state", lock)[0][3] == (True, True, True)
    coordinator.request("two", 2, "release", lock)
    assert coordinator.request("x", 2, "state", lock)[0][3] == (False, False, False)


def test_an_acquire_can_be_undone_until_the_next_request_shows_that_it_was_seen() -> None:
    coordinator, lock = locks("Lock")
    coordinator.request("one", 1, "acquire", lock)
    coordinator.request("two", 1, "acquire", lock)
    assert coordinator.cancel("one", 1) == [("two", 1, "ok", True)]
    coordinator.request("two", 2, "state", lock)
    assert coordinator.cancel("two", 1) == []
    assert coordinator.request("x", 1, "state", lock)[0][3][0] is True


def test_what_another_has_released_is_not_released_again() -> None:
    coordinator, lock = locks("Lock")
    coordinator.request("one", 1, "acquire", lock)
    coordinator.request("two", 1, "release", lock)
    coordinator.request("three", 1, "acquire", lock)
    coordinator.cancel("one", 1)
    coordinator.session_lost("one")
    assert coordinator.request("x", 1, "state", lock)[0][3][0] is True


def test_a_semaphore_that_counts_does_not_count_twice() -> None:
    coordinator, semaphore = locks("Semaphore", 0)
    coordinator.request("producer", 1, "release", semaphore, (2,))
    coordinator.request("consumer", 1, "acquire", semaphore)
    coordinator.session_lost("consumer")
    assert coordinator.request("x", 1, "state", semaphore)[0][3] == 1


def test_an_interrupted_wait_gets_back_the_depth_it_had() -> None:
    coordinator, lock = locks("RLock")
    condition = coordinator.create("Condition", lock)
    for number in (1, 2):
        coordinator.request("one", number, "acquire", lock)
    coordinator.request("one", 3, "wait", condition)
    coordinator.cancel("one", 3)
    assert coordinator.request("one", 4, "reacquire", lock)[0][2] == "ok"
    for number in (5, 6):
        assert coordinator.request("one", number, "release", lock)[0][2] == "ok"
    assert coordinator.request("one", 7, "release", lock)[0][2] == "runtime"


def test_misuse_is_answered_as_the_original_does() -> None:
    coordinator, lock = locks("RLock")
    condition, semaphore = coordinator.create("Condition", lock), coordinator.create("Semaphore")
    coordinator.request("one", 1, "acquire", lock)
    for op, target in (("release", lock), ("wait", condition), ("notify", condition)):
        assert coordinator.request("two", 1, op, target)[0][2] == "runtime"
    assert coordinator.request("two", 2, "release", semaphore, (0,))[0][2] == "value"
    with pytest.raises(TypeError, match="must be a Lock or RLock"):
        coordinator.create("Condition", semaphore)
