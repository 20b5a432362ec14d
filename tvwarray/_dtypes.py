"""Which value types a matrix may hold, and which type a product has.

=================================  ============  ==============
values of A and X                  accumulate    product
=================================  ============  ==============
float16, bfloat16                  float32       the same
float8_e4m3fn, float8_e5m2         float32       float32
int8, uint8                        int32         int32
other integers, bool               the same      the same
float32, float64, complex          the same      the same
mixed                              as NumPy promotes; float32 where NumPy has no rule
=================================  ============  ==============
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import ml_dtypes
import numpy as np

from tvwarray._errors import FormatError

DType: TypeAlias = np.dtype[Any]

Precision = Literal["default", "highest", "high", "tf32"]
"""How precise a float32 product must be at least; see `tvwarray.matmul`."""

BFLOAT16: Final[DType] = np.dtype(ml_dtypes.bfloat16)
FLOAT8_E4M3: Final[DType] = np.dtype(ml_dtypes.float8_e4m3fn)
FLOAT8_E5M2: Final[DType] = np.dtype(ml_dtypes.float8_e5m2)
FLOAT16: Final[DType] = np.dtype(np.float16)
FLOAT32: Final[DType] = np.dtype(np.float32)
FLOAT64: Final[DType] = np.dtype(np.float64)
INT32: Final[DType] = np.dtype(np.int32)

NARROW_FLOATS: Final = frozenset({BFLOAT16, FLOAT8_E4M3, FLOAT8_E5M2, FLOAT16})
EIGHT_BIT_FLOATS: Final = frozenset({FLOAT8_E4M3, FLOAT8_E5M2})
EIGHT_BIT_INTEGERS: Final = frozenset({np.dtype(np.int8), np.dtype(np.uint8)})

VALUE_DTYPES: Final[dict[str, DType]] = {
    d.name: d
    for d in (
        *map(np.dtype, ("bool", "int8", "int16", "int32", "int64")),
        *map(np.dtype, ("uint8", "uint16", "uint32", "uint64")),
        *map(np.dtype, ("float32", "float64", "complex64", "complex128")),
        *NARROW_FLOATS,
    )
}

VALUES: Final = frozenset(VALUE_DTYPES.values())


def value_dtype(dtype: object, *, where: str = "dtype") -> DType:
    """Return `dtype` as a native NumPy dtype a matrix may hold.

    Raises
    ------
    FormatError
        If no matrix may hold it (object, strings, dates, long double).
    """
    try:
        name = np.dtype(dtype).name  # type: ignore[call-overload]
    except TypeError as e:
        raise FormatError(f"{where}: {dtype!r} is no dtype NumPy knows.") from e
    if name not in VALUE_DTYPES:
        raise FormatError(
            f"{where}: a matrix cannot hold {name} values.\n"
            f"Cast to one of {', '.join(sorted(VALUE_DTYPES))}."
        )
    return VALUE_DTYPES[name]


def promote(a: DType, b: DType) -> DType:
    """Return the common dtype; float32 where NumPy has no rule (bfloat16 with float16)."""
    try:
        return np.result_type(a, b)
    except TypeError:  # DTypePromotionError of NumPy and ml_dtypes
        return FLOAT32


def product_dtype(a: DType, x: DType) -> DType:
    """Return the dtype of a product of `a` and `x` values, by the table of this module."""
    dtype = promote(a, x)
    if dtype in EIGHT_BIT_FLOATS:
        return FLOAT32
    return INT32 if dtype in EIGHT_BIT_INTEGERS else dtype


def accumulate_dtype(product: DType) -> DType:
    """Return the dtype in which a product of dtype `product` is summed."""
    return FLOAT32 if product in NARROW_FLOATS else product
