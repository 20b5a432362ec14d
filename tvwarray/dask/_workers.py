"""What runs on workers, and how matrices come to them."""

from __future__ import annotations

import sys
from typing import Any
from weakref import WeakKeyDictionary

import dask
import numpy as np
from dask.sizeof import sizeof

from tvwarray import _matmul
from tvwarray._matrix import TVWMatrix
from tvwarray._namespace import Array, array_namespace, device_of
from tvwarray._partition import Part, Partition, assemble
from tvwarray._storage import TVWStorage

_MOVED: WeakKeyDictionary[TVWStorage, dict[str, TVWMatrix]] = WeakKeyDictionary()
"""Matrices that a worker took to its GPU: once, whatever number of products follow."""


@sizeof.register(TVWMatrix)
def _sizeof(A: TVWMatrix) -> int:
    """Return the bytes of a matrix; workers decide by it what to keep in memory."""
    return A.nbytes


def client() -> Any:
    """Return the client of the running dask.distributed cluster, or None."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.get_client()
    except ValueError:
        return None


def placed(A: TVWMatrix, *, copies: int | bool) -> Any:
    """Return what tasks take for `A`: a task that has it, or a future of copies on the cluster.

    Copies on two workers or more outlive the loss of one, from which Dask recovers what tasks
    computed, but not what was scattered.
    """
    here = client()
    if here is None or not here.scheduler_info()["workers"]:
        return dask.delayed(A, traverse=False)
    workers = len(here.scheduler_info()["workers"])
    count = copies if copies is True else min(int(copies), workers)
    return here.scatter(A, broadcast=count, hash=False)


def multiply(A: TVWMatrix, x: Array) -> Array:
    """Return ``A @ x``, where `x` lies."""
    return _matmul.matmul(beside(A, x), x)


def layer(A: TVWMatrix, x: Array, bias: Any, activation: Any) -> Array:
    """Return ``activation(x @ A.T + bias)``, where `x` lies."""
    if bias is not None:
        bias = array_namespace(x).asarray(bias, device=device_of(x))
    return _matmul.linear(x, beside(A, x), bias, activation)


def joined(shape: tuple[int, int], dtype: Any, parts: list[Any], products: list[Array]) -> Array:
    """Put the products of parts together; `parts` are their rows, each with None for its matrix."""
    held = tuple(Part(*part) for part in parts)
    return assemble(Partition(shape, dtype, held), products, products[0])


def zeros(rows: int, x: Array, dtype: Any) -> Array:
    """Return the product of a matrix without parts."""
    return array_namespace(x).zeros((rows, *x.shape[1:]), dtype=dtype, device=device_of(x))


def beside(A: TVWMatrix, x: Array) -> TVWMatrix:
    """Return `A` in the library and on the device of `x`."""
    here, there = device_of(A.storage.data), device_of(x)
    same_library = isinstance(x, np.ndarray) == isinstance(A.storage.data, np.ndarray)
    if same_library and str(here) == str(there):
        return A
    moved = _MOVED.setdefault(A.storage, {})
    key = f"{type(x).__module__} {there}"
    if key not in moved:
        moved[key] = A.to_device("cpu" if isinstance(x, np.ndarray) else x)
    kept = moved[key]
    return kept if kept.transposed == A.transposed else kept.T
