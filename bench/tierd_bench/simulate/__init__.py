"""What hit rate a cache of a given size and policy would have on a trace, without bytes or clock.

The rules, which are those of `replay` and of the daemon:

- A request asks for the blocks of its prompt, root first. A block hits only if all before it in
  its request hit. Prompts count, answers do not, until a later prompt repeats them.
- `hit_rate` is hits over block references: the blocks that all requests ask for, repeats counted.
- Requests come in the order of their recorded arrivals, one at a time. Where the start of
  sessions was not recorded, `order` has them overlap by a seeded model.
- What was missed is inserted at once. The request in flight is pinned: none of its blocks goes
  to make room for its own. Of a request longer than the cache the leading blocks are kept.
- A block goes only when no block that continues it is held.
- A capacity is a number of blocks; a share is one of the trace's unique blocks, rounded down.

`references` makes a trace compact, `cache` runs a policy, `bounds` finds what none can beat,
`reuse` has the LRU curve of all sizes at once, `sampling` thins large traces, `hints` is what
engines may say besides. `sweep` runs many in parallel, `study` does all of it, `report` and
`table` show it. Tiers with bandwidth and latency are left to `timed`.
"""
