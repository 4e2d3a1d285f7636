"""Dask: calls on a cluster of `dask.distributed`, or on one made for the occasion."""
