"""The measurement of times to first token with a real model, a real daemon and real restarts.

The engines run in this interpreter's environment, which has transformers.
"""

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tierd_bench.ttft.child_transformers import BLOCK_TOKENS
from tierd_bench.ttft.report import TtftReport, make_report
from tierd_bench.ttft.rounds import LOCAL, RECOMPUTE, Workload, run_rounds
from tierd_bench.ttft.stores import KINDS, Setting

WORKLOAD = Workload(
    prompts=[BLOCK_TOKENS // 2, 2 * BLOCK_TOKENS],
    rounds=1,
    turns=2,
    turn_rounds=1,
    turn_first=2 * BLOCK_TOKENS,
    turn_each=BLOCK_TOKENS,
    question=BLOCK_TOKENS // 2,
    seed=3,
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> TtftReport:
    place = tmp_path_factory.mktemp("ttft")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    )
    LlamaForCausalLM(config).save_pretrained(place / "model")
    python = Path(sys.executable)
    setting = Setting(python, python, place / "model", WORKLOAD.tokens_max, 1, place)
    with ExitStack() as stack:
        kind = next(kind for kind in KINDS if "transformers" in kind.stores)
        group = kind.open(["transformers"], setting, stack)
        # Keys and values of 3 layers, 2 heads of 16 numbers, 4 bytes each.
        assert group.facts.token_bytes == 2 * 3 * 2 * 16 * 4
        samples = run_rounds(WORKLOAD, group, lambda: 1e9, lambda _: None)
        return make_report(samples, "tiny", group.facts.engine, WORKLOAD.seed)


def test_tierd_has_the_same_prefix_as_the_local_cache_from_every_tier(report: TtftReport) -> None:
    short, long = report.prompts
    new, later = report.turns
    for source in (LOCAL, "tierd host", "tierd disk"):
        assert [each.reused_tokens for each in report.of(short, source)] == [0], source
        assert [each.reused_tokens for each in report.of(long, source)] == [2 * BLOCK_TOKENS]
        assert {each.reused_tokens for each in report.of(later, source)} == {2 * BLOCK_TOKENS}
    for source in (RECOMPUTE, "tierd first"):
        assert [each.reused_tokens for each in report.of(long, source)] == [0], source
    assert [each.reused_tokens for each in report.of(new, "tierd first")] == [0, 0]


def test_answers_are_those_of_the_local_cache(report: TtftReport) -> None:
    for case in (*report.prompts, *report.turns):
        for source in ("tierd host", "tierd disk", "tierd first"):
            assert {each.same for each in report.of(case, source)} <= {"bits"}, (case, source)
