"""config.json of the layouts that we read and write, to and from a `ModelConfig`.

Two layouts name the same decoder's parts: "qwen", of the first Qwen's released code, and "qwen2", of transformers'
Qwen2 and Llama. "qwen2-scalar" is transformers' Qwen2 that classifies, with one label: a reward or value model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from qwen_model.config import ModelConfig, ModelError
from qwen_model.long_context import NTK, LongContext, Windows

FileLayout = Literal["qwen", "qwen2", "qwen2-scalar"]
_SCALAR = "Qwen2ForSequenceClassification"
LAYOUTS: dict[str, FileLayout] = {
    "Qwen2ForCausalLM": "qwen2",
    _SCALAR: "qwen2-scalar",
    "LlamaForCausalLM": "qwen2",
    "QWenLMHeadModel": "qwen",
}
"""The layout of each architecture that we read."""

_NAMES_OF_THE_FIRST_QWEN = {
    "rms_norm_eps": "layer_norm_epsilon",
    "head_dim": "kv_channels",
    "train_length": "seq_length",
    "rope_theta": "rotary_emb_base",
    "dropout": "emb_dropout_prob",
}


def read_model_config(config: Mapping[str, Any], where: str) -> ModelConfig:
    """Read the config.json of a Qwen, Qwen2 or Llama checkpoint. `where` names the file in errors.

    Raises ModelError for a missing field, one of the wrong type or of an impossible size, another architecture, or a
    feature that would silently change numbers.
    """
    layout = layout_of(config, where)
    fields = _Fields(config, where)
    try:
        return _read_qwen(fields) if layout == "qwen" else _read_qwen2(fields)
    except ValueError as error:  # ModelConfig's own word on sizes that do not fit
        raise ModelError(f"{where}: {error}") from error


def layout_of(config: Mapping[str, Any], where: str) -> FileLayout:
    """How the checkpoint with this config.json names its tensors. Raises ModelError for another architecture."""
    names = config.get("architectures")
    architecture = names[0] if isinstance(names, list) and names else None
    if architecture not in LAYOUTS:
        raise ModelError(f"{where}: architecture {architecture} is not one of {', '.join(LAYOUTS)}; try --backend hf")
    return LAYOUTS[architecture]


class _Fields:
    """Typed reading of a config.json; every problem is a ModelError that names the file and the field."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.config, self.where = config, where

    def _get(self, name: str, default: object) -> Any:
        value = self.config.get(name)
        if value is None:
            value = default
        if value is None:
            raise ModelError(f"{self.where}: field {name!r} is missing; the file is not a whole config.json")
        return value

    def _wrong(self, name: str, value: object, wanted: str) -> ModelError:
        return ModelError(f"{self.where}: field {name!r} is {value!r}, not {wanted}; mend it or fetch the file again")

    def size(self, name: str, default: int | None = None) -> int:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong(name, value, "a whole number of 1 or more")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, value, "a number")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def group(self, name: str) -> _Fields:
        value = self._get(name, {})
        if not isinstance(value, dict):
            raise self._wrong(name, value, "an object")
        return _Fields(value, f"{self.where}: {name}")

    def refuse(self, problem: str, found: bool) -> None:
        if found:
            raise ModelError(f"{self.where}: {problem} is not supported by the native backend; try --backend hf")


