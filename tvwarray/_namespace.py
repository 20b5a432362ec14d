"""Which array library an array belongs to, where it lives, and how it comes to the host.

Every algorithm opens with ``xp = array_namespace(...)`` and uses nothing but the array API
standard, so that NumPy and CuPy share one code path. No array library but NumPy is imported here:
an array of another library brings its own module along.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import array_api_compat
import numpy as np

from tvwarray._errors import FormatError

Array: TypeAlias = Any
"""An array of any library that follows the array API standard."""

Namespace: TypeAlias = Any
"""A module of array functions, such as NumPy's or CuPy's."""


def array_namespace(*arrays: Array) -> Namespace:
    """Return the array API module that all `arrays` belong to.

    Raises
    ------
    TypeError
        If one of them is no array, or if they belong to different libraries.
    """
    return array_api_compat.array_namespace(*arrays)


def is_array(x: object) -> bool:
    """Say whether `x` is an array of a library that array-api-compat knows."""
    return bool(array_api_compat.is_array_api_obj(x)) and not np.isscalar(x)


def device_of(x: Array) -> Any:
    """Return the device of `x`: "cpu" for NumPy, the library's own object for others."""
    return array_api_compat.device(x)


def to_host(x: Array) -> np.ndarray[Any, Any]:
    """Copy `x` to a NumPy array; a NumPy array is returned as it is.

    Raises
    ------
    FormatError
        If `x` is a masked array: what its mask hides would come to light.
    """
    if isinstance(x, np.ndarray):
        if isinstance(x, np.ma.MaskedArray):
            raise FormatError("the array is masked; fill it first: x.filled(0).")
        return x
    if hasattr(x, "get"):  # CuPy refuses implicit copies to the host; get() is its explicit one
        return np.asarray(x.get())
    # NumPy imports neither bfloat16 nor 8-bit floats, which are no types of its own.
    foreign = hasattr(x, "dtype") and dtype_of(x).isbuiltin != 1
    if hasattr(x, "detach"):  # PyTorch exports neither what has gradients nor what a GPU holds
        x = x.detach().cpu()
        if foreign:
            dtype, xp = dtype_of(x), array_namespace(x)
            return np.from_dlpack(x.view(xp.uint8 if dtype.itemsize == 1 else xp.int16)).view(dtype)
    return np.from_dlpack(x) if hasattr(x, "__dlpack__") and not foreign else np.asarray(x)


def from_host(x: np.ndarray[Any, Any], like: Array) -> Array:
    """Copy the NumPy array `x` to the library and device of `like`."""
    if isinstance(like, np.ndarray):
        return x
    if not x.flags.writeable:  # PyTorch would share the memory, and let it be written to
        x = x.copy()
    return array_namespace(like).asarray(x, device=device_of(like))


def nonzero_mask(x: Array) -> Array:
    """Return where `x` is not zero, bool; NaN is not zero, -0.0 is."""
    if dtype_of(x) == np.bool_:  # the standard has no comparison of booleans with numbers
        return x
    with np.errstate(invalid="ignore"):  # comparing a signaling NaN of bfloat16 warns
        return x != 0


def dtype_of(x: Array) -> np.dtype[Any]:
    """Return the dtype of `x` as NumPy knows it (bfloat16 and float8 through ml_dtypes)."""
    if isinstance(x.dtype, np.dtype):
        return x.dtype
    # Array libraries with dtypes of their own print them as "library.name".
    return np.dtype(str(x.dtype).rpartition(".")[2])


def as_dtype(x: Array, dtype: np.dtype[Any]) -> Array:
    """Cast `x` to `dtype` in its own library; no copy where it has it already."""
    if dtype_of(x) == dtype:
        return x
    xp = array_namespace(x)
    return xp.astype(x, native_dtype(xp, dtype))


def native_dtype(xp: Namespace, dtype: np.dtype[Any]) -> Any:
    """Return what `xp` calls the NumPy `dtype`."""
    if array_api_compat.is_numpy_namespace(xp) or array_api_compat.is_cupy_namespace(xp):
        return dtype
    return getattr(xp, dtype.name)
