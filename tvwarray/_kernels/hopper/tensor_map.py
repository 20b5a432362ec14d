"""Tensor maps: what a matrix is to Hopper's copy engine, made by the driver from sizes and strides.

A map names an array, the box that one copy moves, and how the box lies in shared memory. It is 128
bytes that only the driver knows to read, and that a kernel takes as a parameter by value.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

from tvwarray._errors import BackendError
from tvwarray._kernels.hopper.config import STEP_SLOTS
from tvwarray._namespace import Array

BOX_COLUMNS: Final = 64
"""Columns of a box: what the 128-byte swizzle has of 16-bit elements."""

MAP_BYTES: Final = 128
_ALIGNMENT: Final = 64
_TYPE: Final = 6, 9  # CU_TENSOR_MAP_DATA_TYPE_FLOAT16, _BFLOAT16
_SWIZZLE_128B: Final = 3
_L2_PROMOTION_256B: Final = 3


class Boxed(NamedTuple):
    """An argument that a kernel reads by boxes of 64 rows x 64 columns, in the 128-byte swizzle."""

    array: Array
    """16-bit elements, (rows, columns), rows contiguous and 16-byte aligned."""
    pitch: int
    """Bytes from one row to the next, a multiple of 16."""
    bfloat16: bool
    """Elements are bfloat16, else float16."""


def tensor_map(boxed: Boxed, address: int) -> Any:
    """Return the map as the driver makes it, 128 bytes.

    Parameters
    ----------
    boxed : Boxed
    address : int
        Where its first element lies on the device.

    Raises
    ------
    BackendError
        If there is no driver that knows tensor maps, or it refuses these sizes.

    References
    ----------
    .. [1] CUDA Driver API, "Tensor Map Object Management: cuTensorMapEncodeTiled".
    """
    rows, columns = boxed.array.shape
    raw = ctypes.create_string_buffer(MAP_BYTES + _ALIGNMENT)
    start = -ctypes.addressof(raw) % _ALIGNMENT
    status = _encode()(
        ctypes.addressof(raw) + start, _TYPE[boxed.bfloat16], 2, address,
        (ctypes.c_uint64 * 2)(columns, rows), (ctypes.c_uint64 * 1)(boxed.pitch),
        (ctypes.c_uint32 * 2)(BOX_COLUMNS, STEP_SLOTS), (ctypes.c_uint32 * 2)(1, 1),
        0, _SWIZZLE_128B, _L2_PROMOTION_256B, 0,
    )  # fmt: skip
    if status:
        raise BackendError(
            f"the driver refuses a tensor map of {rows} x {columns} elements, rows {boxed.pitch} "
            f"bytes apart at {address:#x}: CUDA error {status}."
        )
    return np.frombuffer(raw.raw, np.uint8, MAP_BYTES, start)


@cache
def _encode() -> Any:
    """Return the driver's function."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        function = driver.cuTensorMapEncodeTiled
    except (OSError, AttributeError) as e:
        raise BackendError(f"tensor maps need a CUDA driver from 12.0 on: {e}.") from e
    pointer, word = ctypes.c_void_p, ctypes.c_uint32
    function.argtypes = [pointer, word, word, pointer, *[pointer] * 4, *[word] * 4]
    return function
