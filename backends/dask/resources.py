"""What the workers of a Dask cluster offer, in our words, and what they are asked for, in theirs.

    identity of the scheduler ──offers──▶ [{"name", "slots", "resources"}]
    {"gpu": 1, "memory": 2e9} ──ask──▶ keywords of `Client.submit`

1. A resource is what a worker was started with (`dask worker --resources "GPU=2"`). "cpu", "gpu"
   and "memory" are found in any case; other names are tags, taken as they are.
2. Where nobody says "memory", each slot has its share of what its worker may take: a call that
   needs more than that is not sent there, and Dask has nothing to count.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ask", "offers"]

_OURS = ("cpu", "gpu", "memory")


def offers(identity: dict[str, Any]) -> list[dict[str, Any]]:
    """The workers that run, by what the scheduler says."""
    workers = [
        {
            "name": address,
            "slots": int(worker["nthreads"]),
            "resources": {_ours(name): float(n) for name, n in _resources(worker).items()},
            "theirs": {_ours(name): name for name in _resources(worker)},
            "limit": float(worker.get("memory_limit") or 0),
        }
        for address, worker in identity["workers"].items()
        if worker.get("status", "running") in ("running", "init")
    ]
    counted = any("memory" in worker["resources"] for worker in workers)
    for worker in workers:
        limit = worker.pop("limit")
        if not counted and limit:
            worker["resources"]["memory"] = limit // max(1, worker["slots"])
    return workers


def ask(needs: dict[str, float], workers: list[dict[str, Any]]) -> dict[str, Any]:
    """The keywords by which Dask finds a worker that has these."""
    theirs: dict[str, str] = {}
    for worker in workers:
        theirs |= worker["theirs"]
    keywords: dict[str, Any] = {}
    counted = dict(needs)
    if "memory" in needs and "memory" not in theirs:
        fit = [each for each in workers if each["resources"].get("memory", 0) >= needs["memory"]]
        if fit:  # else let it wait for one that says so: no list would mean any worker
            keywords["workers"] = [worker["name"] for worker in fit]
            del counted["memory"]
    if counted:
        keywords["resources"] = {theirs.get(name, name): n for name, n in counted.items()}
    return keywords


def _resources(worker: dict[str, Any]) -> dict[str, Any]:
    return worker.get("resources") or {}


def _ours(name: str) -> str:
    return name.lower() if name.lower() in _OURS else name
