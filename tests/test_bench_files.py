"""What `tvwarray bench --out` leaves behind."""

from __future__ import annotations

import csv
import json

import matplotlib as mpl
import numpy as np
import pytest

from tvwarray.__main__ import main
from tvwarray._cli.bench_files import Ceilings, Point, break_even, draw_roofline, draw_speedup

mpl.use("agg")


def points():
    return [
        Point("A @ X", 64, 32, "float32", s, n, "cpu", 1e-5, 1e-5 * v, 2e-5, v, 2.0, 0.1, 4096, 999)
        for n in (1, 8)
        for s, v in ((0.5, 0.5), (0.75, 2.0), (0.9, 8.0))
    ]


def test_a_run_leaves_a_table_the_machine_and_pictures(tmp_path, capsys):
    pytest.importorskip("threadpoolctl")
    arguments = "bench --shape 64x48 --sparsity 0.5 0.9 --n 1 4 --seconds 0.001 --threads 1 --out"
    assert main([*arguments.split(), str(tmp_path / "out")]) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))
    assert len(rows) == 2 * 2 * 2
    assert {(r["rows"], r["cols"], r["n"]) for r in rows} == {("64", "48", "1"), ("64", "48", "4")}
    assert all(float(r["seconds"]) > 0 and float(r["error_over_bound"]) <= 1 for r in rows)
    machine = json.loads((tmp_path / "out" / "machine.json").read_text())
    assert machine["numpy"] == np.__version__
    assert float(machine["measured_flops"]) > 0
    for name in ("speedup.png", "roofline.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    assert "speedup.png" in capsys.readouterr().err


def test_break_even_lies_between_the_points_around_it():
    assert break_even([50, 75], [0.5, 2.0]) == 62.5
    assert break_even([50, 75], [1.5, 2.0]) is None
    assert break_even([], []) is None


def test_break_even_is_marked():
    figure = draw_speedup(points())
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["n = 1", "n = 8"]
    assert "62 %" in [t.get_text() for t in ax.texts]


def test_the_roof_is_that_of_the_ceilings():
    ceilings = Ceilings(flops=1e11, nbytes=1e10, cached_nbytes=4e10)
    ax = draw_roofline(points(), ceilings).axes[0]
    for line, slope in zip(ax.lines, (10, 40), strict=False):
        x, y = line.get_data()
        np.testing.assert_allclose(y, np.minimum(slope * x, 100))
    assert len(ax.lines) == 2 + 3


def test_every_point_is_inside_the_panels():
    several = [p._replace(rows=r, product=w) for p in points() for r in (64, 96) for w in "ab"]
    figure = draw_speedup(several)
    assert len(figure.axes) == 4
    for ax in figure.axes:
        low, high = ax.get_ylim()
        assert low < 0.5
        assert high > 8.0
        assert len(ax.get_lines()) == 1 + 2 * 2 + 2  # dense, n twice with CSR, break-even
