"""How long a shared object lives whose handles are in other processes; see lingering.py."""

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest
from lingering import linger_for, outlasting
from parties import PATIENCE, ProcessParty, channel_of, serve_queue, take_and_stay, tell, wait_until

import unirun
from unirun import ManagerLost, _channel, _handles, _links, _references
from unirun._manager import Manager
from unirun._manager_process import ManagerProcess
from unirun.sync import make_shared

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    linger_for(0.1, monkeypatch)


@pytest.fixture
def outlast() -> Iterator[Callable[[], None]]:
    with outlasting() as wait:
        yield wait


_mine: list[Any] = []


def keep(*objects: Any) -> None:
    _mine.extend(objects)


def drop() -> None:
    _mine.clear()


def use() -> int:
    _mine[0].put("from afar")
    return os.getpid()


def give_back() -> Any:
    return _mine.pop()


def test_another_process_keeps_what_it_has(
    make: Make, manager: Manager, party: ProcessParty, outlast: Callable[[], None]
) -> None:
    queue = make("Queue")
    party.start(keep, queue).result()
    del queue
    outlast()
    assert manager.objects == 1
    party.start(use).result()
    queue = party.start(give_back).result()
    assert queue.get() == "from afar"
    party.start(keep, queue, queue).result()
    del queue
    outlast()
    assert manager.objects == 1
    party.start(drop).result()
    wait_until(lambda: manager.objects == 0)


def test_a_killed_process_keeps_nothing(
    make: Make, manager: Manager, party: ProcessParty, outlast: Callable[[], None]
) -> None:
    queues = [make("Queue") for _ in range(10)]
    party.start(keep, *queues).result()
    queues.clear()
    outlast()
    assert manager.objects == 10
    party.kill()
    wait_until(lambda: manager.objects == 0)


def pass_on(inbox: Any, outbox: Any) -> None:
    outbox.put(inbox.get())


def test_from_process_to_process_while_the_owner_has_let_go(
    make: Make,
    manager: Manager,
    party: ProcessParty,
    other: ProcessParty,
    outlast: Callable[[], None],
) -> None:
    first, second = make("Queue"), make("SimpleQueue")
    first.put(("here", make("Event")))
    outlast()
    party.start(pass_on, first, second).result()
    outlast()
    assert manager.objects == 3
    other.start(pass_on, second, first).result()
    outlast()
    where, event = first.get()
    event.set()
    assert where == "here"
    del event
    wait_until(lambda: manager.objects == 2)


class SlowToUnpickle:
    """Tells when it begins, and goes on when it may."""

    def __init__(self, gate: Any) -> None:
        self.gate = gate

    def __setstate__(self, state: dict[str, Any]) -> None:
        tell("unpickling")
        assert state["gate"].wait(PATIENCE)


def take(content: Any) -> bool:
    _, event = content.pop() if hasattr(content, "pop") else content.get()
    event.set()
    return bool(event.is_set())


@pytest.mark.parametrize("kind", ["Queue", "List"])
def test_an_item_that_takes_long_to_unpickle_keeps_its_objects(
    make: Make, manager: Manager, party: ProcessParty, outlast: Callable[[], None], kind: str
) -> None:
    content, gate = make(kind), make("Event")
    number = manager.objects
    item = SlowToUnpickle(gate), make("Event")
    content.put(item) if kind == "Queue" else content.append(item)
    del item
    party.start(take, content)
    assert party.result() == "unpickling"
    outlast()
    assert manager.objects == number + 1
    gate.set()
    assert party.result() is True
    wait_until(lambda: manager.objects == number)


def take_as_it_is(queue: Any) -> None:
    channel, ever = channel_of(queue), _channel.limits(None)
    status, item = channel.request("get", queue._object_id, (), ever)
    tell(status)
    _mine.append(item)


def test_an_item_that_is_not_unpickled_yet_keeps_its_objects(
    make: Make, manager: Manager, party: ProcessParty, outlast: Callable[[], None]
) -> None:
    queue = make("Queue")
    queue.put(make("Event"))
    party.start(take_as_it_is, queue)
    assert party.result() == "item"
    party.result()
    outlast()
    assert manager.objects == 2
    party.start(drop).result()
    wait_until(lambda: manager.objects == 1)


def test_a_killed_getter_gives_an_item_back_with_what_is_in_it(
    make: Make, manager: Manager, party: ProcessParty, outlast: Callable[[], None]
) -> None:
    queue = make("Queue")
    queue.put(make("Event"))
    party.start(take_unseen, queue)
    party.result()
    party.kill()
    outlast()
    queue.get(timeout=PATIENCE).set()
    wait_until(lambda: manager.objects == 1)


