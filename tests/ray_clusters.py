"""Clusters of Ray for tests: a head and more nodes as processes of their own, on loopback."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

import pytest

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # nothing listens beyond loopback
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
"""What a driver of these clusters needs in its environment, too."""

MARK = "TESTS_OF_UNIRUN"
"""By this tests/conftest.py knows what a test has left behind."""

_PROGRAM = """
import os, sys, json
if os.fork():
    os._exit(0)  # workers of a cluster come and go, which is no business of the tests' own
import psutil
from ray.cluster_utils import Cluster

same = dict(num_cpus=1, object_store_memory=80 << 20, node_ip_address="127.0.0.1")
answers = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
heads = dict(include_dashboard=False, **json.loads(sys.argv[1]))
cluster = Cluster(initialize_head=True, head_node_args={**same, **heads})
nodes = {}

def processes(node, *names):
    found = node.all_processes
    return [info.process.pid for name in names or found for info in found[name]]

def kill(pids):
    for process in [psutil.Process(pid) for pid in pids]:
        for each in [*process.children(recursive=True), process]:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                pass

print(json.dumps(cluster.address), file=answers, flush=True)
for line in sys.stdin:
    what, name, more = json.loads(line)
    if what == "add":
        nodes[name] = cluster.add_node(**{**same, **more})
    elif what == "lose":
        kill(processes(nodes.pop(name)))
    elif what == "behead":
        kill(processes(cluster.head_node, "gcs_server"))
    print(json.dumps(what), file=answers, flush=True)
kill([child.pid for child in psutil.Process().children()])
"""


class Cluster:
    """A head of one slot; started at once, with all that a driver needs to find it."""

    def __init__(self, **head: object) -> None:
        """`head`: more for `ray start --head`, as `resources=`."""
        self.directory = tempfile.mkdtemp(prefix="u-ray-", dir="/tmp")
        self._log = open(f"{self.directory}/log", "wb")  # noqa: PTH123, SIM115  # ours until `close`
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(head)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **ENVIRONMENT, "RAY_TMPDIR": self.directory, MARK: "a cluster"},
            start_new_session=True,
        )
        try:
            self.address = str(self._answer())
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """Of the backend."""
        return f"ray:{self.address}"

    def add(self, name: str, **more: object) -> None:
        """One more node, of one slot."""
        self._say("add", name, more)

    def lose(self, name: str) -> None:
        """Kill a node as a machine dies, with all that it has started."""
        self._say("lose", name)

    def behead(self) -> None:
        """Kill what all nodes and drivers depend on."""
        self._say("behead")

    def _say(self, *what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([*what, None, None][:3]).encode() + b"\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> object:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        with open(self._log.name, "rb") as log:  # noqa: PTH123
            assert line, log.read().decode(errors="replace")
        return json.loads(line)

    def close(self) -> None:
        """Returns once nothing of it runs any more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.read()
        self._process.stdout.close()
        self._process.wait()
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


_shared: list[tuple[Cluster, ExitStack]] = []
_users = [0]


@contextmanager
def shared_cluster() -> Iterator[Cluster]:
    """One of two nodes for all tests of a process, with the environment that it needs."""
    _users[0] += 1
    if not _shared:
        stack = ExitStack()
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        cluster = stack.enter_context(Cluster(num_gpus=1))
        cluster.add("tagged", resources={"tag": 1})
        _shared.append((cluster, stack))
    try:
        yield _shared[0][0]
    finally:
        _users[0] -= 1
        if not _users[0]:
            _shared.pop()[1].close()
