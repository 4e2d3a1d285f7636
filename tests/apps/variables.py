"""A script with a context variable of its own; prints what a call in a worker process sees."""

from contextvars import ContextVar

import unirun

user: ContextVar[str] = ContextVar("user", default="nobody")


def whose() -> str:
    """Of the script that calls it."""
    return user.get()


def whose_below() -> str:
    """The same, of a call of a call."""
    return unirun.submit(whose).result()


if __name__ == "__main__":
    with unirun.Executor(1, backend="process") as executor:
        token = user.set("ann")
        print(executor.submit(whose).result(), executor.submit(whose_below).result())
        user.reset(token)
        print(executor.submit(whose).result())
