"""Adapters: nothing changes at first, only they learn, merged weights say the same, and PEFT's names."""

from __future__ import annotations

import json

import torch
from safetensors import safe_open

from qwen_train.alignment.lora import adapt, merge, save_adapters
from qwen_train.alignment.models import begin_with
from qwen_train.alignment.settings import Lora

TOKENS = torch.arange(3, 30)[None]


def test_adapters(base, tmp_path):
    model = begin_with(base).eval()
    before = model(TOKENS).detach()
    kept = {name: value.clone() for name, value in model.named_parameters()}
    adapt(model, Lora(rank=4, alpha=8), seed=0)
    assert torch.equal(model(TOKENS), before)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(learnt) == 2 * 7 * 2  # A and B of seven matrices in each of two layers
    adamw = torch.optim.AdamW(learnt, 1e-2)
    for _ in range(3):
        model(TOKENS).logsumexp(-1).sum().backward()
        adamw.step()
    adapted = model(TOKENS).detach()
    assert (adapted - before).abs().max() > 1e-2
    save_adapters(model, tmp_path, Lora(rank=4, alpha=8))
    merge(model)
    assert {name for name, _ in model.named_parameters()} == kept.keys()
    assert torch.allclose(model(TOKENS), adapted, atol=1e-6)
    # W + alpha / rank x B A from the file, by hand; what has no adapter stayed
    name = "model.layers.1.mlp.up_proj"
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert len(file.keys()) == 28
        a, b = (file.get_tensor(f"base_model.model.{name}.lora_{part}.weight") for part in "AB")
    merged = dict(model.named_parameters())
    assert torch.allclose(merged[f"{name}.weight"], kept[f"{name}.weight"] + 2 * b @ a, atol=1e-6)
    assert torch.equal(merged["lm_head.weight"], kept["lm_head.weight"])
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8) and "q_proj" in config["target_modules"]
