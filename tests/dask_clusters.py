"""Clusters of Dask for tests: a scheduler and workers as processes of their own, on loopback."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 30
_MAIN = "from distributed.cli.dask_{0} import main; main()"
_QUIET = {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical"}


class Cluster:
    """Started at once; what it prints goes to a file, which is shown if it does not come up."""

    def __init__(self, *workers: str, security: tuple[str, ...] = ()) -> None:
        """`workers`: more arguments for each of them, in one string."""
        self.directory = tempfile.mkdtemp(prefix="u-dask-")
        self._log = Path(self.directory, "log").open("wb")  # noqa: SIM115  # ours until `close`
        self._file = Path(self.directory, "scheduler.json")
        self._security = security
        scheme = ["--protocol", "tls"] if security else []
        arguments = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", *scheme]
        self.scheduler = self._start("scheduler", *arguments)
        self.workers = [self.add_worker(more) for more in workers]

    def add_worker(self, more: str = "") -> "subprocess.Popen[bytes]":
        given = ["--nthreads", "1", "--no-dashboard", "--local-directory", self.directory]
        if not self._security:
            given += ["--host", "127.0.0.1"]
        return self._start("worker", *given, "--no-nanny", *more.split())

    def _start(self, what: str, *arguments: str) -> "subprocess.Popen[bytes]":
        found = ["--scheduler-file", str(self._file), *self._security, *arguments]
        return subprocess.Popen(
            [sys.executable, "-c", _MAIN.format(what), *found],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **_QUIET},
            start_new_session=True,
        )

    def add_worker_in_place_of(self, number: int) -> None:
        """Kill that worker as a machine dies, with all that it has started; add another one."""
        os.killpg(self.workers[number].pid, signal.SIGKILL)
        self.workers[number].wait()
        self.workers.append(self.add_worker())

    @property
    def address(self) -> str:
        """Of the scheduler; waits until it is there."""
        import json
        import time

        end = time.monotonic() + PATIENCE
        while not (self._file.exists() and self._file.stat().st_size):
            assert time.monotonic() < end, Path(self.directory, "log").read_text()
            assert self.scheduler.poll() is None, Path(self.directory, "log").read_text()
            time.sleep(0.02)
        return str(json.loads(self._file.read_text())["address"])

    @property
    def name(self) -> str:
        """Of the backend."""
        return "dask:" + self.address.removeprefix("tcp:") if not self._security else self.address

    def close(self) -> None:
        import shutil

        for process in [*self.workers, self.scheduler]:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        self._log.close()
        shutil.rmtree(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
