"""Transposed copies, by the kernel ``transpose``: for operands and results in column-major order.

The products' kernels read and write contiguous rows. Activations as frameworks hold them, and
results of ``x @ A.T``, are the transposes of that; array libraries copy those at a fraction of the
memory's rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np

from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.launch import Launcher, Result
from tvwarray._namespace import Array, array_namespace, device_of

COLUMNS: Final = 128
"""Columns that a block turns; of rows as many as make 16 KiB."""

_compiled: Final = cache(compile_kernel)


@dataclass(frozen=True)
class TransposeConfig:
    """The constants of the kernel."""

    element_bytes: int
    threads: int = 256
    kernel: str = "transpose"

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return COLUMNS * COLUMNS

    @property
    def tile(self) -> int:
        """Rows that a block turns."""
        return COLUMNS // self.element_bytes

    def refusal(self) -> str:
        """Return which rule of the kernel this config breaks, or an empty string."""
        if self.element_bytes not in (1, 2, 4, 8):
            return f"elements are 1, 2, 4 or 8 bytes, not {self.element_bytes}"
        return ""

    def target(self, architecture: str) -> str:
        """Return what to compile for, on a device of `architecture`."""
        return architecture

    def headers(self) -> dict[str, str]:
        """Return the text of ``config.cuh``, by name."""
        names = ("element_bytes", "threads")
        lines = [f"constexpr int {name} = {getattr(self, name)};" for name in names]
        return {"config.cuh": "\n".join(["#pragma once", "namespace config {", *lines, "}", ""])}


def is_column_major(x: Array) -> bool:
    """Say whether columns of the matrices in `x` are contiguous, and rows are not."""
    rows, n = x.shape[-2:]
    return bool(rows > 1 and n > 1 and x.strides[-2] == x.dtype.itemsize != x.strides[-1])


def rows_of(launcher: Launcher, x: Array, width: int) -> Array:
    """Return a column-major `x` (..., cols, n) in rows of `width`, zeros behind the first n.

    Parameters
    ----------
    launcher : Launcher
    x : array, shape (cols, n) or (batch, cols, n), of elements of 1, 2, 4 or 8 bytes
    width : int
        At least n.

    Returns
    -------
    array, shape (cols, width) or (batch, cols, width)
    """
    xp = array_namespace(x)
    copy = xp.empty((*x.shape[:-1], width), dtype=x.dtype, device=device_of(x))
    turned_to(launcher, x, copy)
    return copy


def turned_to(launcher: Launcher, x: Array, rows: Array) -> None:
    """Write a column-major `x` (..., cols, n) to `rows` (..., cols, width), of `x`'s dtype."""
    _launch(launcher, array_namespace(x).swapaxes(x, -1, -2), rows)


def copy_to(launcher: Launcher, x: Array, out: Array) -> None:
    """Copy `x` to `out`, of one shape and dtype, which may be column-major."""
    size = out.dtype.itemsize
    if is_column_major(out) and x.dtype == out.dtype and size in (1, 2, 4, 8):
        _launch(launcher, x, array_namespace(x).swapaxes(out, -1, -2))
    else:
        out[...] = x


def _launch(launcher: Launcher, x: Array, y: Array) -> None:
    """Write the transposes of `x` (..., rows, cols) to `y` (..., cols, width), and zeros."""
    (rows, cols), size = x.shape[-2:], x.dtype.itemsize
    width, batch = int(y.shape[-1]), int(x.shape[0]) if x.ndim > 2 else 1
    if 0 in y.shape:
        return
    config = TransposeConfig(size)
    row_blocks, column_blocks = -(-width // config.tile), -(-int(cols) // COLUMNS)
    args = (
        x, *_strides(x), _batch(x), Result(y), np.int64(y.strides[-2] // size), _batch(y),
        int(rows), int(cols), width, row_blocks, column_blocks,
    )  # fmt: skip
    kernel = _compiled(config, launcher.device(x).architecture)
    launcher.launch(kernel, batch * row_blocks * column_blocks, args, x)


def _strides(x: Array) -> tuple[Any, Any]:
    return tuple(np.int64(s // x.dtype.itemsize) for s in x.strides[-2:])


def _batch(x: Array) -> Any:
    return np.int64(x.strides[0] // x.dtype.itemsize if x.ndim > 2 else 0)
