"""Every workload, by name and in groups, in the order of the table."""

from benchmarks import calls, jobs, lifecycle, payloads, shared, threads

GROUPS = {
    "calls": calls.WORKLOADS,
    "payloads": payloads.WORKLOADS,
    "lifecycle": lifecycle.WORKLOADS,
    "threads": threads.WORKLOADS,
    "jobs": jobs.WORKLOADS,
    "shared": shared.WORKLOADS,
}
WORKLOADS = tuple(workload for group in GROUPS.values() for workload in group)
BY_NAME = {workload.name: workload for workload in WORKLOADS}
