"""TierdCache gives what the model's own cache gives, with what somebody else computed.

The oracle is the model's own `DynamicCache` of the same length: the prefix computed at once by
the model itself, and gone on from. Equal means equal bits.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.engines.tiny_models import (
    BLOCK_TOKENS,
    MODELS,
    NEW_TOKENS,
    answer,
    digest,
    go_on,
    llama,
    mistral,
    own_prefix,
    prompt,
    reused_answer,
)
from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually
from tierd.core.units import KiB, MiB
from tierd_client import Client, InvalidRequest
from tierd_client.engines.transformers import TierdCache

BIG = {"tiers__host__bytes": 32 * MiB, "tiers__region_bytes": 1024 * KiB}


def _cache(client: Client, model: Any, salt: str = "", block_tokens: int = 16) -> TierdCache:
    return TierdCache(client, model, block_tokens=block_tokens, salt=salt)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_stored_prefix_gives_the_bits_of_ones_own(client: Client, kind: str, dtype: str) -> None:
    model = MODELS[kind]().to(getattr(torch, dtype))
    cache = _cache(client, model, kind)
    tokens = prompt(100)
    prefix = cache.fetch(tokens[:97])
    assert prefix.tokens == 0
    go_on(model, tokens[:96], prefix.past_key_values)
    assert cache.publish(tokens, prefix.past_key_values).blocks == 6
    found = reused_answer(cache, tokens)
    assert (cache.last.reused, cache.last.computed) == (96, 4)
    wanted = answer(model, tokens, own_prefix(model, tokens[:96]))
    assert found[0] == wanted[0]
    assert torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("kind", MODELS)
def test_the_first_time_it_is_the_models_own(client: Client, kind: str) -> None:
    model = MODELS[kind]()
    cache = _cache(client, model, "first")
    found = reused_answer(cache, prompt(60))
    assert (cache.last.reused, cache.last.published) == (0, (60 + NEW_TOKENS - 1) // BLOCK_TOKENS)
    wanted = answer(model, prompt(60), None)
    assert found[0] == wanted[0]
    assert torch.equal(found[1], wanted[1])


def _elsewhere(daemon: Daemon, kind: str, dtype: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.engines.tiny_models", daemon.address, kind, dtype]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=150)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_another_process_goes_on_and_so_after_a_restart(
    start_daemon: StartDaemon, kind: str
) -> None:
    daemon = start_daemon(32 * MiB, **BIG)
    model = MODELS[kind]().bfloat16()
    with daemon.client() as client:
        cache = _cache(client, model)
        first = cache.fetch(prompt(100))
        go_on(model, prompt(100)[:96], first.past_key_values)
        assert cache.publish(prompt(100), first.past_key_values).blocks == 6
    tokens, logits = answer(model, prompt(100), own_prefix(model, prompt(100)[:96]))
    wanted = {"tokens": tokens, "logits": digest(logits), "reused": 96}
    assert _elsewhere(daemon, kind, "bfloat16") == wanted | {"by_tier": {"host": 96}}
    daemon.restart()
    assert _elsewhere(daemon, kind, "bfloat16") == wanted | {"by_tier": {"disk": 96}}


def test_a_conversation_computes_each_turn_only(client: Client) -> None:
    model = llama().bfloat16()
    cache = _cache(client, model, "turns")
    tokens = prompt(50)
    kept = DynamicCache(config=model.config)
    for turn in range(4):
        found = reused_answer(cache, tokens)
        held = (50 + turn * (NEW_TOKENS + 21) - 22) // BLOCK_TOKENS * BLOCK_TOKENS if turn else 0
        assert cache.last.reused == held
        kept.crop(held - kept.get_seq_length())
        wanted = answer(model, tokens, kept)
        assert found[0] == wanted[0]
        assert torch.equal(found[1], wanted[1])
        tokens = tokens + found[0] + prompt(21, seed=turn + 2)


def _together(model: Any, prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prompts padded on the left, and their mask."""
    longest = max(map(len, prompts))
    rows = [[0] * (longest - len(each)) + each for each in prompts]
    mask = [[0] * (longest - len(each)) + [1] * len(each) for each in prompts]
    return torch.tensor(rows), torch.tensor(mask)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_a_batch_of_prompts_of_several_lengths(client: Client, kind: str) -> None:
    model = MODELS[kind]()
    cache = _cache(client, model, "batch")
    prompts = [prompt(90, 3), prompt(71, 5), prompt(41, 9)]
    ids, mask = _together(model, prompts)
    alone = [answer(model, each, None)[0] for each in prompts]
    plain = model.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False)
    # Stored are 80, 64 and 32 tokens, from columns 0, 19 and 49 on: that is, all up to column 80.
    for reused in (0, 80 + 61 + 31):
        found = cache.generate(ids, mask, max_new_tokens=NEW_TOKENS, do_sample=False)
        assert cache.last.reused == reused
        assert torch.equal(found, plain)
        assert [row[90:].tolist() for row in found] == alone
    for each, tokens in zip(prompts, alone, strict=True):
        assert reused_answer(cache, each)[0] == tokens
        assert cache.last.reused == (len(each) - 1) // BLOCK_TOKENS * BLOCK_TOKENS


