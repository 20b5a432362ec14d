"""Small, ragged runs of every shipped kernel, in each of its configs: what sanitizers watch.

A `Place` says what runs them: a GPU under `tests/gpu/sanitize.py`, or the interpreter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from importlib import resources
from itertools import product
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from kernel_problems import (
    BFLOAT16,
    FLOAT16,
    HostArray,
    Product,
    draw_tiles,
    exact,
    integers,
    storage_of,
)
from test_gpu import shipped
from test_gpu_items import variants_of
from test_hopper_boxes import plain
from test_hopper_bytes import E4M3
from test_hopper_bytes import ragged as byte_problem
from test_kernels_types import problem as type_problem

from tvwarray import Epilogue
from tvwarray._kernels import workspace
from tvwarray._kernels.config import few_config
from tvwarray._kernels.elements import bfloat16_parts, form_of, refusal
from tvwarray._kernels.hopper.config import HopperConfig, hopper_configs
from tvwarray._kernels.hopper.config8 import byte_configs
from tvwarray._kernels.launch import Launcher
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply
from tvwarray._kernels.select import configs, configs_of
from tvwarray._kernels.split import SplitConfig, parts_of
from tvwarray._kernels.transpose import TransposeConfig, copy_to, rows_of
from tvwarray._namespace import array_namespace, to_host
from tvwarray._storage import ARRAY_FIELDS


class Place(NamedTuple):
    """What runs the kernels."""

    architecture: str
    launcher: Launcher
    single: Launcher
    """As a device of one multiprocessor, on which a persistent block takes several items."""
    array: Callable[[HostArray], Any]
    """Brings an array there."""


class Case(NamedTuple):
    """One run of a kernel; `right` says whether it gives what it should."""

    kernel: str
    what: str
    right: Callable[[], bool]


def shipped_kernels() -> set[str]:
    """Return the names of the package's kernels, as its sources have them."""
    found = set()
    for file in resources.files("tvwarray._kernels").iterdir():
        if file.name.endswith((".cu", ".cuh")):
            text = re.sub(r"__launch_bounds__\([^)]*\)|#include .*", "", file.read_text())
            names = re.findall(r"__global__\s+void\s+(\w+)\(", text)
            assert text.count("__global__") == len(names), file.name
            found |= set(names)
    return found


def cases(place: Place) -> Iterator[Case]:
    """Yield a run of every config of every kernel that the architecture has, and of its kinds."""
    yield from _sixteen_bits(place)
    yield from _other_types(place)
    yield from _copies(place)


def _sixteen_bits(place: Place) -> Iterator[Case]:
    here = place.architecture
    for dtype, sparse in product((FLOAT16, BFLOAT16), (True, False)):
        problem, own = _ragged(dtype, sparse, 72), configs(here, dtype, sparse)
        for config in shipped(here, dtype, sparse):
            yield _product(place, problem, config)
            if not sparse or dtype != FLOAT16:
                continue
            yield _product(place, problem, config, fused=True)
            if getattr(config, "cluster", 1) == 1:
                yield _product(place, problem, config, single=True)
            if isinstance(config, HopperConfig) and config.can_cut:
                for fused in (False, True):
                    yield _product(place, problem, config, fused=fused, cut=2)
            for variant in variants_of(config) if config in own else ():
                single = variant.persistent
                yield _product(place, problem, variant, single=single)
                yield _product(place, problem, variant, single=single, fused=True)
        for n in (1, 5, 64):
            problem = _ragged(dtype, sparse, n)
            config = few_config(dtype.name, sparse, n, len(problem.x))
            yield _product(place, problem, config)
            yield _product(place, problem, config, fused=True)
    for config in hopper_configs(here, FLOAT16, True, every_column=True):
        if config.boxes:
            yield _product(place, plain([200, 75], 400, 264, dropped=9), config)


def _other_types(place: Place) -> Iterator[Case]:
    here = place.architecture
    for kind, precision in (
        (np.dtype(np.int8), "default"), (E4M3, "default"), (E4M3, "highest"),
        (np.dtype(np.float32), "highest"), (np.dtype(np.float32), "tf32"),
        (np.dtype(np.float64), "default"),
    ):  # fmt: skip
        form = form_of(kind, precision)
        for config in byte_configs(here, form, True):
            yield _product(place, byte_problem(kind), config, form)
        if not refusal(form, here):
            for config in configs_of(here, form, True):
                yield _product(place, type_problem(kind, precision, True), config, form)


