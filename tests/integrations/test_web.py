"""The FastAPI example under a real server: who goes away takes the work with him."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from integrations.waiting import eventually

pytest.importorskip("fastapi", reason="FastAPI is not installed: make test-integrations")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: make test-integrations")

pytestmark = pytest.mark.integrations
EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 30.0
ENDLESS = 10**12


class Server:
    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as got:
            return bytes(got.read())

    def stats(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self.get("/stats"))
        return found

    def ask(self, path: str) -> socket.socket:
        """A client that has asked and not read yet."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        client.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        return client

    def busy(self) -> list[psutil.Process]:
        """Its worker processes that have computed for a while."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [each for each in below if each.cpu_times().user > 0.3]


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """In a process of its own, on a port that it was given as an open socket."""
    seconds = getattr(request, "param", None)
    program = "import fastapi_app as a, sys, uvicorn\n"
    program += f"a.SECONDS = {seconds or PATIENCE}\n"
    program += "uvicorn.run(a.app, fd=int(sys.argv[1]), log_level='warning')\n"
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        fd = listening.fileno()
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(fd)],
            pass_fds=[fd],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
        )
        try:
            server = Server(process, listening.getsockname()[1])
            assert server.stats()["running"] == 0  # once it answers
            yield server
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()
            process.wait()


def test_a_request_is_answered(server: Server) -> None:
    assert server.get("/primes?below=100") == b"25"


def test_a_client_that_goes_away_takes_the_work_with_it(server: Server) -> None:
    client = server.ask(f"/primes?below={ENDLESS}")
    [worker] = eventually(server.busy, PATIENCE)

    client.close()

    eventually(lambda: not worker.is_running(), PATIENCE)
    assert eventually(lambda: server.stats()["killed"], PATIENCE) == 1
    assert server.stats()["running"] == 0
    assert server.get("/primes?below=100") == b"25"


def test_one_that_stays_is_not_disturbed_by_one_that_goes(server: Server) -> None:
    goes, stays = (server.ask(f"/primes?below={n}") for n in (ENDLESS, 200_000))
    eventually(lambda: server.stats()["running"] == 2, PATIENCE)
    goes.close()

    with stays:
        answer = b"".join(iter(lambda: stays.recv(10_000), b""))

    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"17984")


@pytest.mark.parametrize("server", [1.0], indirect=True)
def test_a_request_that_takes_too_long_is_refused(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.get(f"/primes?below={ENDLESS}")
    with caught.value as error:
        assert error.code == 503
        assert b"longer than 1 s" in error.read()

    assert server.busy() == []
