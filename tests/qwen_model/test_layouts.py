"""config.json and tensors of the layouts that are read and written: the released Qwen's, Qwen2's and Llama's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen2Config
from transformers.masking_utils import create_sliding_window_causal_mask

from qwen_model import ModelError, load_model
from qwen_model.config import ModelConfig
from qwen_model.config_json import read_model_config, write_model_config
from qwen_model.long_context import LongContext, WindowSchedule
from qwen_model.save import save_model

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "qwen_v1_tiny").is_dir(), reason=f"no reference logits at {REFERENCE}"
)

PLAIN = ModelConfig(
    vocab_size=320,
    hidden_size=48,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=3,
    num_key_value_heads=3,
    head_dim=16,
    train_length=64,
    max_position_embeddings=4096,
)
RELEASED = json.loads((REFERENCE / "qwen_v1_tiny" / "config.json").read_text()) if REFERENCE.is_dir() else {}


@needs_reference
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 257}, "'intermediate_size' is 257; .* twice the width"),
        ({"kv_channels": 8}, r"3 heads of 8 \(kv_channels\) are not hidden_size 48"),
        ({"seq_length": None}, "'seq_length' is missing"),
        ({"use_logn_attn": "yes"}, "'use_logn_attn' is 'yes', not true or false"),
        ({"seq_length": 1.5}, "'seq_length' is 1.5, not a whole number"),
        ({"no_bias": False}, "no_bias: false"),
        ({"rotary_pct": 0.5}, "rotary_pct"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_a_released_config_that_would_change_numbers_is_refused(changes, message):
    with pytest.raises(ModelError, match=message) as caught:
        read_model_config(RELEASED | changes, "folder/config.json")
    assert str(caught.value).startswith("folder/config.json: ")
    assert "\n" not in str(caught.value)


@needs_reference
def test_the_switches_of_the_released_config():
    off = read_model_config(RELEASED | {"use_dynamic_ntk": False, "use_logn_attn": False}, "config.json")
    assert off.long_context == LongContext()
    training = read_model_config(RELEASED | {"emb_dropout_prob": 0.1, "rotary_emb_base": 5e5}, "config.json")
    assert (training.dropout, training.rope_theta) == (0.1, 5e5)


def qwen2(**changes):
    """config.json as transformers writes it."""
    config = Qwen2Config(
        vocab_size=320,
        hidden_size=48,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=3,
        architectures=["Qwen2ForCausalLM"],
        **changes,
    )
    return config, json.loads(config.to_json_string(use_diff=False))


FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, None),
        ({"use_sliding_window": False, "sliding_window": 9, "max_window_layers": 0}, None),
        ({"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0}, (9, 9, 9, 9)),
        ({"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}, (None, 9, 9, 9)),
        ({"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 4}, None),
        ({"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, None),
        (
            {"use_sliding_window": True, "sliding_window": 9, "layer_types": [SLIDING, FULL, SLIDING, FULL]},
            (9, None, 9, None),
        ),
    ],
)
def test_windows_are_those_of_transformers(changes, windows):
    config, written = qwen2(**changes)
    assert read_model_config(written, "config.json").windows == windows
    theirs = tuple(config.sliding_window if kind == SLIDING else None for kind in config.layer_types)
    assert theirs == (windows or (None,) * 4)
    without = {name: value for name, value in written.items() if name != "layer_types"}
    if "layer_types" not in changes:  # as files before transformers 4.53 are
        assert read_model_config(without, "config.json").windows == windows


def test_a_window_of_w_reads_w_tokens_in_transformers_too():
    config, written = qwen2(use_sliding_window=True, sliding_window=9, max_window_layers=0)
    config._attn_implementation = "eager"
    mask = create_sliding_window_causal_mask(
        config=config, inputs_embeds=torch.zeros(1, 20, 48), attention_mask=None, past_key_values=None
    )
    readable = (mask[0, 0] == 0).sum(dim=-1)
    (width,) = set(read_model_config(written, "config.json").windows)
    assert readable.tolist() == [min(position, width) for position in range(1, 21)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": [SLIDING] * 4, "use_sliding_window": False}, "'layer_types' has sliding layers, but"),
        ({"layer_types": [FULL] * 3}, "'layer_types' is no list of 4 layers"),
        ({"layer_types": "full"}, "'layer_types' is no list of 4 layers"),
        ({"layer_types": [FULL, FULL, FULL, "linear_attention"]}, "type 'linear_attention' is not supported"),
        ({"layer_types": None, "use_sliding_window": True, "sliding_window": "9"}, "'sliding_window' is '9'"),
        (
            {"layer_types": None, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": None},
            "'max_window_layers' is missing",
        ),
    ],
)
def test_window_fields_that_contradict_are_named(changes, message):
    _, written = qwen2()
    with pytest.raises(ModelError, match=message):
        read_model_config(written | changes, "config.json")


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        ("qwen", {}),
        ("qwen", {"long_context": LongContext(dynamic_ntk="released", logn=True), "dropout": 0.1, "rope_theta": 5e5}),
        ("qwen", {"long_context": LongContext(logn=True), "initializer_range": 0.1, "rms_norm_eps": 1e-5}),
        ("qwen2", {}),
        ("qwen2", {"windows": (None, 9, 9, None), "dropout": 0.1, "num_key_value_heads": 1}),
        ("qwen2", {"windows": (9,) * 4, "tie_word_embeddings": True, "head_dim": 8, "rope_theta": 1e6}),
    ],
)
def test_a_config_comes_back_as_it_was(layout, changes):
    config = replace(PLAIN, **changes)
    written = json.loads(json.dumps(write_model_config(config, layout, "float32")))
    assert read_model_config(written, "config.json") == config


@pytest.mark.parametrize(
    ("layout", "field", "value"),
    [
        ("qwen", "num_key_value_heads", 1),
        ("qwen", "tie_word_embeddings", True),
        ("qwen", "qkv_bias", False),
        ("qwen", "output_bias", True),
        ("qwen", "head_dim", 32),
        ("qwen", "windows", (9, 9, 9, 9)),
        ("qwen", "long_context", LongContext(dynamic_ntk="exact")),
        ("qwen", "long_context", LongContext(window=WindowSchedule.report())),
        ("qwen", "long_context", LongContext(train_length=128)),
        ("qwen2", "qkv_bias", False),
        ("qwen2", "output_bias", True),
        ("qwen2", "long_context", LongContext(logn=True)),
        ("qwen2", "long_context", LongContext(dynamic_ntk="released")),
        ("qwen2", "windows", (4, 9, 9, None)),
    ],
)
def test_what_a_layout_cannot_express_is_refused_by_name(layout, field, value):
    with pytest.raises(ModelError, match=f"^{field}: the {layout} layout cannot express") as caught:
        write_model_config(replace(PLAIN, **{field: value}), layout, "float32")
    assert "\n" not in str(caught.value)


@needs_reference
def test_the_written_fields_are_the_released_ones():
    written = write_model_config(read_model_config(RELEASED, "config.json"), "qwen", "float32")
    assert written.keys() - RELEASED.keys() == set()
    changed = {name: value for name, value in written.items() if RELEASED[name] != value}
    assert changed == {"tokenizer_class": "QWenTokenizer", "torch_dtype": "float32"}


@needs_reference
def test_the_released_checkpoint_is_written_as_it_was(tmp_path):
    model = load_model(str(REFERENCE / "qwen_v1_tiny"))
    save_model(model, tmp_path / "saved", "qwen")
    assert load_model(str(tmp_path / "saved")).config == model.config
    before, after = (
        load_file(folder / "model.safetensors") for folder in (REFERENCE / "qwen_v1_tiny", tmp_path / "saved")
    )
    assert before.keys() == after.keys()
    for name, values in after.items():
        assert torch.equal(values, before[name]), name


@needs_reference
def test_the_released_checkpoint_in_qwen2s_layout_has_its_plain_logits_in_transformers(tmp_path):
    model = load_model(str(REFERENCE / "qwen_v1_tiny"))
    model.config = replace(model.config, long_context=LongContext())
    save_model(model, tmp_path / "saved", "qwen2")
    arrays = np.load(REFERENCE / "qwen_v1_logits.npz")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    with torch.inference_mode():
        found = theirs(torch.from_numpy(arrays["input_ids"][:, :260]).long()).logits[0, -8:]
    assert np.abs(found.numpy() - arrays["full_ntk0_logn0_n260"]).max() < 2e-4
