"""The file in which a pruning in stages waits to be resumed.

One ``.safetensors`` file, replaced in one step, so that a reader finds the state after one stage or
after the next. It is read without trust: nothing is unpickled, and sizes are checked before memory
is taken::

    __metadata__["tvwarray"]      {"pruning": 1, "plan": ..., "records": [...], "arrays": {...}}
    mask/NAME                     uint8, eight entries a byte
    row_indptr/NAME ...           int32, the layout, where the pattern gave one
    snapshot/NAME                 what the caller wants back, in its own dtype
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import prod
from typing import Any, Final

import numpy as np

from tvwarray._convert import from_selection
from tvwarray._dtypes import INT32, VALUE_DTYPES, value_dtype
from tvwarray._errors import FormatError
from tvwarray._io.header import parse_json
from tvwarray._io.safely import PathLike, reading, replacing
from tvwarray._io.safetensors import SafetensorsSource, write
from tvwarray._layouts.find import Layout
from tvwarray._storage import SLOT_MULTIPLE, HostArray
from tvwarray.prune.selection import Selection

_VERSION: Final = 1
_MOST_SLOTS: Final = 4
"""A pattern gives a column one slot in a tile; the lossless packing a few, where it is crowded."""

_INDEX_FIELDS: Final = ("row_indptr", "row_indices", "col_indptr", "col_indices")


@dataclass(frozen=True)
class StageRecord:
    """What one stage of a pruning did."""

    stage: int
    """Its number, from 0."""
    target: float
    """The sparsity asked for."""
    sparsity: float
    """The sparsity reached: the pruned share of all entries of all layers."""
    score_kept: float
    """The share of the sum of all scores that was kept."""
    pruned: float | None
    """The metric after pruning, before fine-tuning."""
    metric: float | None
    """The metric after fine-tuning."""
    attempt: int
    """How often the stage was fine-tuned."""
    accepted: bool
    seconds: float
    """How long it took, all attempts together."""


@dataclass(frozen=True)
class PruningState:
    """What a pruning has come to."""

    plan: dict[str, Any]
    """What must be the same when it goes on: JSON."""
    dense: float | None = None
    """The metric before the first stage."""
    records: tuple[StageRecord, ...] = ()
    """Of the stages that were accepted, or refused at last."""
    selections: Mapping[str, Selection] = field(default_factory=dict)
    """By layer, as of the last stage accepted."""
    snapshot: Mapping[str, HostArray] = field(default_factory=dict)
    """What the caller wants back, as of the last stage accepted."""


def save_state(path: PathLike, state: PruningState) -> None:
    """Write `state` to `path`, replacing what is there in one step.

    Raises
    ------
    FormatError
        If an array of the snapshot has a dtype that a file cannot hold.
    """
    arrays: dict[str, HostArray] = {}
    layouts: dict[str, Any] = {}
    for name, (mask, layout) in state.selections.items():
        arrays[f"mask/{name}"] = np.packbits(mask.reshape(-1))
        layouts[name] = {"shape": mask.shape, "layout": None}
        if layout is not None:
            layouts[name]["layout"] = {"tile_rows": layout.tile_rows, "vector": layout.vector}
            arrays |= {f"{f}/{name}": getattr(layout, f) for f in _INDEX_FIELDS}
    shapes: dict[str, Any] = {}
    for name, array in state.snapshot.items():
        dtype = value_dtype(array.dtype, where=f"snapshot {name!r}")
        arrays[f"snapshot/{name}"] = np.ascontiguousarray(array, dtype).reshape(-1)
        shapes[name] = {"shape": array.shape, "dtype": dtype.name}
    header = {
        "pruning": _VERSION,
        "plan": state.plan,
        "dense": state.dense,
        "records": [{f.name: getattr(r, f.name) for f in fields(r)} for r in state.records],
        "selections": layouts,
        "snapshot": shapes,
    }
    with replacing(path) as file:
        write(file, json.dumps(header, separators=(",", ":")), arrays)


def load_state(path: PathLike) -> PruningState:
    """Read what `save_state` wrote.

    Raises
    ------
    FormatError
        If the file is damaged or of another kind.
    OSError
        If it cannot be read.
    """
    with reading(path), open(path, "rb") as file:
        source = SafetensorsSource(file, os.fstat(file.fileno()).st_size)
        header = parse_json(source.header)
        if not isinstance(header, dict) or header.get("pruning") != _VERSION:
            raise FormatError("the file holds no state of a pruning that this version reads.")
        selections = {n: _read_selection(source, n, e) for n, e in header["selections"].items()}
        snapshot = {n: _read_snapshot(source, n, e) for n, e in header["snapshot"].items()}
        records = tuple(StageRecord(**r) for r in header["records"])
        return PruningState(header["plan"], header["dense"], records, selections, snapshot)


def _read_selection(source: SafetensorsSource, name: str, entry: Any) -> Selection:
    rows, cols = entry["shape"]
    packed = source.read(f"mask/{name}", np.dtype(np.uint8))
    if type(rows) is not int or type(cols) is not int or packed.size != -(-rows * cols // 8):
        raise FormatError(f"mask {name!r} has {packed.size} bytes, too many or few for its shape.")
    mask = np.unpackbits(packed, count=rows * cols).astype(np.bool_).reshape(rows, cols)
    if entry["layout"] is None:
        return Selection(mask, None)
    vector = entry["layout"]["vector"]
    layout = Layout(
        (rows, cols),
        entry["layout"]["tile_rows"],
        None if vector is None else tuple(vector),
        **{f: source.read(f"{f}/{name}", INT32) for f in _INDEX_FIELDS},
    )
    _check_layout(name, layout)
    # Whatever a storage made of it must obey, the layout must obey too.
    from_selection(mask, mask, layout).check()
    return Selection(mask, layout)


def _check_layout(name: str, layout: Layout) -> None:
    """Refuse offsets of a file by which a storage would take memory without bound."""
    rows, cols = layout.shape
    for field_name, indptr, indices, most in (
        ("rows", layout.row_indptr, layout.row_indices, rows),
        ("slots", layout.col_indptr, layout.col_indices, _MOST_SLOTS * cols + SLOT_MULTIPLE),
    ):
        sizes = np.diff(indptr.astype(np.int64))
        whole = indptr.size > 0 and indptr[0] == 0 and indptr[-1] == indices.size
        if not whole or (sizes < 0).any() or sizes.max(initial=0) > most:
            raise FormatError(f"the layout of {name!r} has {field_name} that do not fit its shape.")
    if layout.row_indptr.size != layout.col_indptr.size or layout.row_indices.size > rows:
        raise FormatError(f"the layout of {name!r} has more tiles or rows than it can have.")


def _read_snapshot(source: SafetensorsSource, name: str, entry: Any) -> HostArray:
    flat = source.read(f"snapshot/{name}", VALUE_DTYPES[entry["dtype"]])
    shape = tuple(entry["shape"])
    if any(type(n) is not int or n < 0 for n in shape) or prod(shape) != flat.size:
        raise FormatError(f"snapshot {name!r} has {flat.size} values; its shape is {shape}.")
    return flat.reshape(shape)
