"""The decoder: pre-norm Transformer, RMSNorm, rotary positions, grouped-query attention, SwiGLU (report, section 2.3).

One class for every family: what differs (biases, tied embeddings, head counts, windows) is in `ModelConfig`. Parameter
names are those of transformers' Qwen2 and Llama.

Shape letters: R rows, T new tokens, H query heads, K key-value heads, D head dim, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qwen_model import kernels
from qwen_model.attention import attend
from qwen_model.cache import Cache, CacheShape, SlotCache
from qwen_model.config import ModelConfig
from qwen_model.kernels import Layer, Projection
from qwen_model.kernels.codes import Codes
from qwen_model.layout import Layout, Padded, Plain
from qwen_model.long_context import LongContext, Windows, ntk_bucket
from qwen_model.rotary import Turns, frequencies, turns

if TYPE_CHECKING:
    from qwen_model.checkpoint import Checkpoint


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32 and cast back before the weight is applied."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return kernels.rms_norm(x, self.weight, self.eps)


class Linear(nn.Linear):
    """A linear layer that takes the C++ kernels where they can be used."""

    codes: Codes | None = None
    """What the weight was dequantised from; no parameter and no buffer, for it adds nothing to the state."""

    def forward(self, x: Tensor) -> Tensor:
        return kernels.linear(x, self.weight, self.bias, codes=self.codes)

    @property
    def projection(self) -> Projection:
        """As the kernels take it."""
        held: dict[str, Any] = self._parameters  # nn.Module's attributes are slow, and a step asks hundreds of times
        return Projection(held["weight"], held["bias"], self.codes)

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.codes = None  # they stand for a weight that does not change
        return super().train(mode)


class Residual(Linear):
    """A linear layer that writes into the residual stream, with dropout while training."""

    def __init__(self, size: int, width: int, *, bias: bool, dropout: float) -> None:
        super().__init__(size, width, bias=bias)
        self.dropout = dropout

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        if self.training and self.dropout:
            return residual + F.dropout(super().forward(x), self.dropout)
        return kernels.linear(x, self.weight, self.bias, residual, self.codes)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        c = config
        self.layer, self.head_dim = layer, c.head_dim
        self.q_proj = Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=c.qkv_bias)
        self.k_proj = Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=c.qkv_bias)
        self.v_proj = Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=c.qkv_bias)
        self.o_proj = Residual(c.num_attention_heads * c.head_dim, c.hidden_size, bias=c.output_bias, dropout=c.dropout)

    def forward(
        self, x: Tensor, residual: Tensor, turns: Turns, layout: Layout, window: int | None, cache: Cache | None
    ) -> Tensor:
        rows, new, _ = x.shape
        q, k, v = (of(x).view(rows, new, -1, self.head_dim) for of in (self.q_proj, self.k_proj, self.v_proj))
        q = kernels.rotate(q, turns.query_cos, turns.query_sin).transpose(1, 2)
        k, v = kernels.rotate(k, turns.key_cos, turns.key_sin).transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        read = attend(q, k, v, layout, window).transpose(1, 2)
        return self.o_proj(read.reshape(rows, new, -1), residual)  # type: ignore[no-any-return]


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Residual(config.intermediate_size, config.hidden_size, bias=False, dropout=config.dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        gate, up = self.gate_proj, self.up_proj
        inner = kernels.swiglu(x, gate.weight, up.weight, (gate.codes, up.codes))
        return self.down_proj(inner, residual)  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)
        a, m = self.self_attn, self.mlp
        self._linear: tuple[Linear, ...] = a.q_proj, a.k_proj, a.v_proj, a.o_proj, m.gate_proj, m.up_proj, m.down_proj

    def forward(self, x: Tensor, turns: Turns, layout: Layout, window: int | None, cache: Cache | None) -> Tensor:
        x = self.self_attn(self.input_layernorm(x), x, turns, layout, window, cache)
        return self.mlp(self.post_attention_layernorm(x), x)  # type: ignore[no-any-return]

    def as_layer(self, turns: Turns, cache: SlotCache) -> Layer:
        """As the kernels take it, for one new token per row."""
        norms = self.input_layernorm.weight, self.post_attention_layernorm.weight
        projections = [linear.projection for linear in self._linear]
        return Layer(norms, projections, turns, cache.slots_of(self.self_attn.layer))


def own_part(whole: Tensor, of: Tensor) -> Tensor:
    """Of a tensor that every process has, the part that this process keeps where `of` is sharded."""
    mesh = getattr(of, "device_mesh", None)
    if mesh is None:
        return whole
    from torch.distributed.tensor import distribute_tensor

    placements = cast("Any", of).placements
    return distribute_tensor(whole.to(of.device), mesh, placements, src_data_rank=None)


class Body(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """A causal language model: `model(input_ids)` gives logits. `prefill` and `generation` do batched work with it."""

    checkpoint: Checkpoint
    """Where the weights came from; set by `load_model`."""
    end_token: int | None = None
    """With a scalar head: the token at which a text's reward is read; set by `load_model`."""
    compute_dtype: torch.dtype | None = None
    """What a pass computes in where that is not the weights' own: bfloat16 over float32 weights, while training."""
    recompute = False
    """Keep only each layer's input for the backward pass, and compute the rest of it again there."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.lm_head = Linear(config.hidden_size, 1 if config.scalar_head else config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self._frequencies = frequencies(config.head_dim, config.rope_theta)
        self._lay(config.long_context)

    def init_weights(self, seed: int) -> Decoder:
        """Draw all weights as the released code does: N(0, 0.02), biases 0, norms 1, and the projections that write
        into the residual stream narrower by sqrt(2 x layers). Returns the model."""
        generator = torch.Generator().manual_seed(seed)
        deviation = self.config.initializer_range
        narrow = deviation / math.sqrt(2 * self.config.num_hidden_layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 1:
                nn.init.ones_(parameter)
            else:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                with torch.no_grad():
                    drawn = torch.empty(parameter.shape).normal_(
                        std=narrow if residual else deviation, generator=generator
                    )
                    parameter.copy_(own_part(drawn, parameter))
        return self

    @property
    def dtype(self) -> torch.dtype:
        """What passes compute in, and keys and values are kept in."""
        return self.compute_dtype or self.model.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.model.norm.weight.device

    @property
    def settings(self) -> LongContext:
        """The context extension in force."""
        return self._settings

    @property
    def train_length(self) -> int:
        """T in force: the settings' own, else the checkpoint's."""
        return self._train_length

    @property
    def windows(self) -> Windows:
        """The window in force in each layer."""
        return self._windows

    @property
    def cache_shape(self) -> CacheShape:
        c = self.config
        return CacheShape(heads=c.num_key_value_heads, head_dim=c.head_dim, windows=self._windows)

    @contextmanager
    def long_context(self, settings: LongContext) -> Iterator[Decoder]:
        """Lay a context extension over the model, in place of the checkpoint's own; it comes off at the end.

        Caches do not outlive it: keys are turned by the settings under which they were read. It is the model's, so all
        threads that use this model are in it. Raises TypeError or ValueError for settings that do not fit the model.
        """
        before = self._settings
        self._lay(settings)
        try:
            yield self
        finally:
            self._lay(before)

    @property
    def shares_keys(self) -> bool:
        """Whether texts being written may refer to one copy of the keys of a prefix that they share: only the kernels
        read such keys, and not in layers with a window, which are rings."""
        plain = self.compute_dtype is None and not any(self._windows)
        return plain and kernels.usable_with(self.parameters())

    @property
    def captured(self) -> bool:
        """Whether a step of decoding is captured as a CUDA graph (`step_graph`)."""
        return self.device.type == "cuda" and self.compute_dtype is None

    def ntk_step(self, length: int) -> int:
        """Dynamic NTK's step for a text of `length` tokens; 0 where it is off. Texts of one step may share keys."""
        return 0 if self._settings.dynamic_ntk == "off" else ntk_bucket(length, self._train_length)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        layout: Layout | None = None,
        cache: Cache | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Logits (R, T, V) of token ids (R, T), in the model's dtype; V is 1 with a scalar head.

        `attention_mask` (R, T) is 0 at padding, on either side. A `layout` says what a pass over packed or cached texts
        reads, in its place. `keep` are the indices along T whose logits are wanted, all by default.

        Raises ValueError for a cache that was made under other windows.
        """
        if layout is None:
            layout = self._layout(input_ids, attention_mask)
        if cache is not None and cache.shape != self.cache_shape:
            raise ValueError("the cache was made under other windows than those in force; make a new one")
        return self.lm_head(self.hidden(input_ids, layout, cache=cache, keep=keep))  # type: ignore[no-any-return]

    def hidden(
        self, input_ids: Tensor, layout: Layout, *, cache: Cache | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """What the output matrix reads, (R, T, size): `forward` without its last product, for losses and other heads
        that never hold the logits of all positions."""
        x = self.model.embed_tokens(input_ids)
        if self.compute_dtype is not None:
            x = x.to(self.compute_dtype)
        x = self._through(self.model.dropout(x), layout, cache)
        if keep is not None:
            x = x[:, keep]
        return self.model.norm(x)  # type: ignore[no-any-return]

    def _through(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        """x (R, T, size) through all layers."""
        reaches = [window if self._settings.window_alpha else None for window in self._windows]
        by_reach = {reach: self._turns(layout, reach) for reach in set(reaches)}
        turns = [by_reach[reach] for reach in reaches]
        blocks = cast("list[Block]", list(self.model.layers))
        if isinstance(cache, SlotCache):
            layers = [block.as_layer(turned, cache) for block, turned in zip(blocks, turns, strict=True)]
            out = kernels.layers(x, layers, self.config.rms_norm_eps, cache.prefixes)
            if out is not None:
                return out
        for block, turned, window in zip(blocks, turns, self._windows, strict=True):
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, turned, layout, window, cache, use_reentrant=False)
            else:
                x = block(x, turned, layout, window, cache)
        return x

    def _lay(self, settings: LongContext) -> None:
        if not isinstance(settings, LongContext):
            raise TypeError(f"settings: a LongContext is wanted, not {type(settings).__name__}")
        train_length = settings.train_length or self.config.train_length
        laid = settings.windows(self.config.num_hidden_layers, train_length)
        # nothing raises from here on: settings that are refused leave the model as it was
        self._settings, self._train_length = settings, train_length
        self._windows = laid if settings.window is not None else self.config.windows or laid

    def _layout(self, input_ids: Tensor, attention_mask: Tensor | None) -> Layout:
        rows, new = input_ids.shape
        lengths = [new] * rows if attention_mask is None else attention_mask.sum(-1).tolist()
        steps = torch.tensor([[self.ntk_step(int(length))] for length in lengths], device=input_ids.device)
        return Plain(new, steps=steps) if attention_mask is None else Padded(attention_mask, steps)

    def _turns(self, layout: Layout, reach: int | None) -> Turns:
        # a training graph must not see the extension: it is for inference (report, section 2.3)
        steps = torch.zeros_like(layout.steps) if self.training else layout.steps
        if reach is not None:
            steps = steps.clamp(max=self.ntk_step(reach))
        if self._frequencies.device != steps.device:
            self._frequencies = self._frequencies.to(steps.device)
        logn_from = self._train_length if self._settings.logn and not self.training else None
        return turns(layout.positions, steps, self._frequencies, logn_from)
