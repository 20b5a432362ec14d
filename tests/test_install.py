"""What importing costs and brings along, and which copy of the package is imported."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest

import tvwarray
from tvwarray import _install

HEAVY = ("cupy", "cupyx", "torch", "jax", "tensorflow", "matplotlib", "dask", "safetensors", "tqdm")


def run(code, cwd):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=True,
    ).stdout


def test_nothing_heavy_is_imported(tmp_path):
    out = run(
        f"""
        import sys, numpy as np, tvwarray
        A = tvwarray.sparsify(np.ones((64, 64), np.float32), 0.5)
        A @ np.ones((64, 2), np.float32); repr(A); A._repr_html_(); A.tocsr()
        print([m for m in {HEAVY} if m in sys.modules])
        """,
        tmp_path,
    )
    assert out.strip() == "[]"


def test_import_is_quick(tmp_path):
    """Under 0.3 s beyond NumPy and SciPy, the best of five on a machine that others use too."""
    code = """
        import time, numpy, scipy.sparse, scipy.special, ml_dtypes
        start = time.perf_counter()
        import tvwarray
        print(time.perf_counter() - start)
        """
    assert min(float(run(code, tmp_path)) for _ in range(5)) < 0.3


def test_version_and_names():
    assert tvwarray.__version__ == version("tvwarray")
    for name in tvwarray.__all__:
        assert getattr(tvwarray, name) is not None
    for name in tvwarray.prune.__all__:
        assert getattr(tvwarray.prune, name) is not None


def test_a_source_folder_beside_an_installation_says_so(tmp_path, monkeypatch):
    class Installed:
        def __init__(self, folder):
            self.folder = folder

        def locate_file(self, name):
            return self.folder / name

    def fake(folder):
        monkeypatch.setattr("importlib.metadata.distribution", lambda name: Installed(folder))

    clone, site = tmp_path / "clone", tmp_path / "site"
    for folder in (clone, site):
        (folder / "tvwarray").mkdir(parents=True)
    monkeypatch.setattr(_install, "__file__", str(clone / "tvwarray" / "_install.py"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fake(site)
        _install.warn_of_source_folder()  # no pyproject.toml beside it: an installation
        (clone / "pyproject.toml").touch()
        fake(clone)
        _install.warn_of_source_folder()  # editable
        fake(tmp_path / "nowhere")
        _install.warn_of_source_folder()
    fake(site)
    with pytest.warns(UserWarning, match="source folder .* and not from its installation"):
        _install.warn_of_source_folder()
    assert Path(_install.__file__).exists() is False


def test_a_source_folder_alone_is_fine(tmp_path, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def missing(name):
        raise PackageNotFoundError(name)

    (tmp_path / "tvwarray").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(_install, "__file__", str(tmp_path / "tvwarray" / "_install.py"))
    monkeypatch.setattr("importlib.metadata.distribution", missing)
    _install.warn_of_source_folder()
