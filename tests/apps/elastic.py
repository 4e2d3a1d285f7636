"""A run during which the workers of a Dask cluster come and go; prints what became of the calls.

elastic.py DIRECTORY    each call leaves a line in DIRECTORY/ran before it does anything
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import distributed

from unirun import Executor, ResultLost, wait

CALLS = 120


def work(number: int, path: str) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{number}\n".encode())
    os.close(descriptor)
    time.sleep(0.1)
    return number


def reached(futures: list[Any], count: int) -> None:
    end = time.monotonic() + 60
    while sum(future.done() for future in futures) < count:
        assert time.monotonic() < end, "calls do not go on"
        time.sleep(0.01)


def main(directory: Path) -> None:
    path = str(directory / "ran")
    cluster: Any = distributed.LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
        local_directory=str(directory),
    )
    name = "dask:" + cluster.scheduler_address.removeprefix("tcp:")
    with cluster, distributed.Client(cluster) as client, Executor(backend=name) as executor:
        futures = [executor.submit(work, number, path) for number in range(CALLS)]
        reached(futures, 5)
        cluster.scale(3)
        client.wait_for_workers(3, 60)
        reached(futures, 20)
        for pid in client.run(os.getpid).values():
            os.kill(pid, signal.SIGKILL)  # all there are; their nannies start others
        reached(futures, 50)
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        client.retire_workers(workers[:1])
        reached(futures, 80)
        cluster.scale(1)
        wait(futures, 60)
        ends = Counter(type(future.exception(0)).__name__ for future in futures)
        wrong = [n for n, f in enumerate(futures) if f.exception(0) is None and f.result(0) != n]
        lost = sum(isinstance(future.exception(0), ResultLost) for future in futures)
    ran = Counter(map(int, Path(path).read_text().split()))
    print(json.dumps({"ends": ends, "wrong": wrong, "lost": lost, "most": max(ran.values())}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
