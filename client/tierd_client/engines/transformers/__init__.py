"""tierd for models of transformers: a `generate` that computes only what nobody computed before.

    cache = TierdCache(connect(), model)
    output = cache.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=100)
    print(cache.last)

For loops of one's own there are the two halves, `fetch` and `publish`.

    cache.py      `TierdCache`
    blocks.py     between a model's cache and blocks: one gather, or one scatter, each way
    layers.py     the layers of a model's cache, and those that remember what left their window
    identity.py   whose blocks a model may use
    requests.py   what of a `generate` is understood, and what is left to the model alone
"""

from tierd_client.engines.transformers.cache import Prefix, Reuse, TierdCache

__all__ = ["Prefix", "Reuse", "TierdCache"]
