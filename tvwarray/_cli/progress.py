"""A progress bar where somebody looks at one."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def progress(items: Sequence[T], unit: str) -> Iterator[T]:
    """Yield `items`, with a bar on stderr if it is a terminal and tqdm (extra ``io``) is there."""
    yield from _with_bar(items, unit)


def _with_bar(items: Sequence[T], unit: str) -> Iterable[T]:
    if len(items) < 2 or not sys.stderr.isatty():
        return items
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    bar: Iterable[T] = tqdm(items, unit=f" {unit}", leave=False)
    return bar
