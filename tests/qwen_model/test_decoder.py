"""Our decoder against transformers on the same weights."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from qwen_model import load_model
from tests.conftest import make_checkpoint

CASES = {
    "qwen2": {},
    "qwen2-tied": {"tie_word_embeddings": True},
    "qwen2-all-heads": {"num_key_value_heads": 6},
    "qwen2-rope-base": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rms_norm_eps": 1e-5},
    "qwen2-windows": {"use_sliding_window": True, "sliding_window": 50, "max_window_layers": 1},
    "llama": {},
    "llama-bias": {"attention_bias": True},
    "llama-wide-heads": {"head_dim": 16},
}


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case, tmp_path):
    # five times the usual width; at ten times, float32 itself is 2e-5 from the truth, ours and theirs alike
    folder = make_checkpoint(tmp_path / "model", case.split("-")[0], initializer_range=0.1, **CASES[case])
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = load_model(str(folder))
    tokens = torch.randint(0, model.config.vocab_size, (2, 200), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens), reference(tokens).logits, atol=1e-5, rtol=0)


def test_a_later_token_never_changes_an_earlier_logit(tiny):
    model = load_model(str(tiny))
    tokens = torch.arange(60)[None] % model.config.vocab_size
    changed = tokens.clone()
    changed[0, 40] = 7
    with torch.inference_mode():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :40], after[:, :40], atol=1e-5, rtol=0)
    assert (before[:, 40:] - after[:, 40:]).abs().amax(-1).min() > 1e-4


def test_bfloat16_is_near_float32(tiny):
    tokens = torch.arange(100)[None]
    with torch.inference_mode():
        exact, rough = load_model(str(tiny))(tokens), load_model(str(tiny), dtype="bfloat16")(tokens)
    assert rough.dtype == torch.bfloat16
    assert (exact.softmax(-1) - rough.float().softmax(-1)).abs().max() < 0.1
