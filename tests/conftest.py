"""Hypothesis profiles, and the marks that say what a machine lacks."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# Examples are arrays: drawing them is slow on a loaded machine, which is no fault of a test.
settings.register_profile(
    "default",
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("ci", settings.get_profile("default"), max_examples=80, derandomize=True)
settings.register_profile("brief", settings.get_profile("default"), max_examples=8)
settings.register_profile("nightly", settings.get_profile("default"), max_examples=1500)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks of scipy's own tests (`test_scipy_base`)."""
    for mark in ("slow", "xslow", "fail_slow", "thread_unsafe"):
        config.addinivalue_line("markers", f"{mark}: a mark of scipy's tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests where there is no GPU."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU and CuPy"))


def _gpu() -> bool:
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.is_available())
