"""What the pages of the documentation show of the frameworks runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def run(page):
    """Run the one block of Python of a page; gives its names."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), flags=re.M | re.S)
    names = {}
    exec(compile(code, page, "exec"), names)
    return names


def test_interop():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    names = run("interop.md")
    A = torch.from_numpy(names["A"].toarray())
    torch.testing.assert_close(names["y"], names["x"] @ A.T)
    values = names["model"][0].values
    assert values.grad.shape == values.shape


def test_scaling():
    pytest.importorskip("dask", reason="Dask is not installed")
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    names = run("scaling.md")
    np.testing.assert_allclose(names["y"], names["A"].toarray() @ names["x"])
    assert names["Y"].compute().shape == (4096, 8)
