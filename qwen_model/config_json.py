"""config.json of the layouts that we read, as a `ModelConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwen_model.config import ModelConfig, ModelError

ARCHITECTURES = ("Qwen2ForCausalLM", "LlamaForCausalLM")


def read_model_config(config: Mapping[str, Any], where: str) -> ModelConfig:
    """Read a transformers config.json (Qwen2, Llama). `where` names the file in errors.

    Raises ModelError for a missing field, another architecture, or a feature that would silently change numbers.
    """
    names = config.get("architectures") or []
    architecture = names[0] if names else None
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"{where}: architecture {architecture} is not one of {known}; try --backend hf")
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or rope.get("rope_type") or "default"
    for problem, found in (
        (f"rope scaling {kind!r}", kind != "default"),
        ("sliding-window attention", bool(config.get("use_sliding_window"))),
        ("MLP biases", bool(config.get("mlp_bias"))),
        (f"activation {config.get('hidden_act')!r}", config.get("hidden_act", "silu") != "silu"),
    ):
        if found:
            raise ModelError(f"{where}: {problem} is not supported by the native backend; try --backend hf")
    try:
        heads = int(config["num_attention_heads"])
        qwen2 = architecture == "Qwen2ForCausalLM"
        bias = bool(config.get("attention_bias", False))
        return ModelConfig(
            vocab_size=int(config["vocab_size"]),
            hidden_size=int(config["hidden_size"]),
            intermediate_size=int(config["intermediate_size"]),
            num_hidden_layers=int(config["num_hidden_layers"]),
            num_attention_heads=heads,
            num_key_value_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            rope_theta=float(config.get("rope_theta") or rope.get("rope_theta") or 10000.0),
            rms_norm_eps=float(config["rms_norm_eps"]),
            qkv_bias=qwen2 or bias,
            output_bias=bias and not qwen2,
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            max_position_embeddings=int(config["max_position_embeddings"]),
            train_length=int(config["max_position_embeddings"]),
        )
    except KeyError as error:
        raise ModelError(f"{where}: field {error} is missing; the file is not a whole config.json") from error