def _read_qwen(fields: _Fields) -> ModelConfig:
    config = fields.config
    fields.refuse("a part of each head turned (rotary_pct)", fields.number("rotary_pct", 1.0) != 1.0)
    fields.refuse("biases everywhere (no_bias: false)", not fields.flag("no_bias", True))
    fields.refuse(
        "attention without its scale (scale_attn_weights: false)", not fields.flag("scale_attn_weights", True)
    )
    fields.refuse("weights quantised by another tool (quantization_config)", bool(config.get("quantization_config")))
    double = fields.size("intermediate_size")
    hidden, heads, width = fields.size("hidden_size"), fields.size("num_attention_heads"), fields.size("kv_channels")
    if double % 2:
        raise ValueError(f"field 'intermediate_size' is {double}; this layout states twice the width, an even number")
    if heads * width != hidden:
        raise ValueError(f"{heads} heads of {width} (kv_channels) are not hidden_size {hidden}; fetch the file again")
    return ModelConfig(
        vocab_size=fields.size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=double // 2,
        num_hidden_layers=fields.size("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width,
        train_length=fields.size("seq_length"),
        max_position_embeddings=fields.size("max_position_embeddings"),
        rope_theta=fields.number("rotary_emb_base"),
        rms_norm_eps=fields.number("layer_norm_epsilon"),
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        dropout=fields.number("emb_dropout_prob", 0.0),
        initializer_range=fields.number("initializer_range", 0.02),
        long_context=LongContext(
            dynamic_ntk="released" if fields.flag("use_dynamic_ntk") else "off", logn=fields.flag("use_logn_attn")
        ),
    )


def _read_qwen2(fields: _Fields) -> ModelConfig:
    config = fields.config
    architecture = config["architectures"][0]
    qwen2 = architecture != "LlamaForCausalLM"
    # transformers writes no labels where there are two, its default
    fields.refuse("a classifier of several labels", architecture == _SCALAR and len(config.get("id2label") or {}) != 1)
    rope, scaling = fields.group("rope_parameters"), fields.group("rope_scaling")
    kind = scaling.config.get("rope_type") or scaling.config.get("type") or rope.config.get("rope_type") or "default"
    parts = {fields.number("partial_rotary_factor", 1.0), rope.number("partial_rotary_factor", 1.0)}
    fields.refuse(f"rope scaling {kind!r}", kind != "default")
    fields.refuse("a part of each head turned (partial_rotary_factor)", parts != {1.0})
    fields.refuse("MLP biases", fields.flag("mlp_bias", False) and not qwen2)
    fields.refuse(f"activation {config.get('hidden_act')!r}", config.get("hidden_act", "silu") != "silu")
    fields.refuse("weights quantised by another tool (quantization_config)", bool(config.get("quantization_config")))
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    if config.get("head_dim") is None and hidden % heads:
        raise ValueError(f"hidden_size {hidden} is no multiple of num_attention_heads {heads}; mend one of them")
    bias = fields.flag("attention_bias", False)
    length = fields.size("max_position_embeddings")
    return ModelConfig(
        vocab_size=fields.size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.size("intermediate_size"),
        num_hidden_layers=fields.size("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=fields.size("num_key_value_heads", heads),
        head_dim=fields.size("head_dim", hidden // heads),
        train_length=fields.size("train_length", length),
        max_position_embeddings=length,
        rope_theta=fields.number("rope_theta", rope.number("rope_theta", 10000.0)),
        rms_norm_eps=fields.number("rms_norm_eps"),
        qkv_bias=qwen2 or bias,
        output_bias=bias and not qwen2,
        tie_word_embeddings=fields.flag("tie_word_embeddings", False) and architecture != _SCALAR,
        scalar_head=architecture == _SCALAR,
        dropout=fields.number("dropout", 0.0),
        initializer_range=fields.number("initializer_range", 0.02),
        windows=_read_windows(fields) if qwen2 else None,
    )


def _read_windows(fields: _Fields) -> Windows | None:
    """As transformers 5 reads them: `layer_types` decides, else the layers from `max_window_layers` up have windows."""
    layers = fields.size("num_hidden_layers")
    width = None
    if fields.flag("use_sliding_window", False) and fields.config.get("sliding_window") is not None:
        width = fields.size("sliding_window")
    kinds = fields.config.get("layer_types")
    if kinds is None:
        first = layers
        if width is not None:
            first = 0 if fields.config.get("max_window_layers") == 0 else fields.size("max_window_layers")
        kinds = ["full_attention" if layer < first else "sliding_attention" for layer in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise ValueError(f"field 'layer_types' is no list of {layers} layers, which num_hidden_layers says")
    for kind in kinds:
        fields.refuse(f"a layer of type {kind!r}", kind not in ("full_attention", "sliding_attention"))
    if "sliding_attention" not in kinds:
        return None
    if width is None:
        raise ValueError(
            "field 'layer_types' has sliding layers, but use_sliding_window and sliding_window give no width"
        )
    return tuple(width if kind == "sliding_attention" else None for kind in kinds)


def write_model_config(config: ModelConfig, layout: FileLayout, dtype: str) -> dict[str, Any]:
    """The config.json of a model in that layout whose weights are of `dtype`, such as "bfloat16".

    Raises ModelError, naming the field, for what the layout cannot express.
    """
    if layout not in ("qwen", "qwen2", "qwen2-scalar"):
        raise ModelError(f"layout {layout!r} is not one of qwen, qwen2, qwen2-scalar")
    written = _write_qwen(config, dtype) if layout == "qwen" else _write_qwen2(config)
    return written | {"torch_dtype": dtype}


def _need(layout: str, config: ModelConfig, **wanted: object) -> None:
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise ModelError(f"{name}: the {layout} layout cannot express {getattr(config, name)!r}, only {value!r}")


def _write_qwen(c: ModelConfig, dtype: str) -> dict[str, Any]:
    _need("qwen", c, qkv_bias=True, output_bias=False, tie_word_embeddings=False, windows=None, scalar_head=False)
    _need("qwen", c, num_key_value_heads=c.num_attention_heads)
    if c.head_dim * c.num_attention_heads != c.hidden_size:
        raise ModelError(f"head_dim: the qwen layout cannot express {c.head_dim}, only hidden_size / heads")
    ntk: NTK = "released" if c.long_context.dynamic_ntk != "off" else "off"
    _need("qwen", c, long_context=LongContext(dynamic_ntk=ntk, logn=c.long_context.logn))
    return {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        # where the released code lies, in files that its owner puts beside the weights
        "auto_map": {
            "AutoConfig": "configuration_qwen.QWenConfig",
            "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
        },
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": 2 * c.intermediate_size,
        "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads,
        "max_position_embeddings": c.max_position_embeddings,
        **{theirs: getattr(c, ours) for ours, theirs in _NAMES_OF_THE_FIRST_QWEN.items()},
        "attn_dropout_prob": 0.0,
        "initializer_range": c.initializer_range,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "no_bias": True,
        "use_dynamic_ntk": ntk == "released",
        "use_logn_attn": c.long_context.logn,
        "tie_word_embeddings": False,
        # the released code picks a type of its own where all three are false
        "bf16": dtype == "bfloat16",
        "fp16": dtype == "float16",
        "fp32": dtype == "float32",
        "tokenizer_class": "QWenTokenizer",
    }


def _write_qwen2(c: ModelConfig) -> dict[str, Any]:
    _need("qwen2", c, qkv_bias=True, output_bias=False, long_context=LongContext())
    windows = c.windows or (None,) * c.num_hidden_layers
    widths = {width for width in windows if width is not None}
    if len(widths) > 1:
        raise ModelError(f"windows: the qwen2 layout cannot express widths {sorted(widths)}, only one for all layers")
    return {
        "architectures": [_SCALAR if c.scalar_head else "Qwen2ForCausalLM"],
        **({"id2label": {"0": "reward"}, "label2id": {"reward": 0}} if c.scalar_head else {}),
        "model_type": "qwen2",
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads,
        "num_key_value_heads": c.num_key_value_heads,
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": c.max_position_embeddings,
        "rope_theta": c.rope_theta,
        "rms_norm_eps": c.rms_norm_eps,
        "tie_word_embeddings": c.tie_word_embeddings,
        "initializer_range": c.initializer_range,
        "use_sliding_window": bool(widths),
        "sliding_window": next(iter(widths), None),
        "layer_types": ["full_attention" if width is None else "sliding_attention" for width in windows],
        # no part of this layout: ours, and without a say in what the model computes at inference
        "train_length": c.train_length,
        "dropout": c.dropout,
    }
