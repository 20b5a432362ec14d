"""Files that are read without trust and replaced without loss."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from tvwarray._errors import FormatError

PathLike = str | os.PathLike[str]


@contextmanager
def reading(path: PathLike) -> Iterator[None]:
    """Turn whatever is wrong with the contents of a file into a `FormatError` that names it.

    The parsers of the standard library and of NumPy promise no particular exceptions for bytes made
    up to confuse them, so all are caught but those that speak of this machine, not of the file.
    """
    where = os.fspath(path)
    try:
        yield
    except FormatError as e:
        raise FormatError(f"{where}: {e}") from e
    except MemoryError:
        raise
    except OSError as e:
        if e.errno != errno.EINVAL:  # zipfile seeks to wherever a file tells it to
            raise
        raise FormatError(f"{where}: the file is damaged or of another kind ({e}).") from e
    except Exception as e:
        reason = f"{type(e).__name__}: {e}"
        raise FormatError(f"{where}: the file is damaged or of another kind ({reason}).") from e


@contextmanager
def replacing(path: PathLike) -> Iterator[BinaryIO]:
    """Give a new file that takes the place of `path` once it is complete and on the disk."""
    target = os.path.realpath(path)
    temporary = os.path.join(os.path.dirname(target), f".tvwarray-{secrets.token_hex(8)}.tmp")
    file = open(temporary, "xb")  # noqa: SIM115 - a name that is taken must not be removed below
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
