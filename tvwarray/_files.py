"""`save` and `load`: matrices to files and back."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike

from tvwarray import _io
from tvwarray._matrix import TVWMatrix


def save(path: str | PathLike[str], A: TVWMatrix | Mapping[str, TVWMatrix]) -> None:
    """Save a matrix, or several by name, to a ``.safetensors`` or ``.npz`` file.

    Parameters
    ----------
    path : path
        The suffix decides: ``.safetensors``, which other frameworks read too, or ``.npz``.
    A : TVWMatrix or mapping of str to TVWMatrix
        A matrix on a GPU is copied to the host first.

    Raises
    ------
    FormatError
        If the suffix is another one.
    OSError
        If the file cannot be written. It is replaced as a whole or not at all.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, tvwarray
    >>> A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((256, 512)), 0.75)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "layers.safetensors")
    ...     tvwarray.save(path, {"up": A, "down": A.T})
    ...     layers = tvwarray.load(path)
    >>> {name: m.shape for name, m in layers.items()}
    {'up': (256, 512), 'down': (512, 256)}
    >>> (layers["up"] != A).nnz
    0
    """
    named = {"": A} if isinstance(A, TVWMatrix) else A
    _io.save_storages(
        path, {name: _io.Record(m.storage, m.transposed) for name, m in named.items()}
    )


def load(path: str | PathLike[str]) -> TVWMatrix | dict[str, TVWMatrix]:
    """Load what `save` wrote: a matrix, or a dict of several by name.

    The file is not trusted: every rule of the format is checked, nothing in it is executed, and
    memory goes with the length of the file.

    Raises
    ------
    FormatError
        If the file is truncated, damaged, of another program, or of a newer version.
    OSError
        If the file cannot be read.
    """
    records = _io.load_storages(path)
    made = {
        n: TVWMatrix.from_storage(r.storage, transposed=r.transposed) for n, r in records.items()
    }
    return made[""] if list(made) == [""] else made
