"""Low-rank adapters (Hu et al., 2021) over the decoder's linear layers, as parametrisations that come off.

W stands still, and W + alpha / rank x B A is read in its place. A begins random and B at 0, so that nothing changes at
first. Dropout on the adapters' inputs (0.05 in the released finetune.sh) is left out: the sum is one matrix here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qwen_model.decoder import Decoder, Linear
from qwen_train.alignment.settings import Lora


class _Adapter(nn.Module):
    def __init__(self, weight: Tensor, lora: Lora, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        bound = 1 / columns**0.5
        self.lora_A = nn.Parameter(torch.empty(lora.rank, columns).uniform_(-bound, bound, generator=generator))
        self.lora_B = nn.Parameter(torch.zeros(rows, lora.rank))
        self.scale = lora.alpha / lora.rank

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.lora_B @ self.lora_A)


def adapt(model: Decoder, lora: Lora, seed: int) -> None:
    """Adapters on queries, keys, values, outputs and the MLP's three matrices; nothing else is trained from here on."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for layer in model.model.layers.modules():
        if isinstance(layer, Linear):
            parametrize.register_parametrization(layer, "weight", _Adapter(layer.weight, lora, generator))


def merge(model: Decoder) -> None:
    """Add the adapters to the weights and take them off."""
    for layer in model.model.layers.modules():
        if isinstance(layer, Linear) and parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    model.requires_grad_(True)


def save_adapters(model: Decoder, folder: Path, lora: Lora) -> None:
    """The adapters alone, in the files and names of the PEFT library."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors, kinds = {}, set()
    for name, module in model.named_modules():
        if isinstance(module, _Adapter):
            layer = name.removesuffix(".parametrizations.weight.0")
            kinds.add(layer.rpartition(".")[2])
            for part in ("lora_A", "lora_B"):
                matrix = cast("Tensor", getattr(module, part)).detach()
                tensors[f"base_model.model.{layer}.{part}.weight"] = matrix.contiguous()
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": sorted(kinds),
        "bias": "none",
        "base_model_name_or_path": str(model.checkpoint.folder),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
