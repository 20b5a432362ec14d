"""2:4-compressed matrices by the name of the form in which their positions are written."""

from __future__ import annotations

from typing import Literal, get_args

from tvwarray._convert.compressed import from_24, from_bitmask, to_24, to_bitmask
from tvwarray._convert.cutlass import from_cutlass, to_cutlass
from tvwarray._errors import FormatError
from tvwarray._namespace import Array
from tvwarray._storage import TVWStorage

Form24 = Literal["positions", "cutlass", "bitmask"]


def from_24_form(values: Array, places: Array, form: Form24, tile_rows: int) -> TVWStorage:
    """Convert what `form` names: see `from_24`, `from_cutlass`, `from_bitmask`.

    Raises
    ------
    FormatError
        If no form has this name, or the arrays do not fit it.
    """
    _check(form)
    if form == "cutlass":
        return from_cutlass(values, places, tile_rows=tile_rows)
    if form == "bitmask":
        if values.ndim != 2:
            raise FormatError(f"values have {values.ndim} dimensions; those of a matrix have 2.")
        shape = int(values.shape[0]), 2 * int(values.shape[1])
        return from_bitmask(values, places, shape, tile_rows=tile_rows)
    return from_24(values, places, tile_rows=tile_rows)


def to_24_form(storage: TVWStorage, form: Form24) -> tuple[Array, Array]:
    """Return values and positions in a form: the inverse of `from_24_form`.

    Raises
    ------
    FormatError
        If no form has this name, or the matrix does not fit it.
    """
    _check(form)
    if form == "cutlass":
        return to_cutlass(storage)
    return to_bitmask(storage) if form == "bitmask" else to_24(storage)


def _check(form: str) -> None:
    if form not in get_args(Form24):
        names = ", ".join(f'"{name}"' for name in get_args(Form24))
        raise FormatError(f"form is {form!r}; it is one of {names}.")
