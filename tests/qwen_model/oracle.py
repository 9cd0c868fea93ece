"""The decoder once more, as plainly as it can be written: one text, no cache, a T x T mask, float64.

It shares no code with `qwen_model` beyond the names of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def alpha(length: int, train_length: int) -> float:
    """Dynamic NTK's alpha as the released code computes it."""
    return max(2 ** math.ceil(math.log(length / train_length, 2) + 1) - 1, 1)


def float64(model) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in model.state_dict().items()}


def logits(
    model,
    tokens: list[int],
    *,
    ntk_length: int | None = None,
    logn: bool = False,
    windows: tuple[int | None, ...] | None = None,
    window_alpha: bool = False,
    weights: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """(T, V) for one text. `ntk_length`: the length that sets alpha, None for no NTK; `weights`: of `float64`, made
    before."""
    c = model.config
    weights = weights or float64(model)
    count, train = len(tokens), c.train_length
    place = torch.arange(count)
    distance = place[:, None] - place[None, :]
    x = weights["model.embed_tokens.weight"][torch.tensor(tokens)]

    def norm(value: Tensor, name: str) -> Tensor:
        return value / (value.pow(2).mean(-1, keepdim=True) + c.rms_norm_eps).sqrt() * weights[name]

    def project(value: Tensor, name: str, heads: int) -> Tensor:
        out = value @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)
        return out.view(count, heads, c.head_dim).transpose(0, 1)

    for layer in range(c.num_hidden_layers):
        window = windows[layer] if windows else None
        base = c.rope_theta
        if ntk_length is not None:
            reach = min(ntk_length, window) if window_alpha and window else ntk_length
            base *= alpha(reach, train) ** (c.head_dim / (c.head_dim - 2))
        turn = place[:, None].double() / base ** (torch.arange(0, c.head_dim, 2).double() / c.head_dim)

        def rotated(value: Tensor, turn: Tensor = turn) -> Tensor:
            first, second = value.chunk(2, -1)
            pair = torch.complex(first, second) * torch.polar(torch.ones_like(turn), turn)
            return torch.cat((pair.real, pair.imag), -1)

        block = f"model.layers.{layer}"
        y = norm(x, f"{block}.input_layernorm.weight")
        q = rotated(project(y, f"{block}.self_attn.q_proj", c.num_attention_heads))
        k = rotated(project(y, f"{block}.self_attn.k_proj", c.num_key_value_heads))
        v = project(y, f"{block}.self_attn.v_proj", c.num_key_value_heads)
        if logn:
            factor = [math.log(i) / math.log(train) if i > train else 1.0 for i in range(1, count + 1)]
            q = q * torch.tensor(factor).double()[:, None]
        groups = c.num_attention_heads // c.num_key_value_heads
        k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
        hidden = (distance < 0) | (distance >= (window or count))
        scores = (q @ k.transpose(1, 2) / math.sqrt(c.head_dim)).masked_fill(hidden, -math.inf)
        read = (scores.softmax(-1) @ v).transpose(0, 1).reshape(count, -1)
        x = x + read @ weights[f"{block}.self_attn.o_proj.weight"].T
        y = norm(x, f"{block}.post_attention_layernorm.weight")
        gate, up = (y @ weights[f"{block}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (torch.nn.functional.silu(gate) * up) @ weights[f"{block}.mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ weights["lm_head.weight"].T
