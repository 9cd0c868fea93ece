"""GGUF files, written here by the `gguf` package from a tiny checkpoint, read back to the same numbers."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from qwen_model import ModelError, load_model
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
from qwen_model.gguf_import import _LAYER_TENSORS, _MODEL_TENSORS, _tensor_name
from tests.conftest import make_checkpoint

Q8 = gguf.GGMLQuantizationType.Q8_0


def write_gguf(folder, path, kind, quantise):
    """The checkpoint as llama.cpp's converter writes it; returns the weights as a reader must see them."""
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(
        config["head_dim"] if config.get("head_dim") else config["hidden_size"] // config["num_attention_heads"]
    )
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    special = {token["id"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if kind == "llama" else "qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i in special else 1 for i in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(2)
    names = {f"blk.{i}.{name}" for i in range(config["num_hidden_layers"]) for name in _LAYER_TENSORS} | set(
        _MODEL_TENSORS
    )
    weights = load_file(folder / "model.safetensors")
    seen = {}
    for name in sorted(names):
        ours = _tensor_name(name)
        if ours not in weights:
            continue
        values = weights[ours].numpy()
        heads = None
        if kind == "llama" and ours.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config["num_attention_heads" if "q_proj" in ours else "num_key_value_heads"]
            values = values.reshape(heads, 2, -1, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        if quantise and values.ndim == 2 and values.shape[-1] % 32 == 0:
            packed = gguf.quants.quantize(values, Q8)
            writer.add_tensor(name, packed, raw_dtype=Q8)
            values = gguf.quants.dequantize(packed, Q8)
        else:
            writer.add_tensor(name, np.ascontiguousarray(values))
        if heads:
            values = values.reshape(heads, -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        seen[ours] = torch.from_numpy(np.array(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return seen


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("quantise", [False, True])
def test_weights_logits_and_tokens_come_through(tmp_path, kind, quantise):
    folder = make_checkpoint(tmp_path / "model", kind, hidden_size=96, intermediate_size=128, num_attention_heads=6)
    seen = write_gguf(folder, tmp_path / "model.gguf", kind, quantise)
    model = load_model(str(tmp_path / "model.gguf"))
    for name, values in model.state_dict().items():
        assert torch.equal(values, seen[name]), name
    tokens = torch.arange(3, 120)[None]
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        difference = (model(tokens) - reference(tokens).logits).abs().max()
    assert difference < (5.0 if quantise else 1e-4)
    checkpoint = find_checkpoint(str(tmp_path / "model.gguf"))
    assert checkpoint.quantisation == "Q8_0"
    tokenizer = load_tokenizer(checkpoint)
    assert tokenizer.eos_ids == (2, 0)
    assert tokenizer.decode(tokenizer.encode("héllo 123 world")) == "héllo 123 world"


def test_qwen_text_is_normalised_and_control_tokens_are_read(tmp_path):
    write_gguf(make_checkpoint(tmp_path / "model"), tmp_path / "model.gguf", "qwen2", False)
    tokenizer = load_tokenizer(find_checkpoint(str(tmp_path / "model.gguf")))
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")
    assert tokenizer.encode_rendered("<|im_start|>")[0] == 1
    assert len(tokenizer.encode("12")) == 2


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, share):
    write_gguf(make_checkpoint(tmp_path / "model"), tmp_path / "model.gguf", "qwen2", True)
    whole = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match=r"model\.gguf: damaged or truncated") as caught:
        find_checkpoint(str(tmp_path / "model.gguf"))
    assert "\n" not in str(caught.value)
    assert not any((tmp_path / "cache").glob("converted/*"))


def test_unknown_architecture_is_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match="architecture 'mamba'"):
        find_checkpoint(str(tmp_path / "model.gguf"))
