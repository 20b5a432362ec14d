"""Links between the documents, and to the code they name: what a reader clicks is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import tvwarray

TOP = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*TOP.glob("*.md"), *(TOP / "docs").glob("*.md")])


def anchors(path):
    """Return the anchors of a document's headings, as they are made from their text."""
    headings = re.findall(r"^#+ +(.+)$", path.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        if target == "gallery/index":  # made of the examples when the pages are built
            target = "../examples/GALLERY_HEADER.rst"
        place = (path.parent / target) if target else path
        assert place.exists(), f"{path.name}: {link}"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{path.name}: {link}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_named_files_of_the_package_exist(path):
    for name in re.findall(
        r"`((?:tvwarray|asv_bench|tests|docs|examples)/[\w./-]+\.\w+)`", path.read_text()
    ):
        assert (TOP / name).exists(), f"{path.name}: {name}"


def test_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    readme = (TOP / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", readme, flags=re.M | re.S)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    x, a = (m.astype(np.float64) for m in (names["x"], names["A"].toarray().T))
    bound = a.shape[0] * np.finfo(np.float32).eps * (abs(x) @ abs(a))  # any order of the sums
    assert (abs(names["y"] - x @ a) <= bound).all()
    assert (tvwarray.load("w.safetensors") != names["A"]).nnz == 0
    assert "selected" in capsys.readouterr().out


@pytest.mark.parametrize("module", [tvwarray, tvwarray.prune], ids=lambda m: m.__name__)
def test_every_public_name_is_in_the_reference(module):
    listed = (TOP / "docs" / "api.md").read_text()
    public = {n for n in module.__all__ if not n.startswith("_")} - {"prune"}
    missing = {n for n in public if not re.search(rf"\b{n}\b", listed)}
    assert not missing


def test_plans_in_the_docs_are_those_that_are_made():
    """After a change of kernels or of the cost model: python docs/plans.py --write"""
    spec = importlib.util.spec_from_file_location("plans", TOP / "docs" / "plans.py")
    plans = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plans)
    assert plans.page() == plans.PAGE.read_text(), "run python docs/plans.py --write"
    assert len(plans.plans().split("\n\n")) == 12
    assert {n for *_, n in plans.PRODUCTS} >= {1, 16384}