def take_unseen(queue: Any) -> None:

    take_and_stay(queue, "get")


def stop_others_link(queue: Any) -> None:
    """Break this process's link, as a network might."""

    link = _links._links[queue._address]
    assert link._socket is not None
    link._socket.shutdown(2)


def test_a_broken_link_is_made_anew(
    make: Make, manager: Manager, party: ProcessParty, outlast: Callable[[], None]
) -> None:
    queue = make("Queue")
    party.start(keep, queue).result()
    party.start(stop_others_link, queue).result()
    event = make("Event")
    party.start(keep, event).result()  # it has something to tell, and notices
    party.start(use).result()
    del queue, event
    outlast()
    assert manager.objects == 2
    party.start(drop).result()
    wait_until(lambda: manager.objects == 0)


def load_with_manager_gone(data: bytes) -> str:
    queue = pickle.loads(data)
    try:
        queue.qsize()
    except ManagerLost:
        return "lost"
    return "alive"


def test_a_handle_is_unpickled_though_its_manager_is_gone(party: ProcessParty) -> None:
    manager = Manager()
    data = pickle.dumps(make_shared(manager, "Queue"))
    manager.close()
    assert party.start(load_with_manager_gone, data).result() == "lost"


def test_a_handle_is_unpickled_though_its_manager_stands_still(
    party: ProcessParty, outlast: Callable[[], None]
) -> None:
    queue, *_ = party.start(serve_queue, "AF_UNIX").result()
    with unirun.Executor(1, backend="process") as executor:
        party.stop()
        future = executor.submit(keep, queue)
        future.result(PATIENCE)
        party.signal(signal.SIGCONT)
        name = queue._name
        executor.submit(use).result(PATIENCE)  # now its link is made
        assert queue.get(timeout=PATIENCE) == "from afar"
        del queue
        assert name not in _handles._handles
        outlast()
        queue = executor.submit(give_back).result(PATIENCE)
        assert queue.empty()


def test_objects_of_a_manager_process_are_freed_too() -> None:
    manager = ManagerProcess()
    kept, dropped = make_shared(manager, "Queue"), make_shared(manager, "Queue")
    assert manager.objects == 2
    del dropped
    wait_until(lambda: manager.objects == 1)
    kept.put(make_shared(manager, "Event"))
    assert manager.objects == 2
    kept.get().set()
    manager.close()


# -- processes of the application ------------------------------------------------------------------


def put_pid(queue: Any) -> None:
    queue.put(os.getpid())


def put_when_told(queue: Any, pipe: Connection) -> None:
    pipe.send("here")
    pipe.recv()
    queue.put(os.getpid())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_by_any_start_method_keeps_its_arguments(
    make: Make,
    manager: Manager,
    outlast: Callable[[], None],
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context: Any = multiprocessing.get_context(method)
    pipe, theirs = context.Pipe()
    on_its_way = "LINGER" if method == "fork" else "START_LINGER"
    linger_for(0.001, monkeypatch)
    monkeypatch.setattr(_references, on_its_way, PATIENCE)
    outer = make("Queue")
    process = context.Process(target=put_when_told, args=(make("Queue"), theirs))
    outer.put(process._args[0])
    process.start()
    assert pipe.recv() == "here"
    linger_for(0.1, monkeypatch)
    queue = outer.get()
    name = queue._name
    del queue
    outlast()
    assert manager.objects == 2
    pipe.send("go on")
    process.join(PATIENCE)
    assert process.exitcode == 0
    process.close()
    pipe.close()
    theirs.close()
    wait_until(lambda: manager.objects == 1)
    assert name not in _handles._handles


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_may_have_the_only_handle(
    make: Make, manager: Manager, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_its_way = "LINGER" if method == "fork" else "START_LINGER"
    linger_for(0.001, monkeypatch)
    monkeypatch.setattr(_references, on_its_way, PATIENCE)
    process: Any = multiprocessing.get_context(method).Process(
        target=put_pid, args=(make("Queue"),)
    )
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0
    process.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_references_of_its_own(
    make: Make, manager: Manager, outlast: Callable[[], None]
) -> None:
    queue, answers, (read, write) = make("Queue"), make("Queue"), os.pipe()
    shared = make("Dict", key="value")  # no hash, and as true as it is full
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.read(read, 1)
            queue.put(shared.copy())
            answers.put(queue)
            status = 0
        finally:
            os._exit(status)
    del queue, shared
    outlast()
    assert manager.objects == 4
    os.write(write, b"x")
    assert answers.get(timeout=PATIENCE).get() == {"key": "value"}
    assert os.waitpid(pid, 0)[1] == 0
    os.close(read)
    os.close(write)
    wait_until(lambda: manager.objects == 1)
