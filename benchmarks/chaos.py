"""Calls that are run again while somebody kills a worker every 75 ms; then the accounts.

A call says when it begins and when it is done, in a log on disk.  It may begin again only where
the worker it had begun in was killed.
"""

import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

import unirun
from benchmarks._faults import note_and_nap
from benchmarks._workload import Figures, Row, Sizes, Workload

PATIENCE = 60.0
"""Seconds without the end of any call, after which those that are left are said to hang."""
ATTEMPTS = 30


class Killer:
    """Kills a worker, any of them, again and again until it is told to stop."""

    def __init__(self, executor: unirun.Executor, pause: float, seed: int) -> None:
        self.killed: set[int] = set()
        self._executor = executor
        self._pause = pause
        self._chance = random.Random(seed)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._pause):
            pids = sorted(set(self._executor.stats()["process"].pids) - self.killed)
            if pids:
                victim = self._chance.choice(pids)
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(victim, signal.SIGKILL)
                    self.killed.add(victim)


def chaos(contender: str, sizes: Sizes) -> Figures:
    calm = _run(sizes, pause=None)
    rough = _run(sizes, pause=sizes["pause_ms"] / 1000)
    return {**rough, "time, of calm": rough["time, of calm"] / calm["time, of calm"]}


def _run(sizes: Sizes, pause: float | None) -> Figures:
    with tempfile.TemporaryDirectory() as place:
        log = Path(place, "log")
        log.touch()
        with unirun.Executor(2, backend="process", grace=0) as executor:
            executor.submit(os.getpid).result()
            begun = time.perf_counter()
            if pause is None:
                counts = _submit_and_count(executor, sizes, log)
                killed: set[int] = set()
            else:
                with Killer(executor, pause, seed=1) as killer:
                    counts = _submit_and_count(executor, sizes, log)
                killed = killer.killed
            took = time.perf_counter() - begun
        doubled = begun_without_need(log.read_text().splitlines(), killed)
    wanted = sizes["deaths"] if pause is not None else 0
    return {
        **counts,
        "doubled": len(doubled) + counts["doubled"],
        "deaths short of 300": max(0.0, wanted - len(killed)),
        "time, of calm": took,
    }


def _submit_and_count(executor: unirun.Executor, sizes: Sizes, log: Path) -> Figures:
    view = executor.options(retries=unirun.Retry(0, crashes=ATTEMPTS, quarantine=None))
    ends: Counter[int] = Counter()
    nap = sizes["nap_us"] / 1e6
    futures = [view.submit(note_and_nap, n, nap, str(log)) for n in range(sizes["calls"])]
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: ends.update([number]))
    lost = hung = 0
    for number, future in enumerate(futures):
        try:
            lost += future.result(PATIENCE) != number
        except TimeoutError:
            hung += 1
            break  # nothing has ended for so long; the rest is counted with it
        except Exception:  # noqa: BLE001 - whatever it is, there is no result
            lost += 1
    hung += sum(not future.done() for future in futures[number + 1 :])
    return {"lost": lost, "hung": hung, "doubled": sum(count > 1 for count in ends.values())}


def begun_without_need(lines: Iterable[str], killed: set[int]) -> list[int]:
    """The calls that began again though no worker they had begun in was killed; pure.

    A line is `NUMBER PID`.
    """
    begun: defaultdict[int, list[int]] = defaultdict(list)
    for line in lines:
        number, pid = map(int, line.split())
        begun[number].append(pid)
    return [number for number, pids in begun.items() if not killed.issuperset(pids[:-1])]


WORKLOADS = (
    Workload(
        "chaos",
        "20k calls with retries, while a worker is killed every 75 ms, beside no kills",
        "",
        chaos,
        (
            *(Row(name, "unirun", None, at_most=0) for name in ("lost", "doubled", "hung")),
            Row("deaths short of 300", "unirun", None, at_most=0),
            Row("time, of calm", "unirun", None, at_most=2),
        ),
        sizes={"calls": 20_000, "nap_us": 2500, "pause_ms": 75, "deaths": 300},
        quick={"calls": 400, "nap_us": 2500, "pause_ms": 75, "deaths": 3},
    ),
)
