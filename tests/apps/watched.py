"""A program that may be watched: some calls of each kind, until somebody writes a line to it."""

import sys
import time

import unirun


def hold(lock: object, event: object) -> None:
    with lock:  # type: ignore[attr-defined]
        unirun.current_task().report(1, 4, "holding")
        event.wait()  # type: ignore[attr-defined]


def wait_for(event: object) -> None:
    event.wait()  # type: ignore[attr-defined]


def told(calls: list[unirun.Future[None]]) -> bool:
    """One of the two that run has the lock."""
    return any(call.progress is not None for call in calls)


def main() -> None:
    processes = unirun.Executor(2, backend="process", name="processes")
    threads = unirun.Executor(1, backend="thread", name="threads")
    lock, event, here = processes.Lock(), processes.Event(), threads.Event()
    calls = [processes.submit(hold, lock, event) for _ in range(4)]
    calls += [threads.submit(wait_for, here) for _ in range(2)]
    while not all(calls[n].running() for n in (0, 1, 4)) or not told(calls):
        time.sleep(0.01)
    print("ready", flush=True)
    sys.stdin.readline()
    event.set()
    here.set()
    print("over", flush=True)


if __name__ == "__main__":
    main()
