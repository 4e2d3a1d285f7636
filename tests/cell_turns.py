"""The real code of cells on memory, mutexes and futexes of the test's own, step by step.

Parties are threads of which one runs at a time.  Every access to the memory and every call of the
system is a step, after which any other party may be next; who it is says a seed.  Nobody wakes by
the passing of time here: a wake-up that is lost leaves somebody asleep for ever, and is seen.
"""

import contextlib
import errno
import random
import threading
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from unirun import _cells
from unirun._cell_host import CelledCoordinator
from unirun._cells import CELL, COUNT, HEADER, RING, Cell
from unirun._connect import TooLate
from unirun._desk import KINDS
from unirun._segments import AGAIN, index_of

STEPS = 20000  # within which whatever is to happen has happened
PATIENCE = 20.0


class Killed(BaseException):
    """Ends a party between any two of its steps."""


class Stuck(AssertionError):
    """Parties are still asleep though they should have been woken."""


class Party:
    def __init__(self, number: int) -> None:
        self.number = number
        self.turn = threading.Semaphore(0)
        self.asleep: int | None = None  # the address of the word it sleeps on
        self.dies_at: int | None = None  # its step
        self.steps = 0
        self.dead = False
        self.done = False
        self.result: Any = None


class World:
    """The memory of one manager, and those who use it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.memory = bytearray(HEADER + CELL * 4)
        self.rings = [bytearray(RING >> 8)]
        self.owners: dict[int, Party] = {}
        self.parties: list[Party] = []
        self.on_death: Callable[[Party], None] = lambda party: None
        self._here = threading.local()
        self._back = threading.Semaphore(0)  # a party has made its step
        self.segment: Any = SimpleNamespace(
            robust=self,
            address=0,
            words=Steps(self, memoryview(self.memory).cast("Q")),
            halves=Steps(self, memoryview(self.memory).cast("I")),
            ring=lambda number: Ring(self, memoryview(self.rings[number])),
            check=lambda: None,
            empty_ring=lambda number, first: None,
        )

    # -- what the system offers -----------------------------------------------------------------

    def trylock(self, address: int) -> int:
        me = self.step()
        owner = self.owners.get(address)
        if owner is None or owner.dead:
            self.owners[address] = me
            return 0 if owner is None else errno.EOWNERDEAD
        return errno.EDEADLK if owner is me else errno.EBUSY

    def lock(self, address: int, seconds: float) -> int:
        code = self.trylock(address)
        return errno.ETIMEDOUT if code == errno.EBUSY else code

    def unlock(self, address: int) -> int:
        me = self.here
        if me.dead or self.owners.get(address) is not me:
            return errno.EPERM
        self.step()
        del self.owners[address]
        return 0

    def consistent(self, address: int) -> int:
        return 0

    def make_mutex(self, address: int) -> None:
        """A mutex is an entry in `owners`."""

    def sleep(self, address: int, expected: int, seconds: float) -> None:
        me = self.step()
        if memoryview(self.memory).cast("I")[address // 4] == expected:
            me.asleep = address
            self.step()

    def wake(self, address: int, number: int = 1 << 30) -> int:
        self.step()
        sleepers = [each for each in self.parties if each.asleep == address][:number]
        for each in sleepers:
            each.asleep = None
        return len(sleepers)

    # -- turns ----------------------------------------------------------------------------------

    @property
    def here(self) -> Party:
        return self._here.__dict__.get("party") or _NOBODY

    def step(self) -> Party:
        me = self.here
        if me is _NOBODY:
            return me
        if me.dead:
            raise Killed  # whatever it would do on its way out
        self._back.release()
        assert me.turn.acquire(timeout=PATIENCE), "no turn came"
        me.steps += 1
        if me.dies_at is not None and me.steps >= me.dies_at and not me.dead:
            me.dead = True
            raise Killed
        return me

    def party(self, act: Callable[[], Any], dies_at: int | None = None) -> Party:
        party = Party(len(self.parties))
        party.dies_at = dies_at
        self.parties.append(party)
        threading.Thread(target=self._run, args=(party, act), daemon=True).start()
        return party

    def _run(self, party: Party, act: Callable[[], Any]) -> None:
        self._here.party = party
        assert party.turn.acquire(timeout=PATIENCE), "no turn came"
        try:
            party.result = act()
        except Killed:
            party.dead = True
        except BaseException as exc:
            party.result = exc
        party.done = True
        self._back.release()

    def play(self) -> None:
        """Give turns until nobody can go on; raises Stuck for those that loop for ever."""
        buried: set[int] = set()
        for _ in range(STEPS):
            for each in self.parties:
                if each.dead and each.done and each.number not in buried:
                    with contextlib.suppress(TooLate):  # somebody is inside: another time
                        self.on_death(each)
                        buried.add(each.number)
            ready = [each for each in self.parties if not each.done and each.asleep is None]
            if not ready:
                return
            self.random.choice(ready).turn.release()
            assert self._back.acquire(timeout=PATIENCE), "the step has no end"
        raise Stuck("somebody goes round in circles")

    def end(self) -> None:
        """End the threads that still sleep."""
        for each in self.parties:
            if not each.done:
                each.asleep, each.dies_at, each.steps = None, 0, 1
        self.play()

    @property
    def asleep(self) -> list[Party]:
        return [each for each in self.parties if not each.done]


_NOBODY = Party(-1)


class Steps:
    """Memory each access to which is a step."""

    def __init__(self, world: World, memory: Any) -> None:
        self._world = world
        self._memory = memory

    def __getitem__(self, at: Any) -> Any:
        self._world.step()
        return self._memory[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self._world.step()
        self._memory[at] = value


class Ring(Steps):
    def cast(self, kind: str) -> Steps:
        return Steps(self._world, self._memory.cast(kind))


class Client:
    """A session of the server, and its cell of the one object there is."""

    def __init__(self, server: "Server", kind: Any, *args: Any) -> None:
        self.server = server
        index = index_of(server.object_id)
        assert index is not None
        self.cell: Any = kind(server.world.segment, index, *args)
        self.seat = server.coordinator.enroll(self)
        self.party: Any = None
        self.last_id = 0
        self.reply: Any = None

    def ask(self, op: str, *args: Any) -> tuple[str, Any]:
        """As `Celled._exchange_with_server` does."""
        while True:
            self.cell.freeze(None)
            self.last_id += 1
            self.reply = None
            self.server.tell("request", self, self.last_id, op, self.server.object_id, args)
            while self.reply is None:
                self.party.asleep = _ANSWER
                self.server.world.step()
            status, value = self.reply
            if status == "item" or (op, status) == ("acquire", "ok"):
                self.server.tell("acknowledge", self, self.last_id)
            if status != AGAIN:
                return status, value


class Server:
    """The real coordinator with one object, as one of the parties."""

    def __init__(self, world: World, kind: str, *params: Any) -> None:
        self.world = world
        self.coordinator = CelledCoordinator(KINDS, 1, lambda: None, cells=False)
        self.coordinator.segment = world.segment
        self.coordinator._unused.extend(range(4))
        self.coordinator._rings.clear()
        self.coordinator._rings.append(0)
        self.object_id = self.coordinator.create(kind, *params)
        self._asked: deque[tuple[Any, ...]] = deque()
        self.party = world.party(self._run)
        world.on_death = self._died
        self.clients: list[Client] = []

    def client(self, act: Callable[[Client], Any], kind: Any, *args: Any) -> Client:
        client = Client(self, kind, *args)
        client.party = self.world.party(lambda: act(client))
        self.clients.append(client)
        return client

    def tell(self, what: str, *args: Any) -> None:
        self._asked.append((what, *args))
        self.party.asleep = None

    def _died(self, party: Party) -> None:
        for each in self.clients:
            if each.party is party:
                self.tell("session_lost", each)

    def _run(self) -> None:
        while True:
            if self._asked:
                what, *args = self._asked.popleft()
                replies = getattr(self.coordinator, what)(*args)
            elif self.coordinator.retry is not None:
                replies = self.coordinator.look_after_deaths()
            else:
                self.party.asleep = _ANSWER
                self.world.step()
                continue
            for client, request_id, status, value in replies or ():
                if client.last_id == request_id:
                    client.reply, client.party.asleep = (status, value), None


_ANSWER = -1  # what is waited for where no memory is


def opened(world: World, kind: Any, index: int, *args: Any) -> Any:
    cell: Cell = kind(world.segment, index, *args)
    cell.begin(index + 1)
    return cell


assert HEADER + CELL * 4 <= HEADER + CELL * COUNT
assert _cells.SLICE > 0
