"""Arrays in and out of a storage: its components, and the dense matrix as the caller wants it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._frameworks import native
from tvwarray._namespace import Array, array_namespace, is_array
from tvwarray._storage import ARRAY_FIELDS, REMAINDER_FIELDS, TVWStorage, Vector


def to_components(storage: TVWStorage) -> dict[str, Any]:
    """Return the fields of `storage`, the arrays copied."""
    arrays = {name: getattr(storage, name) for name in ARRAY_FIELDS}
    return {
        "shape": storage.shape,
        "tile_rows": storage.tile_rows,
        "vector": storage.vector,
        **{
            name: x if x is None else _aligned_copy(x)
            for name, x in arrays.items()
            if x is not None or name == "meta"
        },
    }


def from_components(
    shape: tuple[int, int], tile_rows: int, vector: Vector, arrays: dict[str, Array]
) -> TVWStorage:
    """Assemble and check a storage.

    Raises
    ------
    FormatError
        If an array is missing, unknown or no array, or breaks a rule of the format.
    """
    unknown = sorted(set(arrays) - set(ARRAY_FIELDS))
    arrays = {name: native(x) for name, x in arrays.items()}
    given = {"meta": None, **dict.fromkeys(REMAINDER_FIELDS), **arrays}
    missing = [name for name in ARRAY_FIELDS if name not in given]
    if unknown or missing:
        what = f"unknown: {', '.join(unknown)}" if unknown else f"missing: {', '.join(missing)}"
        raise FormatError(f"components are {', '.join(ARRAY_FIELDS)}; {what}.")
    for name, x in given.items():
        optional = name in ("meta", *REMAINDER_FIELDS)
        if not (is_array(x) or (optional and x is None)):
            raise FormatError(f"{name} is a {type(x).__name__}; it must be an array.")
    storage = TVWStorage(shape=shape, tile_rows=tile_rows, vector=vector, **given)
    storage.check()
    return storage


def untransposed(storage: TVWStorage, transposed: bool, what: str) -> TVWStorage:
    """Return `storage`, or say that `what` needs the matrix as it is stored.

    Raises
    ------
    FormatError
        If the matrix is transposed.
    """
    if transposed:
        raise FormatError(f"{what} takes the matrix as it is stored; call it on A.T.")
    return storage


def deliver(dense: Array, order: str | None, out: Array | None) -> Array:
    """Return `dense` in the memory order asked for, or written to `out`.

    Raises
    ------
    ValueError
        If both are given, or `out` has another shape or dtype.
    """
    if out is None:
        return _own(dense) if order is None else _ordered(dense, order)
    if order is not None:
        raise ValueError("order cannot be given with out, which has its own.")
    if tuple(out.shape) != tuple(dense.shape) or out.dtype != dense.dtype:
        raise ValueError(
            f"out is {out.dtype} of shape {tuple(out.shape)}; the matrix is {dense.dtype} of shape "
            f"{tuple(dense.shape)}."
        )
    out[...] = dense
    return out


def _own(dense: Array) -> Array:
    """Return an array the caller may write to: no view of the storage, and no wider than it is."""
    if isinstance(dense, np.ndarray) and not (dense.flags.forc and dense.flags.writeable):
        return dense.copy()
    return dense


def _ordered(dense: Array, order: str) -> Array:
    if order not in ("C", "F"):
        raise ValueError(f'order is {order!r}; it is "C" or "F".')
    return dense.copy(order=order) if hasattr(dense, "flags") else dense


def _aligned_copy(x: Array) -> Array:
    """Copy `x`, a NumPy array to a 64-byte boundary: frameworks take it from there as it is."""
    if not isinstance(x, np.ndarray):
        return array_namespace(x).asarray(x, copy=True)
    room = np.empty(x.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + x.nbytes].view(x.dtype)
    copy[...] = x
    return copy
