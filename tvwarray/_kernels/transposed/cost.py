"""How long ``A.T @ Y`` takes, and which config it runs.

An item is a tile's slots in a range. Where ``A @ X`` hides most of what feeds its products, here
the time of both adds up, and each step has a time of its own::

    item  = max(1.44 x products x clocks + bytes of A and Y / L2 rate + steps x hand-over,
                steps x latency / stages ahead)
    time  = launch + memory + items of the busiest multiprocessor, its start and end

Fitted to 24 times of an H200 (4096^3, tiles of 128 rows, 50 to 95 %, all ways of packing), which it
meets within 15 %.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Final, NamedTuple

import numpy as np

from tvwarray._kernels.config import Element
from tvwarray._kernels.cost import (
    BLOCK_CLOCKS,
    JOIN_SECONDS,
    LATENCY_CLOCKS,
    LAUNCH_SECONDS,
    RATES,
    Prediction,
    predict_transpose,
)
from tvwarray._kernels.devices import Device, generation
from tvwarray._kernels.elements import form_of
from tvwarray._kernels.transposed.balance import piece_counts
from tvwarray._kernels.transposed.config import (
    FRAGMENT_VALUES,
    TransposedConfig,
    refusal_of,
    transposed_configs,
)
from tvwarray._kernels.transposed.pack import Order, shape_for
from tvwarray._storage import TVWStorage

PRODUCTS_SLOWER: Final = 1.44
"""Times as long as at the rate of `mma` alone."""

STEP_CLOCKS: Final = {8: 813.0, 16: 729.0}
"""What handing a step over takes, by the warps of a block: the barrier, the header, starting the
copies, the first fragments."""


class TransposedCandidate(NamedTuple):
    """A config and its modelled time."""

    config: TransposedConfig
    prediction: Prediction
    refusal: str = ""

    def __str__(self) -> str:
        return f"{self.config}: {self.refusal or self.prediction}"


@dataclass(frozen=True)
class TransposedChoice:
    """The candidates, best first."""

    candidates: tuple[TransposedCandidate, ...]
    packed_bytes: int = 0
    """What the matrix takes in the order of this kernel, beside others it may be packed in."""
    refusal: str = ""
    """Why there are no candidates."""

    @property
    def config(self) -> TransposedConfig | None:
        """The best candidate, or None if there is none."""
        return self.candidates[0].config if self.candidates else None

    def __str__(self) -> str:
        """Return a line for each candidate."""
        return "\n".join(map(str, self.candidates))


def choose_transposed(order: Order, element: Element, n: int, device: Device) -> TransposedChoice:
    """Rank the configs for a product with `n` columns of Y."""
    configs = transposed_configs(device.architecture, element, order.range_shape)
    ranked = [TransposedCandidate(c, predict_transposed(c, order, n, device)) for c in configs]
    ranked.sort(key=lambda candidate: candidate.prediction.seconds)
    return TransposedChoice(tuple(ranked), order.nbytes)


def choose_transposed_for(
    storage: TVWStorage, n: int, device: Device, *, column_major: bool = False
) -> TransposedChoice:
    """Rank the configs for a matrix that is not packed, and may lie anywhere."""
    form = form_of(storage.dtype)
    if form is None:
        return TransposedChoice(())
    if reason := refusal_of(form):
        return TransposedChoice((), refusal=reason)
    order = Order.of_storage(storage, shape_for(storage, device.architecture))
    choice = choose_transposed(order, form.element, n, device)
    if not column_major:
        return choice
    seconds = predict_transpose(storage.shape[0], n, storage.dtype.itemsize, device)
    return replace(choice, candidates=tuple(
        c._replace(prediction=c.prediction.behind("transpose", seconds)) for c in choice.candidates
    ))  # fmt: skip


def predict_transposed(
    config: TransposedConfig, order: Order, n: int, device: Device
) -> Prediction:
    """Return the modelled time of ``A.T @ Y`` for `n` columns of Y."""
    rows, cols = order.shape
    columns = max(1, ceil(n / config.block_n))
    pieces = piece_counts(order, columns, config, device.multiprocessors)
    clocks, limit = _clocks(config, order, device)
    blocks = int(pieces.sum()) * columns
    busiest = ceil(blocks / device.multiprocessors)
    total = 0.0 if not blocks else busiest * (clocks * columns / blocks + BLOCK_CLOCKS)
    joined = int(pieces[pieces > 1].sum()) * columns * config.sums_bytes
    parts = {
        "launch": LAUNCH_SECONDS + (JOIN_SECONDS if joined else 0.0),
        "memory": (order.nbytes + 2 * (rows + cols) * n) / device.dram_rate,
        "blocks": total / device.clock
        + 2
        * joined
        / (RATES[generation(device.architecture)].l2_bytes * device.clock)
        / device.multiprocessors,
    }
    if parts["memory"] > parts["blocks"]:
        limit = "memory"
    return Prediction(sum(parts.values()), parts, limit)


def _clocks(config: TransposedConfig, order: Order, device: Device) -> tuple[float, str]:
    """Return the clocks of all steps for one block's width of Y, and what takes most of them."""
    rates = RATES[generation(device.architecture)]
    fragments, slices = order.fragments.astype(float), order.item_slices
    steps = order.item_steps
    products = 2 * (config.block_n // 8) * rates.dense_clocks * fragments * slices
    values = 2 * FRAGMENT_VALUES * fragments * slices
    paths = {
        "tensor cores": PRODUCTS_SLOWER * products,
        "L2": (values + config.y_stage_bytes / config.slices * slices) / rates.l2_bytes,
        "steps": STEP_CLOCKS[config.warps] * steps,
    }
    busy = paths["tensor cores"] + paths["L2"] + paths["steps"]
    waits = LATENCY_CLOCKS / (config.stages - 1) * steps
    totals = {name: float(path.sum()) for name, path in paths.items()}
    limit = max(totals, key=lambda name: totals[name])
    return float(np.maximum(busy, waits).sum()), limit
