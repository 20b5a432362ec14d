"""JAX arrays as NumPy and CuPy arrays, and back, without a type ever being narrowed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import jax
import numpy as np

from tvwarray._namespace import Array


def to_array(x: Any) -> Array:
    """Return a JAX array as a NumPy array, or as a CuPy array if it lies on a GPU.

    Parameters
    ----------
    x : jax.Array
        Of one device.

    Returns
    -------
    array
        Shares the memory of `x`; read-only on the host, as JAX's arrays are.

    Raises
    ------
    TypeError
        If `x` is traced, spread over devices, or lies on one that no array library shares.
    """
    if isinstance(x, jax.core.Tracer):
        raise TypeError("the array is traced: its values are known when the function runs.")
    devices = x.devices()
    if len(devices) > 1:
        raise TypeError(f"the array is spread over {len(devices)} devices; gather it on one.")
    platform = next(iter(devices)).platform
    if platform == "cpu":
        return np.asarray(x)
    if platform in ("gpu", "cuda"):
        return import_module("cupy").from_dlpack(x)
    raise TypeError(f"the array lies on {platform}; products run on cpu and gpu.")


def to_jax_array(x: Array) -> jax.Array:
    """Return a NumPy or CuPy array as a JAX array on its device.

    Raises
    ------
    TypeError
        If JAX would narrow the type: 64-bit types need ``jax_enable_x64``.
    """
    check_type(x.dtype)
    if isinstance(x, np.ndarray):
        native = x.astype(x.dtype.newbyteorder("="), copy=False)
        return jax.numpy.asarray(native)
    return jax.numpy.from_dlpack(x)


def check_type(dtype: Any) -> None:
    """Refuse a dtype that JAX would narrow without a word.

    Raises
    ------
    TypeError
        If JAX has the type only with ``jax_enable_x64``.
    """
    held = jax.dtypes.canonicalize_dtype(dtype)
    if held != dtype:
        raise TypeError(
            f"{dtype} would become {held} in JAX; cast the matrix (A.astype({held.name!r})), or "
            'allow it: jax.config.update("jax_enable_x64", True).'
        )
