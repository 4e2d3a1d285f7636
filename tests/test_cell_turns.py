"""Nobody sleeps for ever in a cell, in whatever order things happen and whoever is killed."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from cell_turns import Client, Server, World, opened

from unirun import _cell_barriers, _cell_host, _cell_locks, _cell_queues, _cells
from unirun._cell_barriers import BarrierCell, EventCell
from unirun._cell_locks import LockCell
from unirun._cell_queues import QueueCell

SEEDS = int(os.environ.get("CELL_SEEDS", "40"))
"""Schedules of each scenario; give more of them a night."""


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Still:
        monotonic = staticmethod(lambda: 1.0)
        sleep = staticmethod(lambda seconds: None)

    for module in (_cells, _cell_barriers, _cell_host, _cell_locks, _cell_queues):
        monkeypatch.setattr(module, "time", Still)
    # To look instead of sleeping is for speed only, and here it would be for ever.
    monkeypatch.setattr(_cells.Cell, "spin", lambda *args: False)


def outcomes(world: World, look: Callable[[], Any] = lambda: None) -> list[Any]:
    """Who sleeps at the end; `look` is called while they do."""
    try:
        world.play()
        look()
        asleep = [each.number for each in world.asleep]
    finally:
        world.end()
    for each in world.parties:
        if isinstance(each.result, BaseException):
            raise each.result
    return asleep


@pytest.mark.parametrize("maxsize", [0, 1])
@pytest.mark.parametrize("killed", [None, 0, 1, 2, 3])
def test_items_of_a_queue_arrive_once_and_nobody_waits_for_what_is_there(
    maxsize: int, killed: int | None
) -> None:
    for seed in range(SEEDS):
        world = World(seed)
        queue: QueueCell = opened(world, QueueCell, 0, maxsize, 0)
        world.on_death = lambda party: queue.rouse()  # noqa: B023  # as the server does
        got: list[tuple[int, bytes]] = []

        def put(name: bytes) -> None:
            for number in b"12":
                assert queue.put(name + bytes([number]), None) == -1  # noqa: B023

        def get(who: int) -> None:
            for _ in range(2):
                item = queue.get(None, [None])  # noqa: B023
                assert isinstance(item, tuple)
                got.append((who, item[0]))  # noqa: B023

        dies_at = world.random.randrange(1, 60)
        for number, act in enumerate(
            [lambda: put(b"a"), lambda: put(b"b"), lambda: get(0), lambda: get(1)]
        ):
            world.party(act, dies_at if number == killed else None)
        asleep = outcomes(world)
        items = [item for _, item in got]
        state = queue.state()
        assert state is not None
        assert len(set(items)) == len(items), (seed, items)
        for name in b"ab":
            mine = [item for item in items if item[0] == name]
            by_getter = [[i for w, i in got if w == who and i[0] == name] for who in (0, 1)]
            assert all(each == sorted(each) for each in by_getter), (seed, mine)
        getters = [number for number in asleep if number in (2, 3)]
        putters = [number for number in asleep if number in (0, 1)]
        assert not getters or state[0] == 0, (seed, "a getter sleeps before an item", asleep)
        assert not putters or (maxsize and state[0] >= maxsize), (seed, "a putter sleeps", asleep)
        if killed is None:
            assert not asleep, seed
            assert sorted(items) == [b"a1", b"a2", b"b1", b"b2"], seed


@pytest.mark.parametrize("killed", [None, 0, 1, 2])
def test_who_waits_for_an_event_is_released_by_a_pulse(killed: int | None) -> None:
    for seed in range(SEEDS):
        world = World(seed)
        event: EventCell = opened(world, EventCell, 0)
        world.on_death = lambda party: event.rouse()  # noqa: B023
        waits = [world.party(lambda: event.wait(None)) for _ in range(2)]  # noqa: B023
        dies_at = world.random.randrange(1, 25)
        for number, each in enumerate(waits):
            each.dies_at = dies_at if number == killed else None

        def pulse() -> None:
            for _ in range(50):  # until both are asleep, or have gone
                if all(each.asleep is not None or each.done for each in waits):  # noqa: B023
                    break
                world.step()  # noqa: B023
            event.set()  # noqa: B023
            event.clear()  # noqa: B023

        pulser = world.party(pulse, dies_at if killed == 2 else None)
        asleep = outcomes(world)
        if not pulser.dead:
            late = [each for each in waits if each.number in asleep and each.steps > 60]
            assert not late, seed
            assert all(each.result is True for each in waits if each.done and not each.dead), seed


@pytest.mark.parametrize("killed", [None, 0, 1, 2])
def test_parties_of_a_barrier_pass_together_or_not_at_all(killed: int | None) -> None:
    for seed in range(SEEDS):
        world = World(seed)
        barrier: BarrierCell = opened(world, BarrierCell, 0)

        def bury(party: Any) -> None:
            barrier.bury(party.number + 1)  # noqa: B023
            barrier.rouse()  # noqa: B023

        world.on_death = bury
        passed: dict[int, list[int]] = {}

        def rounds(number: int) -> None:
            for _ in range(3):
                index = barrier.wait(number + 1, 3, None)  # noqa: B023
                passed.setdefault(number, []).append(-9 if index is None else index)  # noqa: B023
                if index is None or index < 0:
                    return

        dies_at = world.random.randrange(1, 90)
        for number in range(3):
            act = (lambda number: lambda: rounds(number))(number)  # noqa: B023
            world.party(act, dies_at if number == killed else None)
        states: list[Any] = []
        asleep = outcomes(world, lambda: states.append(barrier.state()))  # noqa: B023
        whole = min((len(passed.get(n, [])) for n in range(3)), default=0)
        for place in range(whole):
            indexes = [passed[n][place] for n in range(3)]
            assert sorted(indexes) in ([0, 1, 2], [-1, -1, -1]) or -1 in indexes, (seed, passed)
        if killed is None:
            assert not asleep, seed
            assert all(len(passed[n]) == 3 for n in range(3)), (seed, passed)
        else:
            # It died after its last round, or the others wait for nobody but it, and know of it.
            # Those who sleep are all counted: the dead one was between two rounds, in none.
            assert not asleep or states == [(len(asleep), False)], (seed, asleep, passed, states)


@pytest.mark.parametrize("killed", [None, 0, 1])
def test_a_lock_has_one_owner_at_a_time(killed: int | None) -> None:
    for seed in range(SEEDS):
        world = World(seed)
        lock: LockCell = opened(world, LockCell, 0)
        world.on_death = lambda party: lock.bury(party.number + 1)  # noqa: B023
        inside: list[int] = []

        def use(number: int) -> int:
            took = 0
            for _ in range(3):
                note = [False]
                if number % 2:
                    got = lock.take(number + 1, note)  # noqa: B023
                else:
                    got = bool(lock.acquire(number + 1, False, note, 3))  # noqa: B023
                if got:
                    assert not [n for n in inside if not world.parties[n].dead], seed  # noqa: B023
                    inside.append(number)  # noqa: B023
                    world.step()  # noqa: B023
                    inside.remove(number)  # noqa: B023
                    took += 1
                    if number % 2:
                        assert lock.drop(None) or lock.release(number + 1, False)  # noqa: B023
                    else:
                        assert lock.release(number + 1, False)  # noqa: B023
            return took

        dies_at = world.random.randrange(1, 40)
        for number in range(3):
            act = (lambda number: lambda: use(number))(number)  # noqa: B023
            world.party(act, dies_at if number == killed else None)
        assert not outcomes(world), seed
        state = lock.state(0)
        assert state is not None
        assert state[0] is False, (seed, state)


# -- with the server, which takes what is in the cell and gives it back ----------------------------


def look_in(me: Client) -> None:
    for _ in range(3):
        assert me.ask("state")[0] == "ok"


@pytest.mark.parametrize("killed", [None, 0, 1])
def test_a_lock_that_goes_to_the_server_and_back_has_one_owner_at_a_time(
    killed: int | None,
) -> None:
    for seed in range(SEEDS):
        world = World(seed)
        server = Server(world, "Lock")
        inside: list[Client] = []

        def use(me: Client) -> None:
            for _ in range(3):
                if not me.cell.acquire(me.seat, False, [False], 1):
                    assert me.ask("acquire")[0] == "ok"
                assert not [each for each in inside if not each.party.dead], seed  # noqa: B023
                inside.append(me)  # noqa: B023
                world.step()  # noqa: B023
                inside.remove(me)  # noqa: B023
                done = me.cell.release(me.seat, False)
                assert done or (done is None and me.ask("release")[0] == "ok"), (seed, done)  # noqa: B023

        clients = [server.client(act, LockCell) for act in (use, use, look_in, look_in)]
        if killed is not None:
            clients[killed].party.dies_at = world.random.randrange(1, 60)
        assert outcomes(world) == [server.party.number], seed
        clients[-1].cell.freeze(None)
        assert server.coordinator.request(server, 1, "state", server.object_id)[0][3][0] is False


def test_an_event_that_goes_to_the_server_and_back_is_not_unset_by_that() -> None:
    for seed in range(SEEDS):
        world = World(seed)
        server = Server(world, "Event")

        def wait(me: Client) -> None:
            assert me.cell.wait(None) or me.ask("wait")[0] == "ok"

        def set_(me: Client) -> None:
            assert me.cell.set() or me.ask("set")[0] == "ok"

        def look(me: Client) -> None:
            for _ in range(3):
                assert me.ask("is_set")[0] == "ok"

        for act in (wait, wait, set_, look, look):
            server.client(act, EventCell)
        assert outcomes(world) == [server.party.number], seed


@pytest.mark.parametrize("patient", [True, False])
def test_parties_of_a_barrier_that_goes_to_the_server_and_back_pass_together(
    monkeypatch: pytest.MonkeyPatch, patient: bool
) -> None:
    for seed in range(SEEDS):
        world = World(seed)

        class Jumps:  # time goes by, or not
            @staticmethod
            def monotonic() -> float:
                return 1.0 if patient else float(world.random.randrange(2))  # noqa: B023

        monkeypatch.setattr(_cell_barriers, "time", Jumps)
        server = Server(world, "Barrier", 3)
        passed: list[list[int]] = [[], []]

        def rounds(me: Client) -> None:
            for place in passed:  # noqa: B023
                index = me.cell.wait(me.seat, 3, None)
                if index is None:
                    status, index = me.ask("wait")
                    assert status == "ok", seed  # noqa: B023
                place.append(index)

        for act in (rounds, rounds, rounds, look_in):
            server.client(act, BarrierCell)
        assert outcomes(world) == [server.party.number], (seed, passed)
        assert [sorted(each) for each in passed] == [[0, 1, 2]] * 2, seed


@pytest.mark.parametrize("maxsize", [0, 1])
@pytest.mark.parametrize("killed", [None, 1, 2])
def test_items_of_a_queue_that_goes_to_the_server_and_back_arrive_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch, maxsize: int, killed: int | None
) -> None:
    for seed in range(SEEDS):
        world = World(seed)
        server = Server(world, "Queue", maxsize)
        got: list[bytes] = []

        def put(me: Client) -> None:
            for item in (b"1", b"2", b"3"):
                if me.cell.put(item, None) == _cell_queues.ASK:
                    assert me.ask("put", item)[0] == "ok"

        def get(me: Client) -> None:
            for _ in range(3):
                item = me.cell.get(None, [None])
                got.append(item[0] if type(item) is tuple else me.ask("get")[1])  # noqa: B023

        clients = [server.client(act, QueueCell, maxsize) for act in (put, get, look_in)]
        if killed is not None:
            clients[killed].party.dies_at = world.random.randrange(1, 90)
        asleep = outcomes(world)
        assert got == sorted(set(got)), seed
        if killed != 1:
            assert asleep == [server.party.number], (seed, asleep, got)
            assert got == [b"1", b"2", b"3"], seed
