"""Links between the documents, and to the code they name: what a reader clicks is there."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
from pathlib import Path

import gpu_table
import numpy as np
import on_paper
import pytest

import tvwarray
from tvwarray.__main__ import main as cli

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


# ---- Figures and the commands that print them --------------------------------------------------

COMMAND = re.compile(
    r"`((?:\w+=\S+ )*(?:python\s+(?:asv_bench|tests|docs|examples)/|tvwarray )[^`]+)`"
)


def commands_of(text):
    """Return the commands in backquotes, on one line each."""
    return [re.sub(r"\s+", " ", found) for found in COMMAND.findall(text)]


def is_figure(cell):
    """Return whether a cell holds figures alone, and not just counts."""
    rest = re.sub(r"\b(?:us|ms|s|kB|MB|GB|x)\b|[\d.,/()±+−–%*x -]", "", cell)
    return not rest and bool(re.search(r"\.\d|\d / \d", cell))


def measured_rows(text):
    """Return the rows of tables with two such cells or more."""
    rows = re.findall(r"^\|(.+)\|$", text, flags=re.M)
    return [row for row in rows if sum(map(is_figure, row.split("|"))) >= 2]


PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]
COMMANDS = sorted({command for page in PAGES for command in commands_of(page.read_text())})


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_sections_with_measured_tables_name_a_command(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    beginning, *sections = re.split(r"^(?=## )", text, flags=re.M)
    for section in (beginning, *sections):
        if measured_rows(section):
            named = (
                commands_of(beginning)
                or commands_of(section)
                or re.search(r"`tests/test_\w+\.py`", section)
            )
            row = measured_rows(section)[0]
            assert named, f"{path.name}: which command prints {row!r}?"


def test_the_rule_for_measured_tables_sees_them():
    assert measured_rows("| 4096^3 | 1.39 (132) | 2.50 (73.3) |")
    assert measured_rows("| 1 x 4096 x 4096 | 2.0 / 4.3 / 8.3 / 21 | 2.5 / 6.0 / 12 / 28 |")
    assert measured_rows("| EW | .7435 ± .0035 | .7353 ± .0029 |")
    assert not measured_rows("| float16 | itself | 32 |")
    assert sum(bool(measured_rows(page.read_text())) for page in PAGES) >= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_named_commands_exist_and_have_the_options(command, capsys):
    words = [w for w in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S*", w)]
    options = {w.partition("=")[0] for w in words if w.startswith("--")}
    if words[0] == "tvwarray":
        if not words[1].islower():
            return
        assert cli([words[1], "--help"]) == 0
        assert options <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        return
    script = TOP / words[1]
    source = script.read_text()
    code = compile(source, str(script), "exec")
    assert code.co_consts[0], f"{script.name} says nothing of itself"
    assert f"python {words[1]}" in code.co_consts[0]
    for option in options:
        assert option in source, f"{script.name} has no {option}"


def test_every_page_with_measured_tables_is_in_the_list_of_commands():
    listed = (TOP / "docs" / "benchmarks.md").read_text().partition("## Commands")[2]
    for page in PAGES:
        if page.name != "benchmarks.md" and measured_rows(page.read_text()):
            assert f"({page.name})" in listed or page.stem in listed, page.name


def test_tables_of_the_gpu_run_are_those_of_the_kept_results():
    """After a new run: python asv_bench/gpu_table.py --write, and asv_bench/on_paper.py --write"""
    for page, text in gpu_table.pages().items():
        assert page.read_text() == text, page.name
    scaling = on_paper.PAGE.read_text()
    assert gpu_table.written(scaling, on_paper.tables()) == scaling
    assert all(f"<!-- {name} -->" in scaling for name in on_paper.tables())


def test_figures_of_the_study_are_those_of_its_results(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    place = TOP / "asv_bench" / "study"
    monkeypatch.setattr("sys.argv", ["report.py", str(place / "results"), str(tmp_path)])
    runpy.run_path(str(place / "report.py"), run_name="__main__")
    cell = r"[−+]?\.\d{4} ± \.\d{4}"
    printed = set(re.findall(cell, capsys.readouterr().out))
    shown = re.findall(cell, (TOP / "docs" / "study.md").read_text())
    assert len(shown) > 100
    assert not set(shown) - printed
