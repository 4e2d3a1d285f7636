"""A web service that stops computing when nobody waits for the answer any more.

    pip install unirun-executor fastapi uvicorn
    uvicorn fastapi_app:app
    curl 'localhost:8000/primes?below=100'            # answers
    curl 'localhost:8000/primes?below=1000000000'     # press Ctrl-C: the work ends at once
    curl 'localhost:8000/stats'

A request whose client goes away is of no use to anybody, but frameworks run it to its end, and a
thread cannot be stopped at all.  Here each computation is a call in a process of its own: `answer`
awaits it and listens to the client at the same time, and who goes away takes the call with him.
So does a computation that takes longer than a request may.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response

import unirun

SECONDS = 30.0
"""What a request may take."""


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with unirun.Executor(2, kind="isolated", name="web", grace=0.5) as executor:
        app.state.executor = executor
        yield


app = FastAPI(lifespan=lifespan)


def count_primes(below: int) -> int:
    """Not the fastest way, which is the point of it."""
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, below))


@app.get("/primes")
async def primes(request: Request, below: int) -> Response:
    return await answer(request, count_primes, below)


@app.get("/stats")
async def stats(request: Request) -> dict[str, Any]:
    found = request.app.state.executor.stats().get("process")
    names = ("running", "pending", "finished", "killed", "timed_out")
    return {name: getattr(found, name, 0) for name in names}


async def answer(request: Request, fn: Any, *args: Any) -> Response:
    """The result of `fn(*args)` as a response, unless the client goes away first."""
    executor = request.app.state.executor
    call = asyncio.ensure_future(waited_for(executor.options(timeout=SECONDS).submit(fn, *args)))
    gone = asyncio.ensure_future(left(request))
    try:
        await asyncio.wait((call, gone), return_when=asyncio.FIRST_COMPLETED)
        if not call.done():
            return Response(status_code=499)  # nobody reads it
        return Response(str(call.result()), media_type="text/plain")
    except unirun.TaskTimeout as exc:
        raise HTTPException(503, f"this takes longer than {SECONDS:g} s") from exc
    finally:
        for task in (call, gone):
            task.cancel()  # a call that is awaited is killed by that
        await asyncio.gather(call, gone, return_exceptions=True)


async def waited_for(future: Any) -> Any:
    return await future


async def left(request: Request) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        continue
