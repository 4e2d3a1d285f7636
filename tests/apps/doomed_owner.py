"""Owns shared objects, and starts processes by multiprocessing that wait for each; to be killed.

    python tests/apps/doomed_owner.py ADDRESS PLACE

The processes outlive it.  Each says by a connection to ADDRESS when it is about to wait, and then
what came of its waits.  This prints the numbers of its processes, and then waits to be killed.
"""

import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from places import wait_for_all, waiting_objects

from unirun import Executor

METHODS = ("fork", "spawn", "forkserver")


def outlive(address: str, objects: dict[str, Any]) -> None:
    with Client(address) as listener:
        listener.send(os.getpid())
        listener.send(wait_for_all(objects, lambda: listener.send("all are about to wait")))


def main() -> None:
    address, place = sys.argv[1:]
    executor = Executor(1, backend="process", manager=place)
    executor.submit(os.getpid).result()
    objects = waiting_objects(executor)
    for method in METHODS:
        context: Any = multiprocessing.get_context(method)
        context.Process(target=outlive, args=(address, objects)).start()
    signal.pause()


if __name__ == "__main__":
    main()