def test_several_answers_to_one_prompt(client: Client) -> None:
    model = llama()
    cache = _cache(client, model, "several")
    reused_answer(cache, prompt(60))
    told = []
    for way in (model.generate, cache.generate):
        torch.manual_seed(1)
        ids = torch.tensor([prompt(60)])
        told.append(way(ids, do_sample=True, num_return_sequences=3, max_new_tokens=20))
    assert cache.last.reused == 48
    assert torch.equal(*told)


def test_equal_configurations_with_other_weights_share_nothing(client: Client) -> None:
    tokens = prompt(60)
    one, other = llama(seed=1), llama(seed=2)
    reused_answer(_cache(client, one), tokens)
    cache = _cache(client, other)
    found = reused_answer(cache, tokens)
    assert cache.last.reused == 0
    assert found[0] == answer(other, tokens, None)[0]


def test_one_weight_changed_is_another_model(client: Client) -> None:
    model = llama(seed=3)
    cache = _cache(client, model)
    reused_answer(cache, prompt(60))
    reused_answer(cache, prompt(60))
    assert cache.last.reused == 48
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[5, 5] += 0.5
    reused_answer(cache, prompt(60))
    assert cache.last.reused == 0


def test_the_same_weights_from_a_file_are_the_same_model(client: Client, tmp_path: Any) -> None:
    model = llama(seed=4)
    reused_answer(_cache(client, model), prompt(60))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    cache = _cache(client, loaded)
    reused_answer(cache, prompt(60))
    assert cache.last.reused == 48


def test_tenants_share_nothing(client: Client) -> None:
    model = llama(seed=5)
    reused_answer(TierdCache(client, model, tenant="one"), prompt(60))
    cache = TierdCache(client, model, tenant="other")
    reused_answer(cache, prompt(60))
    assert cache.last.reused == 0


