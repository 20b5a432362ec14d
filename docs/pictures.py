"""Draw the pictures of the documentation with the library itself: python docs/pictures.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import tvwarray

CELL = 7
GAP = 2.6  # cells between tiles, where their column lists stand
STYLE = """<style>
.page{fill:#fff}.ink{fill:#222}.note{fill:#666}.tile0{fill:#1f5fa8}.tile1{fill:#b5532a}.tile2{fill:#2f7d4f}
@media (prefers-color-scheme:dark){
.page{fill:#161b22}.ink{fill:#e6edf3}.note{fill:#9aa4b0}
.tile0{fill:#62a0ea}.tile1{fill:#f0a070}.tile2{fill:#6fcf97}}
</style>"""
TILES = ("tile0", "tile1", "tile2")
HERE = Path(__file__).resolve().parent


def rect(x, y, style, opacity=1.0, width=1.0, height=1.0):
    """Return one cell (or a bar of cells) of a panel."""
    return (
        f'<rect x="{x * CELL:.1f}" y="{y * CELL:.1f}" width="{width * CELL - 0.6:.1f}" '
        f'height="{height * CELL - 0.6:.1f}" class="{style}" fill-opacity="{opacity:.2f}"/>'
    )


def text(x, y, words, size=12, anchor="start", weight="normal", style="ink"):
    """Return a line of text at a position in cells."""
    return (
        f'<text x="{x * CELL:.1f}" y="{y * CELL:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'font-weight="{weight}" class="{style}">{words}</text>'
    )


def matrix_panel(A):
    """Return the matrix: each tile's kept columns tinted, stored values dark."""
    parts = []
    dense = A.toarray()
    size = np.abs(dense) / np.abs(dense).max()
    for t, (tile, color) in enumerate(zip(A.tiles, TILES, strict=True)):
        top, height = int(tile.rows[0]) + t * GAP, tile.rows.size
        for col in tile.cols[tile.cols >= 0]:
            parts.append(rect(int(col), top, color, 0.16, height=height))
        for row in tile.rows:
            for col in np.flatnonzero(dense[row]):
                parts.append(rect(int(col), row + t * GAP, color, 0.45 + 0.55 * size[row, col]))
        parts.append(
            f'<rect x="-0.8" y="{top * CELL - 0.8:.1f}" width="{A.shape[1] * CELL + 0.6:.1f}" '
            f'height="{height * CELL + 0.6:.1f}" fill-opacity="0.05" class="{color}"/>'
        )
    return "".join(parts)


def stored_panel(A):
    """Return what is stored: column lists, and half as many values as slots."""
    parts, size = [], np.abs(A.toarray()).max()
    top = 0
    for tile, color in zip(A.tiles, TILES, strict=True):
        for i, col in enumerate(tile.cols):
            parts.append(rect(i, top - 1.6, color if col >= 0 else "note", 0.25, height=1.2))
        for row, values in enumerate(np.asarray(tile.data)):
            for i, value in enumerate(values):
                parts.append(rect(i, top + row, color, 0.25 + 0.75 * abs(value) / size))
            for i in range(tile.meta.shape[1]):
                parts.append(rect(values.size + 1 + i, top + row, "note", 0.6))
        top += tile.rows.size + GAP
    return "".join(parts)


def tvw_picture():
    """Return the picture of the README: a pruned matrix, and what is stored of it."""
    rng = np.random.default_rng(7)
    worth = rng.gamma(1.2, 1.0, (3, 64)).repeat(16, axis=0)
    W = rng.standard_normal((48, 64)) * worth
    A = tvwarray.sparsify(W.astype(np.float32), 0.75, tile_rows=16, count_range=(1, 1))
    rows, cols = A.shape
    drawn = rows + 2 * GAP
    width, height = (cols + 64) * CELL, (drawn + 8) * CELL
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" role="img" '
        'aria-label="A tile-vector-wise sparse matrix and what is stored of it">'
        f'{STYLE}<rect width="{width}" height="{height}" rx="8" class="page"/>'
        f'<g transform="translate({2 * CELL} {6 * CELL})">'
        + text(0, -3.2, "the matrix, 75 % pruned", 14, weight="600")
        + text(0, -1.4, "every tile of rows keeps columns of its own (tinted)")
        + matrix_panel(A)
        + f'</g><g transform="translate({(cols + 10) * CELL} {6 * CELL})">'
        + text(0, -3.2, "what is stored of each tile", 14, weight="600")
        + stored_panel(A)
        + text(33, -0.6, "the list of its columns")
        + text(20, 3.4, "of every four of them two values")
        + text(20, 5.6, "in each row, and their places (grey):")
        + text(20, 7.8, "4 bits for both")
        + f'</g><text x="{(cols + 5.4) * CELL}" y="{(6 + drawn / 2) * CELL:.0f}" font-size="26" '
        'text-anchor="middle" class="note">→</text>'
        "</svg>"
    )


def main():
    """Write every picture to ``_static``."""
    folder = HERE / "_static"
    folder.mkdir(exist_ok=True)
    svg = tvw_picture()
    (folder / "tvw.svg").write_text(svg + "\n")
    print(f"wrote {folder / 'tvw.svg'} ({len(svg) // 1000} kB)")


if __name__ == "__main__":
    main()
