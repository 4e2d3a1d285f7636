"""A program that can be asked what it is doing: its main thread waits, or holds the interpreter.

dumped.py waits|computes
"""

import sys
import time

import unirun


def sleep_in_a_worker(seconds: float) -> None:
    time.sleep(seconds)


def compute_in_c() -> None:
    """Without giving the interpreter's lock to anybody."""
    sum(range(10**15))


def main() -> None:
    executor = unirun.Executor(1, backend="process", name="the one")
    future = executor.options(name="long sleep").submit(sleep_in_a_worker, 1000)
    while not future.running():
        time.sleep(0.01)
    print("ready", flush=True)
    if sys.argv[1] == "computes":
        compute_in_c()
    future.result()


if __name__ == "__main__":
    main()
