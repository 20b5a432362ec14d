"""Timings on a GPU: `problems` makes operands, `peers` the other libraries, `clock` times."""