def _copies(place: Place) -> Iterator[Case]:
    for parts in (2, 3):
        for step in (1, 2):
            kernel = SplitConfig(parts).kernel
            yield Case(kernel, f"{parts} parts, step {step}", partial(_splits, place, parts, step))
    for size in (1, 2, 4, 8):
        kernel = TransposeConfig(size).kernel
        yield Case(kernel, f"{size} bytes, to rows", partial(_turns_to_rows, place, size))
        yield Case(kernel, f"{size} bytes, to columns", partial(_turns_to_columns, place, size))


def _product(place: Place, problem: Product, config: Any, form: Any = None, **how: Any) -> Case:
    words = "".join(f", {name} {value}" for name, value in how.items() if value)
    return Case(
        config.kernel, f"{config}{words}", partial(_multiplies, place, problem, config, form, **how)
    )


def _multiplies(
    place: Place, problem: Product, config: Any, form: Any,
    fused: bool = False, single: bool = False, cut: int = 0,
) -> bool:  # fmt: skip
    """Multiply integers, whose sums are exact; with `cut`, in pieces of so many steps."""
    arrays = {name: getattr(problem.storage, name) for name in ARRAY_FIELDS}
    there = {name: None if a is None else place.array(a) for name, a in arrays.items()}
    packed, x = pack(replace(problem.storage, **there), form), place.array(problem.x)
    expected = _exact(problem)
    epilogue = Epilogue()
    if fused:
        bias = np.arange(len(expected), dtype=np.float32)
        epilogue = Epilogue(bias=place.array(bias), activation="relu")
        expected = np.maximum(expected + bias[:, None], 0)
    by_columns = getattr(config, "column_major", False)
    out = array_namespace(x).empty(expected.shape[::-1], dtype=x.dtype).T if by_columns else None
    launcher = place.single if single else place.launcher
    with patch.object(workspace, "cut_of", lambda *_: cut) if cut else patch.dict({}):
        got = to_host(multiply(launcher, packed, x, out, config, epilogue))
    return np.array_equal(got, expected.astype(got.dtype))


@cache
def _exact(problem: Product) -> HostArray:
    return exact(problem)[0]


@cache
def _ragged(dtype: Any, sparse: bool, n: int) -> Product:
    """Return a ragged product: its longest tile is several blocks, or fills a ring twice."""
    rng = np.random.default_rng(1)
    rows, tiles = draw_tiles(rng, [128, 5, 140, 33], [208, 1024, 64, 0], 20, 300)
    storage = storage_of((rows, 300), tiles, dtype, sparse, integers(rng), rng)
    return Product(storage, integers(rng)((300, n)).astype(dtype))


def _splits(place: Place, parts: int, step: int) -> bool:
    """Split ragged rows of a batch, whole chunks of them (step 1) and element by element."""
    whole = np.random.default_rng(step).standard_normal((2, 37, 180), dtype=np.float32)
    got = to_host(parts_of(place.launcher, place.array(whole)[..., : 75 * step : step], parts))
    expected = np.zeros_like(got)
    expected[..., :75] = bfloat16_parts(whole[..., : 75 * step : step], parts)
    return np.array_equal(got, expected)


def _turns_to_rows(place: Place, size: int) -> bool:
    """Transpose a window of a batch, ragged in both directions, into wider rows."""
    whole = _elements((2, 141, 200), size)
    got = to_host(rows_of(place.launcher, place.array(whole)[..., 3:150].swapaxes(-1, -2), 150))
    expected = np.zeros_like(got)
    expected[..., :141] = whole[..., 3:150].swapaxes(-1, -2)
    return np.array_equal(got, expected)


def _turns_to_columns(place: Place, size: int) -> bool:
    """Copy rows to a window of columns, and write nothing beside it."""
    x, wide = _elements((141, 75), size), place.array(np.zeros((75, 150), f"u{size}"))
    copy_to(place.launcher, place.array(x), wide[:, 5:146].T)
    expected = np.zeros((75, 150), f"u{size}")
    expected[:, 5:146] = x.T
    return np.array_equal(to_host(wide), expected)


def _elements(shape: tuple[int, ...], size: int) -> HostArray:
    drawn = np.random.default_rng(size).integers(0, 2 ** (8 * size - 1), shape)
    return drawn.astype(f"u{size}")