class _Killer:
    """A streamer that kills a daemon when the answer has begun."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon: Daemon | None = daemon

    def put(self, tokens: torch.Tensor) -> None:
        if tokens.numel() == 1 and self._daemon is not None:
            self._daemon.kill()
            self._daemon = None

    def end(self) -> None: ...


def test_a_daemon_killed_while_generating_costs_hits_only(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(**BIG)
    model = llama()
    ids = torch.tensor([prompt(60)])
    plain = model.generate(ids, do_sample=False, max_new_tokens=20)
    with daemon.client() as client:
        cache = _cache(client, model)
        cache.generate(ids, do_sample=False, max_new_tokens=20)
        found = cache.generate(ids, do_sample=False, max_new_tokens=20, streamer=_Killer(daemon))
        assert cache.last.reused == 48
        assert torch.equal(found, plain)
        assert torch.equal(cache.generate(ids, do_sample=False, max_new_tokens=20), plain)
        assert (cache.last.reused, cache.last.published) == (0, 0)
        daemon.start()
        eventually(lambda: client.tiers)
        cache.generate(ids, do_sample=False, max_new_tokens=20)
        assert cache.last.published == 4
        cache.generate(ids, do_sample=False, max_new_tokens=20)
        assert cache.last.reused == 48


def test_a_daemon_that_hangs_costs_hits_only(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(**BIG)
    model = llama()
    with daemon.client() as client:
        cache = _cache(client, model)
        wanted = reused_answer(cache, prompt(60))[0]
        os.kill(daemon.pid, signal.SIGSTOP)
        found = reused_answer(cache, prompt(60))[0]
        reused = cache.last.reused
        os.kill(daemon.pid, signal.SIGCONT)
        assert (reused, found) == (0, wanted)
        assert reused_answer(cache, prompt(60))[0] == wanted
        assert cache.last.reused == 48


def test_a_damaged_block_is_computed_again(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(32 * MiB, **BIG)
    model = llama().bfloat16()
    with daemon.client() as client:
        cache = _cache(client, model)
        wanted = reused_answer(cache, prompt(100))[0]
        part = bytes(_part(cache, prompt(100), 3))
    daemon.stop()
    (segment,) = (path for path in daemon.segments() if part in path.read_bytes())
    held = bytearray(segment.read_bytes())
    held[held.index(part) + 100] ^= 1
    segment.write_bytes(held)
    daemon.start()
    with daemon.client() as client:
        cache = _cache(client, model)
        assert reused_answer(cache, prompt(100))[0] == wanted
        assert cache.last.reused == 48
        assert cache.last.published >= 1, "it is offered again"
        assert reused_answer(cache, prompt(100))[0] == wanted
        assert cache.last.reused == 96


def _part(cache: TierdCache, tokens: list[int], block: int) -> memoryview:
    """Return the bytes of a block, as tierd holds them."""
    with cache.kv.fetch_views(tokens) as views:
        return memoryview(bytes(views[block]))


def test_a_loop_of_ones_own_with_a_window(client: Client) -> None:
    model = mistral()
    cache = _cache(client, model, "loop")
    given, kept = cache.fetch(prompt(91)).past_key_values, DynamicCache(config=model.config)
    for start, stop in [(0, 40), (40, 41), (41, 80)]:
        go_on(model, prompt(stop)[start:], given)
        go_on(model, prompt(stop)[start:], kept)
        published = cache.publish(prompt(stop), given)
        assert published.blocks + published.held == stop // BLOCK_TOKENS
        assert published.declined == 0
    again = cache.fetch(prompt(91))
    assert again.tokens == 80
    wanted = go_on(model, prompt(120)[80:], kept)
    assert torch.equal(go_on(model, prompt(120)[80:], again.past_key_values), wanted)


def test_of_a_cache_that_forgot_only_what_it_has_is_offered(client: Client) -> None:
    model = mistral()
    cache = _cache(client, model, "forgot")
    published = cache.publish(prompt(80), own_prefix(model, prompt(80)))
    assert (published.blocks, published.held, published.declined) == (0, 0, 5)
    # The first 64 tokens are there: then the last block can follow.
    prefix = cache.fetch(prompt(64)).past_key_values
    go_on(model, prompt(64), prefix)
    cache.publish(prompt(64), prefix)
    published = cache.publish(prompt(80), own_prefix(model, prompt(80)))
    assert (published.blocks, published.held, published.declined) == (1, 4, 0)


def test_blocks_in_several_windows_of_memory(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tierd_client.engines.transformers.blocks._STAGING_BYTES_MAX", 40_000)
    model = mistral()
    cache = _cache(client, model, "windows")
    prefix = cache.fetch(prompt(150))
    go_on(model, prompt(144), prefix.past_key_values)
    assert cache.publish(prompt(150), prefix.past_key_values).blocks == 9
    found = reused_answer(cache, prompt(150))
    assert cache.last.reused == 144
    wanted = answer(model, prompt(150), own_prefix(model, prompt(144)))
    assert torch.equal(found[1], wanted[1])


def test_prompts_of_odd_lengths_and_inference_mode(client: Client) -> None:
    model = llama()
    cache = _cache(client, model, "one")
    with torch.inference_mode():
        assert reused_answer(cache, [5])[0] == answer(model, [5], None)[0]
        wanted = reused_answer(cache, prompt(60))[0]
    assert reused_answer(cache, prompt(60))[0] == wanted
    assert cache.last.reused == 48
    # All of this prompt is stored, and its last token has to be computed.
    assert reused_answer(cache, prompt(48))[0] == answer(model, prompt(48), None)[0]
    assert cache.last.reused == 32


def test_several_threads_at_once(client: Client) -> None:
    model = llama()
    cache = _cache(client, model, "threads")
    wanted = {seed: answer(model, prompt(70, seed), None)[0] for seed in range(3, 7)}
    found: dict[int, list[int]] = {}

    def work(seed: int) -> None:
        for _ in range(3):
            found[seed] = reused_answer(cache, prompt(70, seed))[0]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == wanted


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"num_beams": 2}, "it is beam search"),
        ({"use_cache": False}, "use_cache is False"),
        ({"cache_implementation": "static"}, "cache_implementation is static"),
        ({"prompt_lookup_num_tokens": 3}, "it is assisted generation"),
        ({"attention_mask": torch.tensor([[1] * 30 + [0] + [1] * 29])}, "attention_mask has holes"),
    ],
)
def test_what_it_does_not_serve_is_the_models_own(
    client: Client, given: dict[str, Any], why: str
) -> None:
    model = llama()
    cache = _cache(client, model, "bypass")
    reused_answer(cache, prompt(60))
    ids = torch.tensor([prompt(60)])
    found = cache.generate(ids, **given, do_sample=False, max_new_tokens=8)
    assert cache.last.bypassed.startswith(why)
    assert cache.last.reused == 0
    assert torch.equal(found, model.generate(ids, **given, do_sample=False, max_new_tokens=8))


def test_a_cache_of_ones_own_is_used_as_it_is(client: Client) -> None:
    model = llama()
    cache = _cache(client, model, "own")
    given = own_prefix(model, prompt(60)[:50])
    ids = torch.tensor([prompt(60)])
    cache.generate(ids, past_key_values=given, do_sample=False, max_new_tokens=8)
    assert cache.last.bypassed == "past_key_values is given"
    assert given.get_seq_length() == 67


def test_rotary_embeddings_that_depend_on_length(client: Client) -> None:
    torch.manual_seed(0)
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=100,
        rope_parameters=rope,
    )
    model = LlamaForCausalLM(config).eval()
    cache = _cache(client, model)
    for count, reused, why in [(60, 0, ""), (60, 48, ""), (120, 0, "its rotary"), (60, 48, "")]:
        found = reused_answer(cache, prompt(count))
        assert cache.last.reused == reused
        assert cache.last.bypassed.startswith(why)
        assert found[0] == answer(model, prompt(count), None)[0]
    assert cache.fetch(prompt(120)).tokens == 0


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=1)), "LinearAttention"),
        (T5ForConditionalGeneration(T5Config(d_model=32, num_layers=1, d_ff=32)).eval(), "encoder"),
        (LlamaForCausalLM(LlamaConfig(num_hidden_layers=0, attention_dropout=0.5)), "eval"),
    ],
    ids=["recurrent", "encoder-decoder", "dropout"],
)
def test_models_that_it_cannot_serve_are_refused(client: Client, model: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        TierdCache(client, model)


def test_several_sequences_are_refused_by_the_halves(client: Client) -> None:
    cache = _cache(client, llama(), "halves")
    with pytest.raises(InvalidRequest, match=r"^tokens is 2 sequences"):
        cache.fetch([[1, 2], [3, 4]])
    two = own_prefix(mistral(), prompt(20))
    two.batch_repeat_interleave(2)
    with pytest.raises(InvalidRequest, match="past_key_values"):
        cache.publish(prompt(20), two)
