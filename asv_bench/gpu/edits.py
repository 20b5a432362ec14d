"""Shipped kernels with a part left out, or done otherwise: edits of their sources, as data.

Most are edits of the one small function that an instruction has (``ptx.cuh``, ``sm90_ptx.cuh``), so
that all of its uses are gone whatever the kernel around them looks like. Each must fit its file
exactly once: one that does not is an error, as a figure of something else would be.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvwarray._kernels.compile import shipped_sources


@dataclass(frozen=True)
class Edit:
    """One replacement in one shipped file."""

    file: str
    old: str
    new: str


Edits = tuple[Edit, ...]


def altered(kernel: str, edits: Edits) -> dict[str, str]:
    """Return the files of a kernel that `edits` change, changed.

    Raises
    ------
    ValueError
        If what an edit replaces does not stand in its file exactly once.
    """
    shipped, texts = shipped_sources(kernel), {}
    for edit in edits:
        text = texts.get(edit.file, shipped[edit.file])
        if (found := text.count(edit.old)) != 1:
            raise ValueError(f"{edit.file} holds {edit.old!r} {found} times; an edit fits it once.")
        texts[edit.file] = text.replace(edit.old, edit.new)
    return texts


def _begins_with(file: str, head: str, first: str) -> Edit:
    """Return the edit that puts `first` at the beginning of a function."""
    return Edit(file, head, f"{head}\n    {first}")


_PTX, _SM90 = "ptx.cuh", "sm90_ptx.cuh"

NO_COPIES = (_begins_with(_PTX, "copy_async(Word to, const void* from, bool wanted) {", "return;"),)
"""Nothing is copied by threads: X as it is gathered; on sm_80 A, too."""

NO_BULK = (
    _begins_with(
        _SM90, "copy_bulk(Word to, const void* from, int bytes, Word barrier) {", "return;"
    ),
    _begins_with(
        _SM90,
        "copy_bulk_to(Word to, const void* from, int bytes, Word barrier, Half blocks) {",
        "return;",
    ),
    Edit(
        _SM90, "arrive_expecting(Word barrier, int bytes) {",
        "arrive_expecting(Word barrier, int) {\n    constexpr int bytes = 0;",
    ),
)  # fmt: skip
"""A is not copied, and no barrier waits for it. What was in shared memory before is multiplied."""

NO_STORES = (
    _begins_with(
        _PTX, "store_global_chunk(void* to, const Chunk& c) {",
        "if (c.word[0] != 0x12345678) return;",
    ),
)  # fmt: skip
"""Sums are finished, and stored only if they are one number that they are not."""

NO_TURN = (
    _begins_with(_PTX, "load_matrices_transposed(Word from) {", "return {from, from, from, from};"),
    _begins_with(_SM90, "store_matrices(Word to, Word a, Word b, Word c, Word d) {", "return;"),
)
"""X lands and is not turned; what was in the stage before is multiplied."""

_NO_PRODUCT = """\
#include "wgmma.cuh"
template <int, bool, class Sums>
__device__ inline void no_product(Sums&, Descriptor, Descriptor, Word) {}
#define multiply_async no_product"""


def no_wgmma(kernel: str) -> Edits:
    """Return the edits that leave out the products of a Hopper kernel."""
    return (Edit(f"{kernel}.cu", '#include "wgmma.cuh"', _NO_PRODUCT),)


NO_MMA = (
    _begins_with(
        "products.cuh",
        "inline void multiply_sparse(Sums& c, const FragmentA& a, const FragmentB& b,\n"
        "                                       Word meta) {",
        "return;",
    ),
)
"""Fragments are loaded, and not multiplied."""

LEFT_OUT: dict[str, dict[str, Edits]] = {
    "sm80_tvw_gemm": {
        "no copies": NO_COPIES,
        "no products": NO_MMA,
        "no stores": NO_STORES,
    },
    "sm90_tvw_gemm": {
        "X not gathered": NO_COPIES,
        "A not copied": NO_BULK,
        "no products": no_wgmma("sm90_tvw_gemm"),
        "no stores": NO_STORES,
        "products alone": NO_COPIES + NO_BULK + NO_STORES,
    },
    "sm90_tvw_gemm8": {
        "X not gathered": NO_COPIES,
        "X not turned": NO_TURN,
        "A not copied": NO_BULK,
        "no products": no_wgmma("sm90_tvw_gemm8"),
        "no stores": NO_STORES,
        "products alone": NO_COPIES + NO_TURN + NO_BULK + NO_STORES,
    },
}
"""Of each kernel, what is left out. Results are wrong; times bound what a part costs beside all
others."""

_STORE = '"st.global.v4.b32'
_COPY = '"cp.async.cg.shared.global ['
_WORK = "n_blocks / wide, strip);"

OTHERWISE: dict[str, Edits] = {
    "one group of products under way": (
        Edit("sm90_tvw_gemm.cu", "wait_for_products<1>()", "wait_for_products<0>()"),
    ),
    "streaming stores": (Edit(_PTX, _STORE, _STORE.replace("v4", "cs.v4")),),
    "prefetch of 128 bytes": (Edit(_PTX, _COPY, _COPY.replace("global [", "global.L2::128B [")),),
    "one strip": (
        Edit("sm90_layout.cuh", _WORK, "n_blocks / wide, n_blocks / wide);"),
    ),
    "strips of one block": (Edit("sm90_layout.cuh", _WORK, "n_blocks / wide, 1);"),),
}  # fmt: skip
"""What ``sm90_tvw_gemm`` might do otherwise, with right results."""

FENCED = (
    Edit(
        _SM90,
        '"mbarrier.arrive.release.cta.shared::cluster.b64',
        '"mbarrier.arrive.release.cluster.shared::cluster.b64',
    ),
)
"""Arrivals at another block's barrier have the scope of the cluster."""

# Block rows and n, warpgroup rows and n, stages, gather warps and groups, registers of those who
# multiply and who copy, boxes, blocks of a cluster: see HopperConfig.
GATHERS: dict[str, tuple[int, ...]] = {
    "256 x 192": (256, 192, 128, 192, 5, 1, 4, 232, 40),
    "128 x 256, groups of 64 x 256": (128, 256, 64, 256, 5, 1, 4, 216, 72),
    "256 x 128, 5 stages": (256, 128, 128, 128, 5, 2, 4, 184, 56),
    "256 x 128, 4 stages": (256, 128, 128, 128, 4, 2, 4, 184, 56),
    "256 x 128, 2 groups of 4 warps": (256, 128, 128, 128, 6, 4, 2, 184, 56),
    "256 x 128, 1 group of 4 warps": (256, 128, 128, 128, 6, 4, 1, 208, 88),
}
"""Configs of ``sm90_tvw_gemm`` that are not shipped, of those that gather X."""

BOXES: dict[str, tuple[int, ...]] = {
    "128 x 256 boxes, not shared": (128, 256, 64, 256, 5, 1, 1, 232, 40, True, 1),
    "256 x 128 boxes, X shared by 2": (256, 128, 128, 128, 6, 1, 1, 232, 40, True, 2),
    "256 x 192 boxes, not shared": (256, 192, 128, 192, 5, 1, 1, 232, 40, True, 1),
}
"""The same of those that read it in boxes."""
