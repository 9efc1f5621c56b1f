"""A process that generates with a tiny random Llama, its KV kept in tierd.

    python -m tests.integration.llama_engine SOCKET

Prints one JSON line: how many blocks of the prompt came from tierd, and the tokens generated.
"""

import json
import sys

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from tierd_client import connect
from tierd_client.tensors import empty_blocks, gather_blocks, layout_of, scatter_blocks

BLOCK_TOKENS = 16
PROMPT = [(7 * i) % 101 for i in range(200)]
NEW_TOKENS = 24


def main(address: str) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    model = LlamaForCausalLM(config).eval()
    with connect(address) as client, torch.no_grad():
        example = [(torch.empty(1, 2, 0, 16), torch.empty(1, 2, 0, 16))] * 3
        kv = client.open(layout_of(example, "tiny-random-llama", BLOCK_TOKENS))
        keys = kv.keys(PROMPT)
        # At least one token must be computed, to have logits to go on from.
        usable = keys[: (len(PROMPT) - 1) // BLOCK_TOKENS]
        blocks = empty_blocks(kv.layout, len(usable))
        found = kv.fetch(usable, blocks).blocks
        prefix = scatter_blocks(blocks[:found])
        cache = DynamicCache(prefix, config=config) if found else DynamicCache(config=config)
        tokens = _generate(model, cache, PROMPT[found * BLOCK_TOKENS :])
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        kv.publish(keys[: len(usable)], gather_blocks(layers, BLOCK_TOKENS)[: len(usable)])
    sys.stdout.write(json.dumps({"found": found, "tokens": tokens}) + "\n")


def _generate(model: LlamaForCausalLM, cache: DynamicCache, new: list[int]) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < NEW_TOKENS:
        output = model(torch.tensor([new]), past_key_values=cache, use_cache=True)
        new = [int(output.logits[0, -1].argmax())]
        tokens += new
    return tokens


if __name__ == "__main__":
    main(sys.argv[1])
