"""A server and its client start together: the Barrier example of threading's documentation.

    server ── opens its socket ──▶ ┌─────────┐ ──▶ answers
    client ──────────────────────▶ │ Barrier │ ──▶ connects: there is somebody to connect to
                                   └─────────┘
The two are tasks.  Run it with UNIRUN_BACKEND=inline, thread or process: not a line changes.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import unirun

WORDS = ("barrier", "server", "client")


@unirun.task(kind="io")
def server(barrier: Any, address: Any, clients: int) -> int:
    """Answer so many clients; returns how many words that were."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        address.put(listener.getsockname())
        barrier.wait()
        return sum(answer(listener) for _ in range(clients))


def answer(listener: socket.socket) -> int:
    connection, _ = listener.accept()
    number = 0
    with connection, connection.makefile() as lines:
        for line in lines:
            connection.sendall(line.upper().encode())
            number += 1
    return number


@unirun.task(kind="cpu")
def client(barrier: Any, address: Any, words: tuple[str, ...]) -> list[str]:
    """What the server makes of these words."""
    barrier.wait()
    with socket.create_connection(address.get(timeout=10), timeout=10) as connection:
        for word in words:
            connection.sendall(f"{word}\n".encode())
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile().read().split()


def main() -> int:
    with unirun.Executor(max_workers=2) as executor:
        barrier = executor.Barrier(2, timeout=10)  # broken if one of them does not come or dies
        address = executor.Queue(1)
        served = executor.submit(server, barrier, address, 1)
        answers = executor.submit(client, barrier, address, WORDS)
        print("the client was told", *answers.result())
        print("the server has answered", served.result(), "times")
    return 0


if __name__ == "__main__":
    sys.exit(main())
