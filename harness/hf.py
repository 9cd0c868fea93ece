"""Any transformers causal LM behind the same reading and writing as our decoder: our caches, masks and positions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from qwen_model import ModelError
from qwen_model.cache import Cache, CacheShape
from qwen_model.checkpoint import check_device
from qwen_model.layout import Layout, band
from qwen_model.long_context import LongContext

_TRAIN_LENGTH = 2048
"""Where config.json names none, as lm-evaluation-harness has it."""


class _Cache:
    """Our cache under the one method of transformers' caches that attention layers call."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        return self._cache.update(layer, keys, values)


class HFModel:
    """A `qwen_model.prefill.CausalLM` that computes with transformers' own code."""

    def __init__(self, folder: Path, dtype: str, device: str) -> None:
        """Load from a folder. Raises ModelError where our masks would not say all that the model's attention does."""
        import transformers

        check_device(device)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        try:
            self.model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), attn_implementation="sdpa", local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder}: transformers cannot load it ({str(error).splitlines()[0]})") from error
        self.model.eval().requires_grad_(False).to(device)
        config = self.model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if kinds != {"full_attention"} or rope in ("dynamic", "longrope"):
            raise ModelError(
                f"{folder}: layers {sorted(kinds)} with rope {rope!r} cannot share prefixes; not supported"
            )
        heads = config.num_attention_heads
        self.cache_shape = CacheShape(
            heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            windows=(None,) * config.num_hidden_layers,
        )
        self.dtype: torch.dtype = self.model.dtype
        self.device: torch.device = self.model.device
        self.settings = LongContext()
        self.shares_keys = self.captured = False
        self.train_length: int = getattr(config, "max_position_embeddings", None) or _TRAIN_LENGTH

    def parameters(self) -> Iterator[Tensor]:
        """All weights, each once."""
        return iter(self.model.parameters())

    def ntk_step(self, length: int) -> int:
        """Always 0: context extension is the native backend's."""
        return 0

    def __call__(self, input_ids: Tensor, *, layout: Layout, cache: Cache, keep: Tensor | None = None) -> Tensor:
        """Logits, as `qwen_model.decoder.Decoder.forward` gives them."""
        mask = layout.mask(None)
        if mask is None:
            # transformers would measure our cache to build its own causal mask; a 4-d mask is taken as it is
            keys = torch.arange((layout.past or 0) + input_ids.shape[1], device=input_ids.device)
            mask = band(layout.positions, keys, None)[:, None]
        output = self.model(
            input_ids=input_ids,
            position_ids=layout.positions,
            attention_mask=mask,
            past_key_values=_Cache(cache),
            use_cache=False,
            logits_to_keep=0 if keep is None else keep,
        )
        logits: Tensor = output.logits
        return logits
