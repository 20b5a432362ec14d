"""Matrix files in memory: good ones, and tools to forge others. Shared by the tests of `_io`."""

from __future__ import annotations

import io
import json
import os
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import safetensors.numpy
import strategies

from tvwarray._io import Record, load_storages, save_storages
from tvwarray._storage import ARRAY_FIELDS, TVWStorage

SUFFIXES = (".npz", ".safetensors")


def example(dtype: str = "float16", vector: tuple[int, int] | None = (2, 4)) -> TVWStorage:
    """Two tiles of a (5, 20) matrix: columns that repeat, a padding slot, a row in no tile."""
    data = np.arange(1, 33 if vector else 65) % 7
    if vector is None:
        data[[47, 63]] = 0  # what the padding slot holds
    return TVWStorage(
        shape=(5, 20),
        tile_rows=16,
        vector=vector,
        row_indptr=np.array([0, 2, 4], np.int32),
        row_indices=np.array([4, 0, 1, 2], np.int32),
        col_indptr=np.array([0, 16, 32], np.int32),
        col_indices=np.array([*range(16), *range(14, 0, -1), 19, -1], np.int32),
        data=data.astype(strategies.dtype(dtype)),
        meta=np.array([0x4E8D, 0xD9C4, 0x4EEE, 0x4444], np.uint16) if vector else None,
        remainder_indptr=np.array([0, 0, 2, 2, 2, 3], np.int32),
        remainder_indices=np.array([1, 4, 0], np.int32),
        remainder_data=np.array([1, 0, 1]).astype(strategies.dtype(dtype)),
    )


def assert_same(got: TVWStorage, expected: TVWStorage) -> None:
    """Compare every bit, and see that the arrays are fit for use."""
    for field in ("shape", "tile_rows", "vector", "dtype"):
        assert getattr(got, field) == getattr(expected, field)
    assert all(type(n) is int for n in (*got.shape, got.tile_rows))
    for field in ARRAY_FIELDS:
        a, b = getattr(got, field), getattr(expected, field)
        assert (a is None) == (b is None)
        if a is not None:
            assert type(a) is np.ndarray
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert a.dtype.isnative
            assert a.flags.aligned
            assert a.flags.c_contiguous
            assert a.tobytes() == np.asarray(b).tobytes()


def saved(suffix: str, records: Mapping[str, Record]) -> bytes:
    """Return the bytes of a file with these matrices."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(os, "fsync"):
        path = Path(folder, "a" + suffix)
        save_storages(path, records)
        return path.read_bytes()


def loaded(suffix: str, contents: bytes) -> dict[str, Record]:
    """Return the matrices of a file with these bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a" + suffix)
        path.write_bytes(contents)
        return load_storages(path)


def npy(array: np.ndarray, **changes: Any) -> bytes:
    """Return a .npy member, with `changes` to what its header says."""
    file = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(file, {**header, **changes})
    return file.getvalue() + array.tobytes()


def npz(members: Mapping[str, bytes] | list[tuple[str, bytes]], compression: int = 0) -> bytes:
    """Return a zip file of these members."""
    file = io.BytesIO()
    pairs = members.items() if isinstance(members, Mapping) else members
    with zipfile.ZipFile(file, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # names that stand twice are meant
        for name, contents in pairs:
            archive.writestr(zipfile.ZipInfo(name), contents, compression)
    return file.getvalue()


def npz_members() -> dict[str, bytes]:
    """Return the members of the example file."""
    with zipfile.ZipFile(io.BytesIO(saved(".npz", {"": Record(example())}))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def safetensors_header(contents: bytes) -> Any:
    """Return the outer header of a file, parsed."""
    return json.loads(contents[8 : 8 + struct.unpack("<Q", contents[:8])[0]])


def with_safetensors_header(header: object) -> bytes:
    """Return the example file with another outer header, an object or text."""
    contents = saved(".safetensors", {"": Record(example())})
    tensors = contents[8 + struct.unpack("<Q", contents[:8])[0] :]
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def with_header(suffix: str, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return the example file with a changed header."""
    if suffix == ".npz":
        members = npz_members()
        header = json.loads(members["tvwarray.json"])
        change(header)
        return npz({**members, "tvwarray.json": json.dumps(header).encode()})
    outer = safetensors_header(saved(suffix, {"": Record(example())}))
    header = json.loads(outer["__metadata__"]["tvwarray"])
    change(header)
    outer["__metadata__"]["tvwarray"] = json.dumps(header)
    return with_safetensors_header(outer)


def with_arrays(suffix: str, **arrays: np.ndarray) -> bytes:
    """Return the example file with other arrays."""
    if suffix == ".npz":
        return npz({**npz_members(), **{f"{field}.npy": npy(x) for field, x in arrays.items()}})
    header = safetensors_header(saved(suffix, {"": Record(example())}))
    tensors = {field: getattr(example(), field) for field in ARRAY_FIELDS} | arrays
    return safetensors.numpy.save(tensors, header["__metadata__"])
