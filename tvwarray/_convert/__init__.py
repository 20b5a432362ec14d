"""Storage to and from every other form a matrix has, without loss.

What "without loss" means, the same for every form:

- every entry that is not equal to zero comes back bit for bit, NaN payloads and infinities too;
- zero is zero: an explicit zero or -0.0 is no entry. It comes back as +0.0 from a dense form and
  is absent from a sparse one. (A stored -0.0 survives among TVW forms: components, files, 2:4.)
- a narrow type that the target lacks widens exactly: scipy.sparse has no 16-bit or 8-bit floats, so
  these become float32 there. Nothing is ever narrowed.
"""

from tvwarray._convert.compressed import from_24, from_bitmask, to_24, to_bitmask
from tvwarray._convert.cutlass import from_cutlass, to_cutlass
from tvwarray._convert.dense import from_dense, from_selection, to_dense
from tvwarray._convert.forms import Form24, from_24_form, to_24_form
from tvwarray._convert.sparse import (
    empty,
    from_coo,
    from_sparse,
    remainder_csr,
    to_coo,
    to_csr,
    with_remainder,
)

__all__ = [
    "Form24",
    "empty",
    "from_24",
    "from_24_form",
    "from_bitmask",
    "from_coo",
    "from_cutlass",
    "from_dense",
    "from_selection",
    "from_sparse",
    "remainder_csr",
    "to_24",
    "to_24_form",
    "to_bitmask",
    "to_coo",
    "to_csr",
    "to_cutlass",
    "to_dense",
    "with_remainder",
]
