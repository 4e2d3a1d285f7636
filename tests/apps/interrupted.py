"""A program that is interrupted again and again while it waits for calls.

Its arguments: how the signal is handled, and how often it comes.  Exit status 0 if every signal was
handled once, every call has ended, and the executor still works.
"""

import os
import random
import signal
import sys
import threading
from typing import Any

import unirun

PATIENCE = 20.0
SIGNALS = {"alarm": signal.SIGALRM, "term": signal.SIGTERM}


class Stop(Exception):
    """What a handler of the program raises."""


def double(x: int) -> int:
    return 2 * x


class Storm:
    """Sends the signal when the one before has been noticed, after a random while."""

    def __init__(self, number: int, times: int) -> None:
        self.number = number
        self.times = times
        self.noticed = threading.Semaphore(0)
        self.may_begin = threading.Event()
        self.main = threading.get_ident()
        self.thread = threading.Thread(target=self._blow, daemon=True)

    def _blow(self) -> None:
        chance = random.Random(1)
        self.may_begin.wait()
        for count in range(self.times):
            for _ in range(int(chance.expovariate(1 / 3000))):
                pass
            if count % 2:
                os.kill(os.getpid(), self.number)
            else:
                signal.pthread_kill(self.main, self.number)
            if not self.noticed.acquire(timeout=PATIENCE):
                print(f"signal {count} was lost", flush=True)
                os._exit(3)


def main(how: str, times: int) -> None:
    seen = []

    def handle(number: int, frame: Any) -> None:
        assert frame is not None
        if how.endswith("raises"):
            raise Stop
        seen.append(number)
        storm.noticed.release()

    number = SIGNALS.get(how.partition("-")[0], signal.SIGINT)
    if how != "default":
        signal.signal(number, handle)
    storm = Storm(number, times)
    futures, caught = [], 0
    with unirun.Executor(2, backend="process") as executor:
        assert executor.submit(double, 1).result() == 2
        storm.thread.start()
        # Not by `is_alive()`: Python up to 3.12 takes a thread for ended when Ctrl-C hits that.
        while caught + len(seen) < times:
            try:
                storm.may_begin.set()
                while caught + len(seen) < times:
                    futures.append(executor.submit(double, len(futures)))
                    futures[-1].result()
            except (KeyboardInterrupt, Stop):
                caught += 1
                storm.noticed.release()
        for value, future in enumerate(futures):
            assert future.result(PATIENCE) == 2 * value
        assert [f.result(PATIENCE) for f in [executor.submit(double, n) for n in range(50)]]
    assert caught + len(seen) == times, (caught, len(seen))
    assert bool(seen) == how.endswith("returns")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
