"""Saved models: equal to the bit when read back, equal in logits in transformers, whole or not there at all."""

from __future__ import annotations

import json
import resource
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from qwen_model import ModelError, load_model, save
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
from qwen_model.config import ModelConfig
from qwen_model.decoder import Decoder
from qwen_model.long_context import LongContext
from qwen_model.new_folder import new_folder
from qwen_model.safetensors_writer import Outgoing, write_safetensors
from qwen_model.save import save_model

PLAIN = ModelConfig(
    vocab_size=320,
    hidden_size=48,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=6,
    head_dim=8,
    train_length=64,
    max_position_embeddings=4096,
)
EXTENDED = LongContext(dynamic_ntk="released", logn=True)


def random_model(dtype=torch.float32, **changes):
    """Weights wide enough, biases and norms too, for every tensor to show in the logits."""
    model = Decoder(replace(PLAIN, **changes))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        drawn = torch.empty(parameter.shape).normal_(std=0.1, generator=generator)
        parameter.data = (drawn + 1 if "norm" in name else drawn).to(dtype)
    return model.eval()


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        ("qwen", {}),
        ("qwen", {"long_context": EXTENDED, "dropout": 0.1}),
        ("qwen2", {}),
        ("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True, "head_dim": 16}),
        ("qwen2", {"windows": (None, 4, 4)}),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("split", [False, True])
def test_what_is_saved_comes_back_equal(tmp_path, monkeypatch, layout, changes, dtype, split):
    if split:
        monkeypatch.setattr(save, "SHARD_BYTES", 40_000)
    model = random_model(getattr(torch, dtype), **changes)
    save_model(model, tmp_path / "saved", layout)
    found = load_model(str(tmp_path / "saved"), dtype=dtype)
    assert found.config == model.config
    before, after = model.state_dict(), found.state_dict()
    assert before.keys() == after.keys()
    for name, values in after.items():
        assert torch.equal(values, before[name]), name
    shards = sorted(path.name for path in (tmp_path / "saved").glob("*.safetensors"))
    assert (shards == ["model.safetensors"]) == (not split)
    again = tmp_path / "again"
    save_model(found, again, layout)
    assert all((again / name).read_bytes() == (tmp_path / "saved" / name).read_bytes() for name in shards)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 2},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 1, "head_dim": 16, "rope_theta": 1e6, "rms_norm_eps": 1e-5},
        {"windows": (None, 9, 9)},
        {"windows": (9, 9, 9), "num_key_value_heads": 3, "tie_word_embeddings": True},
    ],
)
@pytest.mark.parametrize("split", [False, True])
def test_transformers_loads_it_to_the_same_logits(tmp_path, monkeypatch, changes, split):
    if split:
        monkeypatch.setattr(save, "SHARD_BYTES", 40_000)
    model = random_model(**changes)
    save_model(model, tmp_path / "saved", "qwen2")
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values()), report
    assert theirs.dtype == torch.float32
    tokens = torch.randint(0, 320, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        difference = (model(tokens) - theirs.eval()(tokens).logits).abs().max()
    assert difference < 1e-5


def test_transformers_takes_the_type_of_the_weights(tmp_path):
    save_model(random_model(torch.bfloat16), tmp_path / "saved")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").dtype == torch.bfloat16


def test_the_first_qwens_layout_has_its_names_and_order(tmp_path):
    model = random_model()
    save_model(model, tmp_path / "saved", "qwen")
    with safe_open(tmp_path / "saved" / "model.safetensors", framework="pt") as file:
        assert len(file.keys()) == 3 + 3 * 8
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    layer, stored = model.model.layers[1], "transformer.h.1"
    attention = layer.self_attn
    fused = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    assert torch.equal(weights[f"{stored}.attn.c_attn.weight"], fused)
    bias = torch.cat([attention.q_proj.bias, attention.k_proj.bias, attention.v_proj.bias])
    assert torch.equal(weights[f"{stored}.attn.c_attn.bias"], bias)
    assert torch.equal(weights[f"{stored}.mlp.w2.weight"], layer.mlp.gate_proj.weight)
    assert torch.equal(weights[f"{stored}.mlp.w1.weight"], layer.mlp.up_proj.weight)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["intermediate_size"] == 256


def test_the_tokenizer_comes_along(tiny, tmp_path):
    save_model(load_model(str(tiny)), tmp_path / "saved")
    before, after = (load_tokenizer(find_checkpoint(str(folder))) for folder in (tiny, tmp_path / "saved"))
    assert after.eos_ids == before.eos_ids
    messages = [("user", "héllo 123")]
    assert after.encode_rendered(after.render(messages)) == before.encode_rendered(before.render(messages))


def test_end_tokens_that_only_the_config_names_come_along(tiny, tmp_path):
    source = tmp_path / "source"
    save_model(load_model(str(tiny)), source)
    (source / "generation_config.json").unlink()
    assert load_tokenizer(find_checkpoint(str(source))).eos_ids == (2, 0)
    save_model(load_model(str(source)), tmp_path / "saved")
    assert load_tokenizer(find_checkpoint(str(tmp_path / "saved"))).eos_ids == (2, 0)


def test_a_source_that_is_gone_is_named(tiny, tmp_path):
    save_model(load_model(str(tiny)), tmp_path / "source")
    model = load_model(str(tmp_path / "source"))
    shutil.rmtree(tmp_path / "source")
    with pytest.raises(ModelError, match="source: gone, and with it the tokenizer") as caught:
        save_model(model, tmp_path / "saved")
    assert "\n" not in str(caught.value)
    del model.checkpoint
    save_model(model, tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_what_the_layout_cannot_express_leaves_nothing(tmp_path):
    with pytest.raises(ModelError, match=r"^num_key_value_heads: the qwen layout cannot express 2, only 6"):
        save_model(random_model(num_key_value_heads=2), tmp_path / "saved", "qwen")
    with pytest.raises(ModelError, match="layout 'gpt2' is not one of qwen, qwen2"):
        save_model(random_model(), tmp_path / "saved", "gpt2")
    with torch.device("meta"):
        empty = Decoder(PLAIN)
    with pytest.raises(ModelError, match="no weights yet"):
        save_model(empty, tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_not_overwritten(tmp_path):
    model = random_model()
    (tmp_path / "saved").mkdir()
    save_model(model, tmp_path / "saved")
    before = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    with pytest.raises(ModelError, match="saved: exists; name a new folder"):
        save_model(model, tmp_path / "saved")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ModelError, match="file: exists; name a new folder"):
        save_model(model, tmp_path / "file")
    assert {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "saved"]


def test_writers_of_one_folder_keep_out_of_each_others_way(tmp_path):
    (tmp_path / "plain").mkdir()
    with new_folder(tmp_path / "made", "free space") as first:
        (first / "x").write_text("first")
        with pytest.raises(ModelError, match="made: full; free space"), new_folder(tmp_path / "made", "free space"):
            raise OSError(28, "full")
    assert (tmp_path / "made" / "x").read_text() == "first"
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "plain"]


@pytest.fixture
def full_disk():
    """Files end at 100 kB, as on a full disk: the write fails in the middle of the weights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("there_already", [False, True])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, full_disk, there_already):
    if there_already:
        (tmp_path / "saved").mkdir()
    with pytest.raises(ModelError, match=r"saved: File too large; free space") as caught:
        save_model(random_model(), tmp_path / "saved")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*")] == (["saved"] if there_already else [])


def split(file):
    """The header and the numbers of a safetensors file."""
    end = 8 + int.from_bytes(file[:8], "little")
    return file[8:end], file[end:]


def test_the_file_is_the_one_that_safetensors_writes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "b": torch.randn(3, 5, generator=generator),
        "a": torch.randn(7, generator=generator).bfloat16(),
        "é": torch.randn(2, 3, generator=generator),
        "c": torch.randn(2, 2, generator=generator).half(),
    }
    kinds = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    write_safetensors(
        tmp_path / "ours",
        {
            name: Outgoing(
                kind=kinds[tensor.dtype],
                shape=tuple(tensor.shape),
                pieces=lambda tensor=tensor: [tensor.view(torch.uint8).numpy().data],
            )
            for name, tensor in tensors.items()
        },
    )
    ours, theirs = ((tmp_path / name).read_bytes() for name in ("ours", "theirs"))
    (ours_header, ours_numbers), (their_header, their_numbers) = split(ours), split(theirs)
    assert ours_header.rstrip(b" ") == their_header.rstrip(b" ") and ours_numbers == their_numbers
    assert (len(ours) - len(ours_numbers)) % 64 == 0
    read = load_file(tmp_path / "ours")
    assert read.keys() == tensors.keys() and all(torch.equal(read[name], tensors[name]) for name in tensors)
    with pytest.raises(ValueError, match="a: 4 bytes, not 8"):
        write_safetensors(
            tmp_path / "short", {"a": Outgoing(kind="F32", shape=(2,), pieces=lambda: [memoryview(b"1234")])}
        )
