"""Simulates a cluster of prefill and decode nodes after the DualPath paper (arXiv 2602.21548).

The way of a run: `simulate` lets agents ask (`workload`), `scheduler` assigns engines, `reading`
reads KV from storage, `prefill` and `decode` compute and stream, all over the fluid `resources` of
`parts`, on the clock of `loop`. `measures` makes figures of it. `reproduce` and `beyond` are the
studies; `report`, `table` and `page` show them. What the paper does not give is in `assumptions`.
"""
