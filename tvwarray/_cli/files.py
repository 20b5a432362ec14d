"""Any file a command takes, as a list of matrices that are read one at a time.

================  ===========================================================
suffix            holds
================  ===========================================================
``.npz``          what tvwarray saved, ``scipy.sparse.save_npz`` or ``numpy.savez``
``.npy``          an array
``.safetensors``  what tvwarray saved, or the tensors of a model
``.mtx[.gz]``     a Matrix Market matrix, sparse or dense
================  ===========================================================

Files are not trusted: nothing is unpickled, and whatever is wrong with one is a `FormatError`.
"""

from __future__ import annotations

import errno
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import IO, Any, Final, NamedTuple, TypeAlias, TypeVar

import numpy as np
import scipy.io
import scipy.sparse as sp

import tvwarray
from tvwarray._cli.model import read_header, read_tensor
from tvwarray._cli.suggest import did_you_mean
from tvwarray._dtypes import VALUE_DTYPES, DType
from tvwarray._errors import FormatError
from tvwarray._io.npz import HEADER_MEMBER
from tvwarray._layouts.find import LayoutName
from tvwarray._matrix import TVWMatrix
from tvwarray._storage import HostArray

Matrix: TypeAlias = Any
"""A NumPy array, a matrix of scipy.sparse, or a `TVWMatrix`."""

T = TypeVar("T")

DEFAULT_TILE_ROWS: Final = 128


class Entry(NamedTuple):
    """A matrix of a file, or something else that stands there."""

    name: str
    """Empty for the one matrix of a file that knows no names."""
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Matrix]
    refusal: str = ""
    """Why it cannot become a `TVWMatrix`; empty if it can."""


class Source(NamedTuple):
    """What a file holds."""

    kind: str
    """Of what kind the file is, in words."""
    matrices: list[Entry]
    others: list[Entry]
    """What is left alone: entries with a refusal."""


def open_source(path: str, only: Sequence[str] = (), *, any_rank: bool = False) -> Source:
    """Look into a file; most values are read later, by `Entry.read`.

    Parameters
    ----------
    path : str
    only : sequence of str
        Shell patterns, such as ``"encoder.*"``: take the matrices alone whose name matches one.
    any_rank : bool
        Take a file without matrices as well: convolutions are pruned, too.

    Raises
    ------
    FormatError
        If the suffix is unknown, the file is damaged, or no matrix of it is left.
    OSError
        If the file cannot be read.
    """
    suffix = _suffix(path)
    if not os.path.lexists(path):
        raise FileNotFoundError(f"{path}: No such file{_near(path) or '.'}")
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise FormatError(f"{path}: this is no regular file.")
    kind, entries = _guarded(path, lambda: _READERS[suffix](path))
    matrices = [e for e in entries if not e.refusal]
    others = [e for e in entries if e.refusal]
    if not matrices and not any_rank:
        raise FormatError(f"{path}: {_nothing(others)}")
    if only:
        names = [e.name for e in matrices]
        matrices = [e for e in matrices if any(fnmatchcase(e.name, p) for p in only)]
        if not matrices:
            meant = did_you_mean(only[0], names) or "."
            raise FormatError(f"{path}: no matrix of it has a name like {' or '.join(only)}{meant}")
    return Source(kind, matrices, others)


def as_dense(matrix: Matrix) -> HostArray:
    """Return a matrix of any kind as a dense array."""
    dense: HostArray = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
    return dense


def as_tvw(matrix: Matrix, tile_rows: int, layout: LayoutName = "lossless") -> TVWMatrix:
    """Return a dense array or a matrix of scipy as a `TVWMatrix`."""
    if sp.issparse(matrix):
        return TVWMatrix.from_scipy(matrix, tile_rows=tile_rows, layout=layout)
    return TVWMatrix.from_dense(matrix, tile_rows=tile_rows, layout=layout)


def plural(count: int, one: str, many: str) -> str:
    """Return a count with its word: ``"1 matrix"``, ``"2 matrices"``."""
    return f"{count:,} {one if count == 1 else many}"


def left_alone(source: Source) -> str:
    """Return a sentence on what is left alone, or an empty string."""
    if not source.others:
        return ""
    reasons: dict[str, int] = {}
    for entry in source.others:
        reasons[entry.refusal] = reasons.get(entry.refusal, 0) + 1
    listed = ", ".join(f"{reason}: {count:,}" for reason, count in reasons.items())
    count = plural(len(source.others), "array", "arrays")
    return f"Left alone, being no matrices: {count} ({listed})."


def _suffix(path: str) -> str:
    name = path.lower()
    for suffix in _READERS:
        if name.endswith(suffix):
            return suffix
    raise FormatError(f"{path}: the suffix is none of {', '.join(_READERS)}{_near(path) or '.'}")


