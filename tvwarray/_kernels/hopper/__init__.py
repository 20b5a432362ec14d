"""What only the kernel for Hopper needs: its configs, the text of its instruction, its packing.

==============  =================================================================
`config`        every constant that ``sm90_tvw_gemm`` leaves open, as data
`instructions`  the text of ``wgmma`` for one width and type
`pack`          the bricks of ``mma.sp`` to the slabs that ``wgmma`` reads
`tensor_map`    what the copy engine knows of X
`cost`          how long the kernel takes, and what limits it
==============  =================================================================
"""
