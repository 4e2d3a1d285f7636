"""How places of an engine reach shared objects that are on another machine, and how they are lost.

The hub and a place are in this process, the worker of the place is a real one.  It takes the way
by the tunnel, since the manager is one on TCP: to a socket in a file it would go straight.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from unirun import ConfigError, Executor, ManagerLost, _channel, _connect
from unirun._connect import run_key
from unirun._far_hub import Hub, new_key
from unirun._far_lines import Line, Refused, dial
from unirun._far_pulse import Pulse, stands_still
from unirun._far_setup import silence_of
from unirun._far_tunnel import TUNNEL, Entrance
from unirun._manager import Manager
from unirun.sync import make_shared
from unirun.testing import Gate
from unirun.testing._gate import comes_true

PATIENCE = 30


class Site:
    """A hub, and as many places as are opened."""

    def __init__(self, lost_after: float = 30.0, security: Any = None) -> None:
        self.key = new_key()
        self.gone: list[int] = []
        self.hosts: list[int] = []
        self.hub = Hub("127.0.0.1", self.key, security, self._hear, "site", lost_after)
        self.dial = partial(dial, self.hub.address, self.key, None, 5.0)

    def _hear(self, host: int, what: str, *_: Any) -> None:
        (self.gone if what == "hung up" else self.hosts).append(host)

    def place(self, dial: Callable[[], Line] | None = None) -> tuple[Line, Entrance]:
        reach = dial or self.dial
        line = reach()
        before = len(self.hosts)
        line.send("hello")
        assert comes_true(lambda: len(self.hosts) > before, PATIENCE)
        return line, Entrance(reach, self.hosts[-1])

    def close(self) -> None:
        self.hub.close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def manager() -> Iterator[Manager]:
    """A new one each time: the worker's connection to an earlier one has ended with its tunnel."""
    manager = Manager(family="AF_INET", key=run_key())
    yield manager
    manager.close()


@pytest.fixture(scope="module")
def worker() -> Iterator[Executor]:
    with Executor(1, backend="process") as executor:
        executor.submit(divmod, 7, 2).result(PATIENCE)
        yield executor


def go_by(tunnel: str, ahead: float) -> None:
    """In a worker: from now on that is its way, and its clock is another one."""
    os.environ["_UNIRUN_TUNNEL"] = tunnel
    _channel.time = _connect.time = OtherClock(ahead)  # type: ignore[assignment]


class OtherClock:
    """The module `time` on another machine, for those that talk to managers."""

    def __init__(self, ahead: float) -> None:
        self._ahead = ahead

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def elsewhere(site: Site, worker: Executor) -> Iterator[tuple[Executor, Line]]:
    """A worker on a machine that was started later than this one, and the line of its place."""
    line, entrance = site.place()
    worker.submit(go_by, entrance.tell(), -1e3).result(PATIENCE)
    yield worker, line
    worker.submit(go_by, "", 0.0).result(PATIENCE)
    entrance.close()
    line.close()


def held(lock: Any, timeout: float) -> tuple[bool, float]:
    begun = time.perf_counter()
    got = bool(lock.acquire(timeout=timeout))
    if got:
        lock.release()
    return got, time.perf_counter() - begun


def holds(lock: Any, gate: tuple[str, int]) -> str:
    """Take it, wait at the gate, and say what becomes of the attempt to give it back."""
    lock.acquire()
    with socket.create_connection(gate, PATIENCE) as connection:
        connection.sendall(os.getpid().to_bytes(8, "little"))
        connection.recv(1)
    try:
        lock.release()
    except ManagerLost as exc:
        return f"lost: {exc}"
    return "given back"


# -- through a tunnel -----------------------------------------------------------------------------


def test_a_lock_and_a_queue_are_used_through_a_tunnel(
    elsewhere: tuple[Executor, Line], manager: Manager
) -> None:
    lock, queue = make_shared(manager, "Lock"), make_shared(manager, "Queue")
    worker, _ = elsewhere
    assert worker.submit(held, lock, 5.0).result(PATIENCE)[0] is True
    worker.submit(queue.put, b"x" * (1 << 20)).result(PATIENCE)
    assert len(queue.get(timeout=PATIENCE)) == 1 << 20