def _near(path: str) -> str:
    """Return what file beside `path` may have been meant, or an empty string."""
    folder, name = os.path.split(path)
    try:
        beside = os.listdir(folder or ".")
    except OSError:
        return ""
    return did_you_mean(name, sorted(b for b in beside if b.lower().endswith(tuple(_READERS))))


def _nothing(others: list[Entry]) -> str:
    if len(others) == 1:
        return f"the array is {others[0].refusal}; a matrix has 2 dimensions and holds numbers."
    return f"none of its {len(others)} arrays has 2 dimensions and holds numbers."


def _refusal(shape: tuple[int, ...], dtype: DType | None, code: str) -> str:
    if len(shape) != 2:
        return f"{len(shape)}-D"
    return "" if dtype is not None and dtype.name in VALUE_DTYPES else f"of {code} values"


def _read_mtx(path: str) -> tuple[str, list[Entry]]:
    matrix: Any = scipy.io.mmread(path, spmatrix=False)
    if not isinstance(matrix, np.ndarray):
        matrix = matrix.tocsr()
    return "Matrix Market file", [_held("", matrix)]


def _read_npy(path: str) -> tuple[str, list[Entry]]:
    with open(path, "rb") as file:
        shape, dtype = _npy_header(file)

    def read() -> HostArray:
        array: HostArray = np.load(path, allow_pickle=False)
        return array

    return "NumPy array", [_entry(path, "", shape, dtype, read)]


def _read_npz(path: str) -> tuple[str, list[Entry]]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if HEADER_MEMBER in names:
            return _read_tvw(path)
        if {"format.npy", "shape.npy", "data.npy"} <= set(names):
            return "SciPy sparse matrix", [_held("", sp.load_npz(path))]
        entries = []
        for member in names:
            if not member.endswith(".npy"):
                raise FormatError(f"it holds {member!r}, which is no array.")
            with archive.open(member) as file:
                shape, dtype = _npy_header(file)
            name = member.removesuffix(".npy")
            entries.append(_entry(path, name, shape, dtype, _npz_reader(path, name)))
    return "NumPy arrays", entries


def _npz_reader(path: str, name: str) -> Callable[[], HostArray]:
    def read() -> HostArray:
        with np.load(path, allow_pickle=False) as arrays:
            array: HostArray = arrays[name]
            return array

    return read


def _read_safetensors(path: str) -> tuple[str, list[Entry]]:
    tensors, is_tvw = read_header(path)
    if is_tvw:
        return _read_tvw(path)

    def entry(tensor: Any) -> Entry:
        read = _guarding(path, lambda: read_tensor(path, tensor))
        refusal = _refusal(tensor.shape, tensor.dtype, tensor.code)
        dtype = tensor.dtype.name if tensor.dtype else tensor.code
        return Entry(tensor.name, tensor.shape, dtype, read, refusal)

    return "model file", [entry(t) for t in tensors]


def _read_tvw(path: str) -> tuple[str, list[Entry]]:
    loaded = tvwarray.load(path)
    named = {"": loaded} if isinstance(loaded, TVWMatrix) else loaded
    return "tvwarray file", [_held(name, A) for name, A in named.items()]


_READERS: Final[dict[str, Callable[[str], tuple[str, list[Entry]]]]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
    ".mtx": _read_mtx,
    ".mtx.gz": _read_mtx,
}


def _held(name: str, matrix: Matrix) -> Entry:
    """Return the entry of a matrix that is in memory already."""
    dtype = matrix.dtype
    shape = tuple(int(n) for n in matrix.shape)
    return Entry(name, shape, dtype.name, lambda: matrix, _refusal(shape, dtype, dtype.name))


def _entry(
    path: str, name: str, shape: tuple[int, ...], dtype: DType, read: Callable[[], HostArray]
) -> Entry:
    refusal = _refusal(shape, dtype, dtype.name)
    return Entry(name, shape, dtype.name, _guarding(path, read), refusal)


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], DType]:
    try:
        version = np.lib.format.read_magic(file)
    except ValueError as e:
        raise FormatError("it is no .npy file, which begins with \\x93NUMPY.") from e
    read = np.lib.format.read_array_header_1_0
    shape, _, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
    return shape, dtype


def _guarding(path: str, read: Callable[[], T]) -> Callable[[], T]:
    return lambda: _guarded(path, read)


def _guarded(path: str, read: Callable[[], T]) -> T:
    with _reading(path):
        return read()


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Turn what parsers raise at a damaged file into a `FormatError` that names it.

    They promise no particular exceptions, so that all are caught but those on this machine.
    """
    try:
        yield
    except FormatError as e:
        raise e if str(e).startswith(path) else FormatError(f"{path}: {e}") from e
    except MemoryError:
        raise
    except Exception as e:
        # Of a damaged file, gzip raises an OSError without a number; zipfile seeks where it says.
        if isinstance(e, OSError) and e.errno not in (None, errno.EINVAL):
            raise
        raise FormatError(f"{path}: the file is damaged or of another kind ({e}).") from e
