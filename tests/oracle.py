"""What results should be: plain loops in wide types, sharing no code with tvwarray.

Everything is read from the fields of a storage by the definition of the format, one stored value
at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

UNIT_ROUNDOFF = {
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float32": 2.0**-24,
    "float64": 2.0**-53,
    "complex64": 2.0**-24,
    "complex128": 2.0**-53,
}
SMALLEST_STEP = {
    "float16": 2.0**-24,
    "bfloat16": 2.0**-133,
    "float32": 2.0**-149,
    "float64": 0.0,
    "complex64": 2.0**-149,
    "complex128": 0.0,
}


def wide(x: Any) -> np.ndarray:
    """Return `x` in long double, or complex long double."""
    x = np.asarray(x)
    if x.dtype.kind == "c":
        return x.astype(np.clongdouble)
    if x.dtype.kind not in "fiub":  # ml_dtypes
        x = x.astype(np.float64)
    return x.astype(np.longdouble)


def entries(storage: Any) -> list[tuple[int, int, Any]]:
    """Return (row, column, value) of every stored value, the remainder's too, but padding."""
    found = []
    at = word_at = 0
    data = np.asarray(storage.data)
    for t in range(len(storage.row_indptr) - 1):
        rows = storage.row_indices[storage.row_indptr[t] : storage.row_indptr[t + 1]]
        cols = storage.col_indices[storage.col_indptr[t] : storage.col_indptr[t + 1]]
        for row in rows:
            if storage.vector is None:
                for col in cols:
                    if col >= 0:
                        found.append((int(row), int(col), data[at]))
                    at += 1
                continue
            for sixteen in range(len(cols) // 16):
                word = int(storage.meta[word_at])
                word_at += 1
                for group in range(4):
                    nibble = word >> 4 * group & 15
                    for position in (nibble & 3, nibble >> 2):
                        col = int(cols[16 * sixteen + 4 * group + position])
                        if col >= 0:
                            found.append((int(row), col, data[at]))
                        at += 1
    assert at == len(data)
    if storage.remainder_data is not None:
        for row in range(storage.shape[0]):
            for i in range(storage.remainder_indptr[row], storage.remainder_indptr[row + 1]):
                col = int(storage.remainder_indices[i])
                found.append((row, col, np.asarray(storage.remainder_data)[i]))
    return found


def dense(storage: Any) -> np.ndarray:
    """Return the matrix in long double; repeated columns add up."""
    kind = np.clongdouble if np.asarray(storage.data).dtype.kind == "c" else np.longdouble
    result = np.zeros(storage.shape, kind)
    for row, col, value in entries(storage):
        result[row, col] += wide(value)[()]
    return result


def matmul(a: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``a @ x`` and ``|a| @ |x|`` in long double; NumPy multiplies these by plain loops."""
    a, x = wide(a), wide(x)
    return a @ x, np.abs(a) @ np.abs(x)


def error_bound(exact: np.ndarray, size: np.ndarray, terms: int, dtype: np.dtype, sums: str) -> Any:
    """Return how far a product may be from `exact`.

    Summing `terms` rounded products in any order errs by at most terms * u / (1 - terms * u) times
    the sum of their sizes (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1);
    a complex product counts as four real ones. Storing the sum rounds once more.
    """
    u = UNIT_ROUNDOFF[sums]
    count = terms * (4 if dtype.kind == "c" else 1) + 2
    bound = count * u / (1 - count * u) * size + SMALLEST_STEP[sums] * count
    if dtype.name != sums:
        bound = bound * (1 + UNIT_ROUNDOFF[dtype.name])
        bound = bound + UNIT_ROUNDOFF[dtype.name] * np.abs(exact) + SMALLEST_STEP[dtype.name]
    return bound


def crowded(a: np.ndarray) -> bool:
    """Say whether some row holds more than two nonzeros in columns 4c to 4c + 3."""
    for row in range(a.shape[0]):
        for start in range(0, a.shape[1], 4):
            if sum(bool(v != 0) for v in a[row, start : start + 4]) > 2:
                return True
    return False
