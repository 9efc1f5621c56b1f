"""What a model's KV costs, and which tiers a workload needs: the arithmetic behind `tierd plan`.

`config` reads a model's `config.json` into an `architecture`, `models` knows many by name.
`machine` says how fast a machine computes and loads, with every default named as an assumption;
`loading` finds from which prefix length on loading beats computing. `demand` asks
`tierd_bench.simulate` for hits at the sizes given, and `ttft` and `endurance` draw from them.
`plan` puts it together, `report`, `table`, `charts` and `page` show it.

Every figure is either computed, from sizes and rates, or simulated, from a trace. None is measured.
"""
