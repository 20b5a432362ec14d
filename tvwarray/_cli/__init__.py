"""The commands of ``tvwarray``, one module each; `tvwarray.__main__` runs them.

============  ==================================================================
`parser`      arguments and their help
`info`        ``tvwarray info``: what a file holds
`convert`     ``tvwarray convert``: files in, files out
`prune`       ``tvwarray prune``: the matrices of a file or a model, pruned together
`demo`        ``tvwarray demo``: real weights pruned, checked and timed
`bench`       ``tvwarray bench``: products of any size, checked and timed
`spy`         ``tvwarray spy``: pictures of the matrices of a file
`env`         ``tvwarray env``: versions, processor, backends
------------  ------------------------------------------------------------------
`files`       any file as a list of matrices, read one at a time
`model`       the tensors of a ``.safetensors`` file
`output`      matrices to a file of any format, and the table of them
`weights`     where the weights of the demo come from
`measure`     paired timing, error bounds
`bench_files` what ``bench --out`` leaves: a table, the machine, pictures
`machine`     what the figures were measured on
`table`       aligned text, Markdown, bytes and times in words
`progress`    a progress bar on a terminal
`suggest`     what may have been meant
============  ==================================================================

The modules above the line are commands, ``run(args) -> exit status``; those below do not know them.
"""