def test_timeouts_hold_on_a_machine_with_another_clock(
    elsewhere: tuple[Executor, Line], manager: Manager
) -> None:
    lock = make_shared(manager, "Lock")
    with lock:
        got, seconds = elsewhere[0].submit(held, lock, 0.2).result(PATIENCE)
    assert got is False
    assert 0.2 <= seconds < PATIENCE
    assert elsewhere[0].submit(held, lock, 0.0).result(PATIENCE)[0] is True


def test_a_place_that_is_given_up_holds_nothing_any_more(
    elsewhere: tuple[Executor, Line], manager: Manager
) -> None:
    """Though its worker lives, and its end of the tunnel is open: what it says changes nothing."""
    lock = make_shared(manager, "Lock")
    worker, line = elsewhere
    with Gate() as gate:
        holder = worker.submit(holds, lock, gate.address)
        arrival = gate.arrival()
        assert lock.acquire(timeout=0) is False
        line.close()
        assert lock.acquire(timeout=PATIENCE) is True
        arrival.release()
        assert holder.result(PATIENCE).startswith("lost: ")
    assert lock.locked()


def test_a_tunnel_leads_to_managers_of_the_program_only(site: Site) -> None:
    line, entrance = site.place()
    for host, name in ((site.hosts[-1], "('127.0.0.1', 9)"), (site.hosts[-1] + 7, "'/'")):
        tunnel = site.dial()
        tunnel.send(TUNNEL, host, name)
        assert tunnel.read() == b""
        tunnel.close()
    entrance.close()
    line.close()


def test_a_stranger_has_no_tunnel(site: Site) -> None:
    with pytest.raises(Refused):
        dial(site.hub.address, new_key(), None, 5.0)


def test_where_the_engine_has_tls_so_have_tunnels(
    tmp_path: Any, worker: Executor, manager: Manager
) -> None:
    import ssl

    made = certificate(tmp_path)
    inside = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=made["ca"])
    inside.load_cert_chain(made["cert"], made["key"])
    outside = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=made["ca"])
    outside.load_cert_chain(made["cert"], made["key"])
    outside.check_hostname = False
    site = Site(security=inside)
    try:
        line, entrance = site.place(partial(dial, site.hub.address, site.key, outside, 5.0))
        worker.submit(go_by, entrance.tell(), 0.0).result(PATIENCE)
        queue = make_shared(manager, "Queue")
        worker.submit(queue.put, b"x" * (1 << 20)).result(PATIENCE)
        assert len(queue.get(timeout=PATIENCE)) == 1 << 20
        worker.submit(go_by, "", 0.0).result(PATIENCE)
        entrance.close()
        line.close()
    finally:
        site.close()


def certificate(directory: Any) -> dict[str, str]:
    security = pytest.importorskip("distributed").Security
    pytest.importorskip("cryptography")
    made = security.temporary()
    texts = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    for name, text in texts.items():
        (directory / name).write_text(text)
    return {name: str(directory / name) for name in texts}


# -- what stands still ----------------------------------------------------------------------------


def test_a_place_that_says_nothing_is_lost_and_one_that_beats_is_not() -> None:
    site = Site(lost_after=2.0)
    silent, silent_entrance = site.place()
    beating, beating_entrance = site.place()
    pulse = Pulse(beating, 2.0, lambda: ())
    assert comes_true(lambda: bool(site.gone), PATIENCE)
    assert site.gone == site.hosts[:1]
    assert not comes_true(lambda: len(site.gone) > 1, 2.5)
    pulse.close()
    for each in (silent_entrance, beating_entrance, silent, beating):
        each.close()
    site.close()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="cannot be seen here")  # noqa: PTH110
def test_a_process_that_stands_still_is_killed_and_no_other() -> None:
    code = [sys.executable, "-c", "import time; time.sleep(60)"]
    site = Site()
    line, entrance = site.place()
    with subprocess.Popen(code) as stopped, subprocess.Popen(code) as other:
        os.kill(stopped.pid, signal.SIGSTOP)
        assert comes_true(lambda: stands_still(stopped.pid), PATIENCE)
        pulse = Pulse(line, 0.6, lambda: (stopped.pid, other.pid, 0))
        try:
            assert stopped.wait(PATIENCE) == -signal.SIGKILL
            assert other.poll() is None
        finally:
            pulse.close()
            stopped.kill()
            other.kill()
    entrance.close()
    line.close()
    site.close()


@pytest.mark.parametrize("given", [0, -1, float("nan"), float("inf"), "soon", None])
def test_a_silence_that_makes_no_sense_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="lost_after"):
        silence_of({"lost_after": given})
