"""The real models: our logits against transformers' own reading of the same GGUF, at every position of 512 tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qwen_model import load_model
from qwen_model.catalogue import available
from qwen_model.checkpoint import find_checkpoint, load_tokenizer


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["smollm2-135m-instruct", pytest.param("qwen2.5-coder-0.5b-instruct", marks=pytest.mark.model)]
)
def test_logits_equal_transformers(name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = available(name)
    if gguf is None:
        pytest.skip(f"{name} is not in the cache; `make demo MODEL={name}` fetches it")
    reference = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(find_checkpoint(name))
    text = "".join(path.read_text() for path in sorted(Path(__file__).parents[1].rglob("*.py"))[:8])
    tokens = tokenizer.encode(text)[:512]
    theirs = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if "qwen" in name:  # for SmolLM2 transformers drops the GGUF's rule that splits digits first
        assert tokens == theirs(text)["input_ids"][:512]
    messages = [("system", "Be brief."), ("user", "Hi {{ there }}")]
    assert tokenizer.render(messages) == theirs.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages], tokenize=False, add_generation_prompt=True
    )
    with torch.inference_mode():
        ours, expected = load_model(name)(torch.tensor([tokens])), reference(torch.tensor([tokens])).logits
    assert (ours - expected).abs().max() < 1e-3
