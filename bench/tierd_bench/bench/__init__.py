"""Measures tierd beside the limit of the machine it runs on, in the same minute.

The way of a row: `run` sets a `stage` (a daemon in a process of its own, and a client), a measure
in `host`, `calls`, `disk`, `dual` or `demand` times tierd and the machine's limit (`limits`,
`disk_limits`) turn by turn, and `rows` makes the figure that `table` shows and `files` writes.
"""
