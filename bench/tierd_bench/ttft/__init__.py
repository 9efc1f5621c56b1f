"""Time to first token of a real engine with real weights, by where the prompt's KV comes from.

    python -m tierd_bench.ttft --append bench/results/ttft.jsonl --html ttft.html

Engines run in processes of their own, in the environment of `make test-vllm`; those of vLLM
first, then those of transformers, each compared with its own. With all stores it takes some 20
minutes on 2 cores, 12 GB of memory and as much disk.

    child.py              the loop of an engine's process
    child_vllm.py         vLLM in it
    child_transformers.py a model of transformers in it
    offload_on_cpu.py     vLLM's own offloading where there is no GPU; imported there
    engines.py            the process's other end
    stores.py             what an engine can keep KV in, and how to have it in one tier only
    daemon.py             a daemon that is restarted between a publish and a fetch
    lmcache.py            LMCache's server
    prompts.py            prompts and conversations, from a seed
    rounds.py             what is asked in which order, and the samples that gives
    report.py             samples as rows with their limits and budgets
    table.py, page.py     the rows for a terminal, and as charts
"""
