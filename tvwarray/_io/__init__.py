"""Save matrices to ``.npz`` and ``.safetensors`` files, and load them from files nobody trusts.

Both containers hold the same: a header in JSON, and for each matrix the arrays of its `TVWStorage`.
One file takes one matrix, under the empty name, or any number of named ones::

    .npz                            .safetensors
    tvwarray.json                   __metadata__["tvwarray"]         the header, see `_io.header`
    [name.]row_indptr.npy ...       [name.]row_indptr ...            int32
    [name.]data.npy                 [name.]data                      in the value dtype
    [name.]meta.npy                 [name.]meta                      uint16, only with 2:4

Equal matrices make equal files. Saving replaces a file in one step, so that a reader sees the old
one or the new one, whatever happens in between.

Loading believes nothing it reads. Sizes are compared with the file's before memory is taken;
nothing is unpickled, decompressed or mapped (a mapped file could change after it was checked, or
shrink and kill the process); the arrays must be exactly those of the header; and every matrix
passes `TVWStorage.check`. Whatever is wrong with the contents is a `FormatError`. That the system
cannot open or read a file, because it is missing, say, stays the `OSError` it is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, Final, NamedTuple

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._io import npz, safetensors
from tvwarray._io.header import Arrays, Entry, Record, Source, array_keys, dump_header, parse_header
from tvwarray._io.safely import PathLike, reading, replacing
from tvwarray._namespace import to_host
from tvwarray._storage import ARRAY_FIELDS, TVWStorage

__all__ = ["Record", "load_storage", "load_storages", "save_storage", "save_storages"]


class _Container(NamedTuple):
    write: Callable[[BinaryIO, str, Arrays], None]
    """Write the header and the arrays to an empty file."""
    open: Callable[[BinaryIO, int], Source]
    """Read what a file of so many bytes holds, but no array yet."""


_CONTAINERS: Final = {
    ".npz": _Container(npz.write, npz.NpzSource),
    ".safetensors": _Container(safetensors.write, safetensors.SafetensorsSource),
}


def save_storage(path: PathLike, storage: TVWStorage, *, transposed: bool = False) -> None:
    """Save one matrix; see `save_storages`."""
    save_storages(path, {"": Record(storage, transposed)})


def load_storage(path: PathLike) -> Record:
    """Load the matrix of a file that holds one, under whatever name; see `load_storages`.

    Returns
    -------
    storage : TVWStorage
    transposed : bool
    """
    records = load_storages(path)
    if len(records) != 1:
        raise FormatError(
            f"{os.fspath(path)}: the file holds {len(records)} matrices, not one.\n"
            "Load them all as a dictionary."
        )
    return next(iter(records.values()))


def save_storages(path: PathLike, records: Mapping[str, Record]) -> None:
    """Save matrices of any device to one file, replacing it in one step.

    Parameters
    ----------
    path : str or PathLike
        Ends in ``.npz`` or ``.safetensors``. A link is followed; an existing file passes its
        permissions on.
    records : {name: (storage, transposed)}
        The empty name is that of a matrix alone.

    Raises
    ------
    FormatError
        If the path ends in something else, a name cannot be stored or a matrix breaks a rule.
    """
    container = _container(path)
    arrays: Arrays = {}
    for name, (storage, _) in records.items():
        host = storage.mapped(to_host)
        with _naming(name):
            host.check()
        for field, key in array_keys(name, storage.vector, storage.remainder is not None).items():
            arrays[key] = np.ascontiguousarray(getattr(host, field))
    header = dump_header(records)
    with replacing(path) as file:
        container.write(file, header, arrays)


def load_storages(path: PathLike) -> dict[str, Record]:
    """Load all matrices of a file, as NumPy arrays of the library's own memory.

    Returns
    -------
    {name: (storage, transposed)}

    Raises
    ------
    FormatError
        If the path ends in neither ``.npz`` nor ``.safetensors``, or if the file is not a whole one
        that this version of tvwarray can read.
    OSError
        If the file cannot be opened or read.
    """
    container = _container(path)
    status = os.stat(path)
    with reading(path):
        if not stat.S_ISREG(status.st_mode):
            raise FormatError("this is no regular file.")
        with open(path, "rb") as file:
            source = container.open(file, os.fstat(file.fileno()).st_size)
            entries = parse_header(source.header)
            _check_keys(source, entries)
            return {name: _load(source, name, entry) for name, entry in entries.items()}


def _load(source: Source, name: str, entry: Entry) -> Record:
    with _naming(name):
        arrays = {
            field: source.read(key, entry.dtype_of(field))
            for field, key in array_keys(name, entry.vector, entry.remainder).items()
        }
        # NumPy takes a bool for 0 or 1 without looking; another byte would be neither.
        bools = (x.view(np.uint8) for x in arrays.values() if x.dtype == np.bool_)
        if any(x.max(initial=0) > 1 for x in bools):
            raise FormatError("data holds bytes other than 0 and 1; its dtype is bool.")
        storage = TVWStorage(
            shape=entry.shape,
            tile_rows=entry.tile_rows,
            vector=entry.vector,
            **{field: arrays.get(field) for field in ARRAY_FIELDS},
        )
        storage.check()
        return Record(storage, entry.transposed)


def _check_keys(source: Source, entries: Mapping[str, Entry]) -> None:
    expected = {
        key
        for name, e in entries.items()
        for key in array_keys(name, e.vector, e.remainder).values()
    }
    for keys, fault in ((expected - source.keys, "lacks"), (source.keys - expected, "also holds")):
        if keys:
            raise FormatError(
                f"the file {fault} {min(keys)!r}; its header describes {len(expected)} arrays."
            )


def _container(path: PathLike) -> _Container:
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in _CONTAINERS:
        raise FormatError(f"{os.fspath(path)}: a matrix file ends in .npz or .safetensors.")
    return _CONTAINERS[suffix]


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say which matrix a `FormatError` is about."""
    try:
        yield
    except FormatError as e:
        raise FormatError(f"matrix {name!r}: {e}" if name else str(e)) from e
