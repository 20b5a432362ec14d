"""Which rows and columns go where: from the pattern of a matrix to the index arrays of a storage.

==============  ===============================================================
`find`          the way from a pattern to a `Layout`; what conversions call
`spill`         hybrid layouts: which entries stay beside the tiles
`slots`         the slots of every tile, and the slot of every entry
`tiles`         which rows make a tile, and how tall tiles are
`first_fit`     packing columns into groups of four
`group_rows`    orders of rows
`hidden`        finding permuted columns of pruned matrices again
`permute`       which slots share a group, so that 2:4 loses least (pruning)
`exchange`      rows to where most of their scores are kept (pruning)
`pattern`       where a matrix holds entries: CSR without values
==============  ===============================================================

Modules import from those below them. Nearly all have a compiled twin in
``_kernels/cpu/layouts*.cpp`` that gives the same result.
"""
