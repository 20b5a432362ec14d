"""What all matrix files share: the header, the names of the arrays, and how bytes become arrays.

The header of a file that holds one matrix, and of one that holds two::

    {"version": 1, "matrices": {"": {"shape": [4096, 11008], "tile_rows": 128, "vector": [2, 4],
                                     "dtype": "bfloat16", "transposed": false,
                                     "remainder": false}}}
    {"version": 1, "matrices": {"layer1.weight": {...}, "layer2.weight": {...}}}

Its version rises when an older reader could no longer make sense of a file; such a reader then asks
for an upgrade. All versions are read for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np

from tvwarray._dtypes import INT32, VALUE_DTYPES, DType
from tvwarray._errors import FormatError
from tvwarray._storage import (
    ARRAY_FIELDS,
    REMAINDER_FIELDS,
    HostArray,
    TVWStorage,
    Vector,
    check_header,
)

FILE_VERSION: Final = 1

MAX_HEADER_BYTES: Final = 2**23
"""A header of more bytes, some ten thousand matrices, is refused unread."""

MAX_NAME_LENGTH: Final = 1024
CHUNK_BYTES: Final = 2**20

UINT16: Final[DType] = np.dtype(np.uint16)

Arrays: TypeAlias = dict[str, HostArray]
"""Flat, contiguous, in native byte order."""


class Record(NamedTuple):
    """What a file knows of one matrix."""

    storage: TVWStorage
    transposed: bool = False
    """Whether the matrix is the transpose of what `storage` describes."""


class Entry(NamedTuple):
    """What a header says of one matrix."""

    shape: tuple[int, int]
    tile_rows: int
    vector: Vector
    dtype: DType
    transposed: bool
    remainder: bool

    def dtype_of(self, field: str) -> DType:
        """Return the dtype of one of the arrays."""
        values = {"data": self.dtype, "meta": UINT16, "remainder_data": self.dtype}
        return values.get(field, INT32)


class Source(Protocol):
    """An opened file: its header, and its arrays on demand."""

    @property
    def header(self) -> bytes:
        """The header, not parsed yet."""
        ...

    @property
    def keys(self) -> set[str]:
        """The names of the arrays."""
        ...

    def read(self, key: str, dtype: DType, /) -> HostArray:
        """Return a flat array of the file, provided that it has this dtype."""
        ...


def array_keys(name: str, vector: Vector, remainder: bool) -> dict[str, str]:
    """Return what each array of the matrix `name` is called in a file."""
    prefix = f"{name}." if name else ""
    absent = set() if remainder else set(REMAINDER_FIELDS)
    if vector is None:
        absent.add("meta")
    return {f: prefix + f for f in ARRAY_FIELDS if f not in absent}


def dump_header(records: Mapping[str, Record]) -> str:
    """Return the header of a file that is to hold `records`."""
    for name in records:
        _check_name(name)
    matrices = {
        name: {
            "shape": storage.shape,
            "tile_rows": storage.tile_rows,
            "vector": storage.vector,
            "dtype": storage.dtype.name,
            "transposed": bool(transposed),
            "remainder": storage.remainder is not None,
        }
        for name, (storage, transposed) in records.items()
    }
    return json.dumps({"version": FILE_VERSION, "matrices": matrices}, separators=(",", ":"))


def parse_header(header: bytes) -> dict[str, Entry]:
    """Return what a header says of each matrix.

    Raises
    ------
    FormatError
        If it is not a header, or one of a later version.
    """
    fields = parse_json(header)
    version = fields.get("version") if isinstance(fields, dict) else None
    if type(version) is not int or version < 1:
        raise FormatError("the header names no version; the file was not written by tvwarray.")
    if version > FILE_VERSION:
        raise FormatError(
            f"the file has version {version}; this tvwarray reads versions up to {FILE_VERSION}.\n"
            "Upgrade tvwarray to load it."
        )
    matrices = fields.get("matrices")
    if not isinstance(matrices, dict) or set(fields) != {"version", "matrices"}:
        raise FormatError("the header must consist of a version and of matrices by name.")
    return {name: _parse_entry(name, entry) for name, entry in matrices.items()}


def parse_json(text: bytes) -> Any:
    """Parse UTF-8 JSON, in which no name stands twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise FormatError("a name stands twice in the header.")
        return fields

    return json.loads(text.decode("utf-8"), object_pairs_hook=unique)


def check_header_size(length: int) -> None:
    """Check the size of a header before it is read or written."""
    if length > MAX_HEADER_BYTES:
        raise FormatError(
            f"the header has {length} bytes; at most {MAX_HEADER_BYTES} are allowed.\n"
            "Spread the matrices over several files."
        )


def read_array(file: IO[bytes], count: int, dtype: DType) -> HostArray:
    """Read `count` values; the caller has seen to it that the file has room for so many."""
    array = np.empty(count, dtype)
    # In pieces, because a zip member hands its bytes out as copies.
    rest = array.view(np.uint8).data
    while len(rest):
        got = file.readinto(rest[:CHUNK_BYTES])  # type: ignore[attr-defined]
        if not got:
            raise FormatError("the file ends too early.")
        rest = rest[got:]
    return array


def _parse_entry(name: str, entry: Any) -> Entry:
    where = f"header, matrix {name!r}" if name else "header"
    _check_name(name)
    if not isinstance(entry, dict) or set(entry) != set(Entry._fields):
        raise FormatError(f"{where}: the fields must be {', '.join(Entry._fields)}.")
    tile_rows, dtype = entry["tile_rows"], entry["dtype"]
    shape, vector = (
        tuple(x) if isinstance(x := entry[f], list) else x for f in ("shape", "vector")
    )
    try:
        check_header(shape, tile_rows, vector)
    except FormatError as e:
        raise FormatError(f"{where}: {e}") from e
    # JSON tells true from 1 and 4.0 from 4; Python's == and isinstance do not.
    if any(type(n) is not int for n in (*shape, tile_rows, *(vector or ()))):
        raise FormatError(f"{where}: shape, tile_rows and vector must be integers.")
    if not isinstance(dtype, str) or dtype not in VALUE_DTYPES:
        raise FormatError(f"{where}: a matrix cannot hold {dtype!r} values.")
    for field in ("transposed", "remainder"):
        if not isinstance(entry[field], bool):
            raise FormatError(f"{where}: {field} is {entry[field]!r}; it is true or false.")
    return Entry(
        shape, tile_rows, vector, VALUE_DTYPES[dtype], entry["transposed"], entry["remainder"]
    )


def _check_name(name: object) -> None:
    """Allow names of parameters and paths, but none that would lead out of a folder."""
    if name == "":
        return
    if not (
        isinstance(name, str)
        and len(name) <= MAX_NAME_LENGTH
        and name.isprintable()
        and "\\" not in name
        and not {"", ".", ".."} & set(name.split("/"))
    ):
        raise FormatError(
            f"{name!r} cannot name a matrix in a file.\n"
            f"A name has up to {MAX_NAME_LENGTH} printable characters without backslashes; it may "
            "have parts, joined by single slashes."
        )
