"""Finding the compiled extension, and doing without it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest
from native_paths import REQUIRED

from tvwarray import _native
from tvwarray._native import native, why_not_native


@pytest.fixture(autouse=True)
def _fresh():
    """Look for the extension anew in every test, and again after the last."""
    _native._load.cache_clear()
    yield
    _native._load.cache_clear()


@pytest.mark.skipif(not REQUIRED, reason="TVWARRAY_REQUIRE_NATIVE=1 is not set")
def test_the_extension_is_there():
    assert native() is not None, why_not_native()


def test_there_is_an_extension_or_a_reason():
    assert (native() is None) == bool(why_not_native())


def test_the_environment_turns_it_off():
    code = "from tvwarray._native import *; print(native(), why_not_native())"
    made = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TVWARRAY_NATIVE": "0"},
        cwd=os.path.dirname(__file__),
        check=True,
        capture_output=True,
        text=True,
    )
    assert made.stdout == "None TVWARRAY_NATIVE=0 turns the compiled extension off.\n"


def test_it_is_missing(monkeypatch):
    monkeypatch.delenv("TVWARRAY_NATIVE", raising=False)
    monkeypatch.setitem(sys.modules, "tvwarray._cpu", None)
    assert native() is None
    assert "without its compiled extension" in why_not_native()


def test_it_does_not_load(monkeypatch):
    def fail(name):
        raise ImportError("GLIBC_9.9 not found")

    monkeypatch.delenv("TVWARRAY_NATIVE", raising=False)
    monkeypatch.setattr(importlib, "import_module", fail)
    assert native() is None
    assert "does not load: GLIBC_9.9 not found" in why_not_native()


def test_what_the_extension_itself_misses_is_no_missing_extension(monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("no numpy", name="numpy")

    monkeypatch.delenv("TVWARRAY_NATIVE", raising=False)
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="no numpy"):
        native()
