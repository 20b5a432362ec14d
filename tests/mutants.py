"""What tests of altered kernels share: what a mutant is, and how it is told that it was caught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvwarray._kernels.compile import shipped_sources


class WrongResultError(Exception):
    """The mutant has run to its end and its product is wrong."""


class BankConflictError(Exception):
    """The product is right, and slow."""


@dataclass(frozen=True)
class Mutant:
    """One replacement in one shipped file, and the error that must come of it."""

    file: str
    old: str
    new: str
    error: type[Exception] | tuple[type[Exception], ...]
    message: str = ""


def altered(kernel: str, file: str, old: str, new: str) -> dict[str, str]:
    """Return the source with a mutant in place of what stands there once."""
    text = shipped_sources(kernel)[file]
    assert text.count(old) == 1, "the mutant does not fit the source any more"
    return {file: text.replace(old, new)}


def raise_what_is_wrong(
    got: np.ndarray, want: np.ndarray, reports: Sequence[Any], besides: str = ""
) -> None:
    """Raise if a product is not the right one, or an access of shared memory had a conflict.

    Instructions `besides` gather, and may have them.
    """
    if not np.array_equal(got, want):
        raise WrongResultError
    found = [c for report in reports for c in report.conflicts if c.mnemonic != besides]
    if any(c.degree > 1 for c in found):
        raise BankConflictError
