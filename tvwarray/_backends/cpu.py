"""The compiled engine on host arrays: 2:4 and dropped columns are skipped, on every core.

=================  ====================================  ==========
values of A        values of X                           summed in
=================  ====================================  ==========
float32, float16,  float32, float16, bfloat16            float32
bfloat16
float64            float64                               float64
int8, uint8        the same                              int32
=================  ====================================  ==========

``A.T @ Y`` runs on an order of its own, and a CSR remainder is added before a result is rounded.
NaN and infinity of X spread exactly as with CSR. Which kernel runs depends on the types, on the
number of right-hand sides and on whether X is finite; bfloat16 by AMX takes subnormals as zero.
See ``docs/cpu.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, get_args

import numpy as np

from tvwarray._dtypes import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    DType,
    Precision,
    accumulate_dtype,
    product_dtype,
)
from tvwarray._epilogue import IDENTITY, Epilogue, finish, without
from tvwarray._kernels.cpu.threads import engine
from tvwarray._namespace import Array, dtype_of
from tvwarray._native import why_not_native
from tvwarray._storage import HostArray, TVWStorage

_FLOAT32_SUMS: Final = frozenset({FLOAT32, FLOAT16, BFLOAT16})
_ALONE: Final = frozenset(map(np.dtype, ("float64", "int8", "uint8")))
"""Types of A that multiply their own type only."""

_ALL: Final = _FLOAT32_SUMS | _ALONE

_MOST_COLUMNS: Final = 2**31 - 1

_MOST_ROWS: Final = 128
"""Taller tiles are cut: the engine shares a product out by tiles, and holds 256 rows at most."""

Fused = Literal["relu", "gelu", "gelu_tanh", "silu"]
"""The activations that the engine applies before a result leaves its registers."""


@dataclass(frozen=True, eq=False)
class CpuPacked:
    """A matrix as the engine holds it."""

    shape: tuple[int, int]
    dtype: DType
    matrix: Any
    """The extension's ``Matrix``, which keeps the arrays of the storage alive and packs them into
    a kernel's order when that kernel first runs."""

    @property
    def nbytes(self) -> int:
        """Bytes packed so far, beside the storage's own."""
        return int(self.matrix.packed_bytes)


class CpuBackend:
    """Products by the C++ engine, for NumPy arrays."""

    name = "cpu"
    takes_remainder = True

    def refusal(
        self,
        storage: TVWStorage,
        x: Array,
        *,
        transposed: bool = False,
        precision: Precision = "default",
    ) -> str:
        """Say why `x` cannot be multiplied here, or return an empty string."""
        if engine() is None:
            return (
                f"{why_not_native()} With GCC or Clang there, pip install --no-binary tvwarray "
                "tvwarray builds it"
            )
        if not (isinstance(storage.data, np.ndarray) and isinstance(x, np.ndarray)):
            return (
                f"needs NumPy arrays, got {type(storage.data).__module__} and "
                f"{type(x).__module__} arrays"
            )
        a, b = storage.dtype, dtype_of(x)
        if a not in _ALL:
            known = ", ".join(sorted(d.name for d in _ALL))
            return f"multiplies {known}; A holds {a.name}"
        if not (a == b if a in _ALONE else b in _FLOAT32_SUMS):
            partner = a.name if a in _ALONE else "float32, float16, bfloat16"
            return f"multiplies {a.name} with {partner}, not {b.name}"
        if x.shape[1] > _MOST_COLUMNS:
            return f"needs at most 2**31 - 1 columns of X, got {x.shape[1]}"
        return ""

    def pack(self, storage: TVWStorage) -> CpuPacked:
        """Hand the arrays of `storage` to the engine; it reorders them when they are first used."""
        compiled = engine()
        assert compiled is not None, "refusal() was not asked"
        storage = storage.split_rows(_MOST_ROWS)
        rows, cols = storage.shape
        arrays = (storage.row_indptr, storage.row_indices, storage.col_indptr, storage.col_indices)
        matrix = compiled.Matrix(
            rows,
            cols,
            storage.dtype.name,
            *(np.ascontiguousarray(a) for a in arrays),
            np.ascontiguousarray(_bits(storage.data)),
            None if storage.meta is None else np.ascontiguousarray(storage.meta),
            *_remainder(storage),
        )
        return CpuPacked(storage.shape, storage.dtype, matrix)

    def matmul(
        self,
        packed: CpuPacked,
        x: Array,
        out: Array | None = None,
        *,
        transposed: bool = False,
        epilogue: Epilogue = IDENTITY,
        precision: Precision = "default",
    ) -> Array:
        """Return `epilogue` of ``A @ x``, or of ``A.T @ x``, written to `out` if it is given.

        `x` is read in place whatever its strides. A new result has the order of `x`: where the
        columns of `x` are contiguous (row-major activations, transposed), its own columns are.
        """
        dtype = product_dtype(packed.dtype, x.dtype)
        result, summed = epilogue.result_dtype(dtype), accumulate_dtype(dtype)
        if accumulate_dtype(result) == summed and _is_fused(epilogue, dtype):
            activation: Any = epilogue.activation
            return _multiply(packed, x, transposed, epilogue.bias, activation, out, result)
        product = _multiply(packed, x, transposed, None, None, None, summed)
        return finish(epilogue, product, dtype, out)


