"""Running the layout searches in NumPy or compiled, whatever the machine has.

Where the extension is missing the compiled half is skipped; with ``TVWARRAY_REQUIRE_NATIVE=1``, as
CI sets it, it fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import pytest

from tvwarray import _entries, _reduce
from tvwarray._convert import build
from tvwarray._layouts import exchange, first_fit, group_rows, hidden, permute, slots, tiles
from tvwarray._native import native, why_not_native

REQUIRED = os.environ.get("TVWARRAY_REQUIRE_NATIVE") == "1"

needs_native = pytest.mark.skipif(native() is None and not REQUIRED, reason=why_not_native())

paths = pytest.mark.parametrize("path", ["numpy", pytest.param("compiled", marks=needs_native)])


@contextmanager
def on(path: str) -> Iterator[None]:
    """Run the searches on "numpy" or "compiled" alone."""
    if path == "compiled":
        assert native() is not None, f"TVWARRAY_REQUIRE_NATIVE=1, but {why_not_native()}"
        yield
        return
    with ExitStack() as stack:
        for module in (
            exchange,
            first_fit,
            group_rows,
            hidden,
            permute,
            tiles,
            slots,
            build,
            _entries,
            _reduce,
        ):
            stack.enter_context(mock.patch.object(module, "native", return_value=None))
        yield


def on_both(search):
    """Return what `search` returns on each path."""
    with on("numpy"):
        by_numpy = search()
    with on("compiled"):
        return by_numpy, search()
