"""The GPU kernels: their sources, how they are compiled, fed and launched.

===========  ======================================================================
`config`     every constant a kernel leaves open, as data
`select`     a problem in, the config that should be fastest out, with reasons
`compile`    source, config and architecture to machine code, cached on disk
`pack`       canonical storage to the order in which the lanes of a warp read it
`launch`     the product itself: `Launcher`, the one thing that touches a GPU
===========  ======================================================================
"""