BACKEND: Final = CpuBackend()


def _multiply(
    packed: CpuPacked,
    x: HostArray,
    transposed: bool,
    bias: Array | None,
    activation: Fused | None,
    out: HostArray | None,
    dtype: DType,
) -> HostArray:
    if bias is not None:
        bias = np.ascontiguousarray(bias, accumulate_dtype(dtype))
    in_place = out is not None and _writable_in_place(out, x)
    target = out if in_place else _empty_like(packed.shape[1 if transposed else 0], x, dtype)
    assert target is not None
    types = _name(x.dtype), _name(dtype)
    packed.matrix.multiply(
        _bits(x), types[0], _bits(target), types[1], bias, activation or "", transposed
    )
    if out is None or in_place:
        return target
    out[...] = target
    return out


def _remainder(storage: TVWStorage) -> tuple[HostArray | None, ...]:
    """Return the arrays of the remainder, values in the type that they are multiplied in."""
    remainder = storage.remainder
    if remainder is None or not remainder.data.size:
        return None, None, None
    work = np.dtype(np.float64) if storage.dtype == np.float64 else FLOAT32
    indptr, indices = (np.ascontiguousarray(a, np.int32) for a in remainder[:2])
    return indptr, indices, np.ascontiguousarray(remainder.data, work)


def _is_fused(epilogue: Epilogue, product: DType) -> bool:
    """Say whether the engine does all of an epilogue before a result leaves its registers."""
    if epilogue is IDENTITY:
        return True
    if epilogue.activation not in (None, *get_args(Fused)) or epilogue.bias_axis != 0:
        return False
    rest = without(epilogue, "activation", "bias")
    return rest.is_cast and epilogue.work_dtype(product) == accumulate_dtype(product)


@cache
def _name(dtype: DType) -> str:
    """Return the name of a dtype, which NumPy puts together anew for microseconds each time."""
    return str(dtype.name)


def _bits(x: HostArray) -> HostArray:
    """Return `x` as a type the buffer protocol knows: bfloat16 as the integers of its bits."""
    return x.view(np.uint16) if x.dtype == BFLOAT16 else x


def _empty_like(rows: int, x: HostArray, dtype: DType) -> HostArray:
    """Return a new (rows, n) array in the memory order of `x`."""
    order: Literal["F", "C"] = "F" if abs(x.strides[0]) < abs(x.strides[1]) else "C"
    return np.empty((rows, x.shape[1]), dtype, order)


def _writable_in_place(out: HostArray, x: HostArray) -> bool:
    """Say whether the engine can write `out`: one axis is contiguous, and `x` is elsewhere."""
    item = out.dtype.itemsize
    contiguous = any(s == item or n == 1 for s, n in zip(out.strides, out.shape, strict=True))
    return contiguous and out.dtype.isnative and not np.may_share_memory(out, x)
