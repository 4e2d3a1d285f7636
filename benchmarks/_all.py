"""Every workload, by name and in groups, in the order of the table."""

from benchmarks import (
    auto,
    awaits,
    calls,
    carrying,
    chaos,
    clusters,
    engines,
    jobs,
    leaks,
    lifecycle,
    payloads,
    recovery,
    relaying,
    reliability,
    scale,
    shared,
    showing,
    storm,
    threads,
    tracing,
    watching,
)

GROUPS = {
    "calls": calls.WORKLOADS,
    "payloads": payloads.WORKLOADS,
    "lifecycle": lifecycle.WORKLOADS,
    "recovery": recovery.WORKLOADS,
    "threads": threads.WORKLOADS,
    "awaits": awaits.WORKLOADS,
    "jobs": jobs.WORKLOADS,
    "scale": scale.WORKLOADS,
    "engines": engines.WORKLOADS,
    "shared": shared.WORKLOADS,
    "auto": auto.WORKLOADS,
    "relay": relaying.WORKLOADS,
    "travel": carrying.WORKLOADS,
    "trace": tracing.WORKLOADS,
    "events": watching.WORKLOADS,
    "showing": showing.WORKLOADS,
    "clusters": clusters.WORKLOADS,
    "reliability": (
        *reliability.WORKLOADS,
        *chaos.WORKLOADS,
        *storm.WORKLOADS,
        *leaks.WORKLOADS,
    ),
}
WORKLOADS = tuple(workload for group in GROUPS.values() for workload in group)
ONLY_WHEN_ASKED = (*GROUPS["clusters"], *GROUPS["reliability"])
BESIDE_PEERS = tuple(each for each in WORKLOADS if each not in ONLY_WHEN_ASKED)
BY_NAME = {workload.name: workload for workload in WORKLOADS}
