"""The compiled extension, where there is one: the only module that imports it.

Whatever it does, NumPy does too: a platform without a compiler, and ``TVWARRAY_NATIVE=0``, lose
speed and nothing else.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from types import ModuleType


def native() -> ModuleType | None:
    """Return the compiled extension, or None where NumPy has to do."""
    return _load()[0]


def why_not_native() -> str:
    """Return why `native` is None, as a sentence; empty where it is not."""
    return _load()[1]


@cache
def _load() -> tuple[ModuleType | None, str]:
    if os.environ.get("TVWARRAY_NATIVE") == "0":
        return None, "TVWARRAY_NATIVE=0 turns the compiled extension off."
    try:
        return importlib.import_module("tvwarray._cpu"), ""
    except ModuleNotFoundError as e:
        if e.name != "tvwarray._cpu":
            raise
        return None, "tvwarray was installed without its compiled extension."
    except ImportError as e:  # built for another Python or a newer system library
        return None, f"the compiled extension does not load: {e}"
