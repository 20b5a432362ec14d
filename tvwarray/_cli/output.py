"""Matrices to a file, whose suffix says of which format, and the table of what was written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

import numpy as np
import scipy.io

import tvwarray
from tvwarray._cli.table import percent_text, shape_text
from tvwarray._describe import bytes_text
from tvwarray._dtypes import NARROW_FLOATS, DType
from tvwarray._errors import FormatError
from tvwarray._matrix import TVWMatrix

_TVW: Final = (".npz", ".safetensors")
_PLAIN: Final = (".npy", ".mtx")


FIGURES: Final = ("matrix", "shape", "dtype", "nonzero", "bytes", "of dense")
"""The header of the columns that `figures` fills."""


def check_output(path: str, count: int) -> None:
    """Refuse a file that `write` could not write, before any work is done.

    Parameters
    ----------
    path : str
    count : int
        How many matrices it is to take.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (*_TVW, *_PLAIN):
        raise FormatError(f"{path}: the suffix is none of {', '.join((*_TVW, *_PLAIN))}.")
    if count != 1 and suffix in _PLAIN:
        raise FormatError(
            f"{path}: a {suffix} file takes one matrix, not {count}; write .npz or .safetensors, "
            "or choose one with --only NAME."
        )
    folder = os.path.dirname(path)
    if folder and not os.path.isdir(folder):
        raise FormatError(f"{path}: there is no folder {folder}.")


def write(path: str, matrices: Mapping[str, TVWMatrix]) -> None:
    """Write matrices by name, replacing the file as a whole or not at all.

    ``.npz`` and ``.safetensors`` take them as TVW, ``.npy`` one dense, ``.mtx`` one sparse.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _TVW:
        tvwarray.save(path, matrices[""] if list(matrices) == [""] else matrices)
        return
    (A,) = matrices.values()
    if suffix == ".npy" and A.dtype in NARROW_FLOATS and A.dtype != np.float16:
        raise FormatError(f"{path}: .npy files cannot hold {A.dtype.name}; add --dtype float32.")
    with _replacing(path, suffix) as temporary:
        if suffix == ".npy":
            np.save(temporary, A.toarray())
        else:
            coo = A.tocoo()
            scipy.io.mmwrite(temporary, coo.astype(_mtx_dtype(coo.dtype)))


def figures(name: str, A: TVWMatrix) -> tuple[str, ...]:
    """Return a line of the table of what was written."""
    dense = A.shape[0] * A.shape[1] * A.dtype.itemsize
    share = f"{A.nbytes / dense:.2f}" if dense else "-"
    size = (percent_text(A.density), bytes_text(A.nbytes), share)
    return (name or "-", shape_text(A.shape), A.dtype.name, *size)


def safe_name(name: str) -> str:
    """Return a name from a file, which is not trusted, without anything a path could mean."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:100].lstrip(".")


def _mtx_dtype(dtype: DType) -> DType:
    """Return the dtype whose decimals a reader turns into equal values.

    Readers make float64 of any number, and the shortest decimals that name a float32 name another
    float64. The format knows integers, but no booleans.
    """
    return np.result_type(dtype, np.int8 if dtype.kind in "biu" else np.float64)


@contextmanager
def _replacing(path: str, suffix: str) -> Iterator[str]:
    """Give the name of a new file that takes the place of `path` in the end."""
    target = os.path.realpath(path)
    # The suffix is the target's: NumPy and SciPy would add it.
    name = f".tvwarray-{secrets.token_hex(8)}{suffix}"
    temporary = os.path.join(os.path.dirname(target), name)
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
