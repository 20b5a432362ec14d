"""What only ``A.T @ Y`` needs: its kernel's configs, packing, cost, choice and launch.

==============  =================================================================
`config`        every constant that ``sm80_tvw_transposed`` leaves open, as data
`pack`          canonical storage to fragments of kept columns, range by range
`balance`       which ranges are shared out to several blocks
`cost`          how long the kernel takes, and the choice of a config
`product`       the product: operands brought into place, and the launch
==============  =================================================================
"""
