"""How each layout names the decoder's tensors in a file."""

from __future__ import annotations

from collections.abc import Iterable

from qwen_model.config_json import FileLayout

_MODEL = {
    "model.embed_tokens.weight": "transformer.wte.weight",
    "model.norm.weight": "transformer.ln_f.weight",
    "lm_head.weight": "lm_head.weight",
}
_LAYER = {
    "input_layernorm.weight": "ln_1.weight",
    "self_attn.q_proj.weight": "attn.c_attn.weight",
    "self_attn.k_proj.weight": "attn.c_attn.weight",
    "self_attn.v_proj.weight": "attn.c_attn.weight",
    "self_attn.q_proj.bias": "attn.c_attn.bias",
    "self_attn.k_proj.bias": "attn.c_attn.bias",
    "self_attn.v_proj.bias": "attn.c_attn.bias",
    "self_attn.o_proj.weight": "attn.c_proj.weight",
    "post_attention_layernorm.weight": "ln_2.weight",
    "mlp.up_proj.weight": "mlp.w1.weight",
    "mlp.gate_proj.weight": "mlp.w2.weight",
    "mlp.down_proj.weight": "mlp.c_proj.weight",
}
"""The first Qwen's names. Queries, keys and values lie in c_attn in this order; w2, not w1, is the gate."""


def stored_tensors(names: Iterable[str], layout: FileLayout) -> dict[str, tuple[str, ...]]:
    """The tensors of a file of that layout, each with the decoder's parameters whose rows it holds one below another.

    `names` are the decoder's parameters.
    """
    if layout == "qwen2-scalar":
        return {"score.weight" if name == "lm_head.weight" else name: (name,) for name in names}
    if layout == "qwen2":
        return {name: (name,) for name in names}
    held: dict[str, list[str]] = {}
    for name in sorted(names, key=_place):
        held.setdefault(_name_in_the_first_qwen(name), []).append(name)
    return {stored: tuple(parts) for stored, parts in held.items()}


def _place(name: str) -> int:
    """Queries before keys before values."""
    return {"k_proj": 1, "v_proj": 2}.get(name.split(".")[-2], 0)


def _name_in_the_first_qwen(name: str) -> str:
    if name in _MODEL:
        return _MODEL[name]
    _, _, layer, tail = name.split(".", 3)
    return f"transformer.h.{layer}.{_LAYER[tail]}"
