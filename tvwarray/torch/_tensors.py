"""Tensors as arrays and arrays as tensors: the same memory, never by a path that torch aborts on.

==================  ================================================================
CPU tensors         ``Tensor.numpy`` and ``torch.from_numpy``
bfloat16, float8    by the integers of their bits: NumPy's types are ml_dtypes'
CUDA tensors        the address and DLPack, to and from CuPy; see `_cuda`
negative strides    copied: torch has none, and ends the process on them in a capsule
read-only arrays    copied: torch would write to them
==================  ================================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import ml_dtypes
import numpy as np
import torch

from tvwarray._namespace import Array
from tvwarray.torch._cuda import shared

_BITS: Final = {
    torch.bfloat16: (torch.int16, np.dtype(ml_dtypes.bfloat16)),
    torch.float8_e4m3fn: (torch.uint8, np.dtype(ml_dtypes.float8_e4m3fn)),
    torch.float8_e5m2: (torch.uint8, np.dtype(ml_dtypes.float8_e5m2)),
}
"""Types that NumPy has from ml_dtypes: the torch type of their bits, and the NumPy type."""

_TENSORS: Final = {array: (bits, dtype) for dtype, (bits, array) in _BITS.items()}


def to_array(x: torch.Tensor) -> Array:
    """Return a dense tensor as a NumPy array, or as a CuPy array if it lies on a GPU.

    Parameters
    ----------
    x : torch.Tensor
        Of any strides; may require a gradient, which the array knows nothing of.

    Returns
    -------
    array
        Shares the memory of `x` (but of lazily conjugated or negated tensors, which are copied).

    Raises
    ------
    TypeError
        If `x` is sparse, or lies on a device that no array library shares.
    """
    check_tensor(x)
    x = x.detach().resolve_conj().resolve_neg()
    if x.device.type == "cuda" and (array := shared(x)) is not None:
        return array
    bits, dtype = _BITS.get(x.dtype, (None, None))
    if bits is not None:
        x = x.view(bits)
    array = x.numpy() if x.device.type == "cpu" else import_module("cupy").from_dlpack(x)
    return array if dtype is None else array.view(dtype)


def check_tensor(x: torch.Tensor) -> None:
    """Refuse what no array can be made of; see `to_array`."""
    if x.layout is not torch.strided:
        raise TypeError(
            f"the tensor is sparse ({x.layout}); pass x.to_dense(), or make a matrix of it: "
            "tvwarray.TVWMatrix(x)."
        )
    if x.device.type not in ("cpu", "cuda"):
        raise TypeError(f"the tensor lies on {x.device}; products run on cpu and cuda.")


def to_tensor(array: Array) -> torch.Tensor:
    """Return a NumPy or CuPy array as a tensor on its device.

    The memory is shared, but for arrays that are read-only, in the other byte order, or of
    negative strides: these are copied.
    """
    bits, dtype = _TENSORS.get(array.dtype, (None, None))
    if isinstance(array, np.ndarray):
        array = _acceptable(array)
        plain = array if bits is None else array.view(_integer(array.dtype))
        tensor = torch.from_numpy(plain)
    else:
        plain = array if bits is None else array.view(_integer(array.dtype))
        tensor = torch.from_dlpack(plain)
    return tensor if dtype is None else tensor.view(dtype)


def _acceptable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return `array`, or a copy of it if torch cannot take it as it is."""
    item = array.dtype.itemsize
    whole = all(stride >= 0 and stride % item == 0 for stride in array.strides)
    if whole and array.flags.writeable and array.dtype.isnative:
        return array
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=True)


def _integer(dtype: np.dtype[Any]) -> type[np.integer[Any]]:
    """Return the integers that torch views as floats of `dtype`'s bits."""
    return np.int16 if dtype.itemsize == 2 else np.uint8
