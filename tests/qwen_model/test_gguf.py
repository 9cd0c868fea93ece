"""GGUF files, written here by the `gguf` package from a tiny checkpoint, read back to the same numbers."""

from __future__ import annotations

import json
import random
import resource

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from qwen_model import ModelError, load_model
from qwen_model.catalogue import available
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
from qwen_model.decoder import Linear
from qwen_model.gguf_file import GGUFFile
from qwen_model.gguf_import import QUANTISATIONS
from qwen_model.kernels import wide
from qwen_model.kernels.codes import expand
from qwen_model.prefill import Reader
from qwen_model.rows import Rows
from tests.conftest import make_checkpoint
from tests.qwen_model.gguf_blocks import HALVES, decode, random_blocks

Q8 = gguf.GGMLQuantizationType.Q8_0


def pack_q8(values):
    packed = gguf.quants.quantize(values, Q8)
    return packed, Q8, gguf.quants.dequantize(packed, Q8)


def gguf_names(weights, kind, layers):
    """{name in a GGUF file, by the gguf package: name in the checkpoint}."""
    architecture = {"qwen2": gguf.MODEL_ARCH.QWEN2, "llama": gguf.MODEL_ARCH.LLAMA}[kind]
    known = gguf.get_tensor_name_map(architecture, layers)
    return {known.get_name(name, (".weight", ".bias")): name for name in weights}


def write_gguf(folder, path, kind, pack=None, alignment=None):
    """The checkpoint as llama.cpp's converter writes it; returns the weights as a reader must see them.

    `pack` turns a matrix into its bytes, their type, and the numbers that they stand for.
    """
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(path, kind)
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(
        config["head_dim"] if config.get("head_dim") else config["hidden_size"] // config["num_attention_heads"]
    )
    writer.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])
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
    weights = load_file(folder / "model.safetensors")
    names = gguf_names(weights, kind, config["num_hidden_layers"])
    seen = {}
    for name, ours in sorted(names.items()):
        values = weights[ours].numpy()
        heads = None
        if kind == "llama" and ours.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config["num_attention_heads" if "q_proj" in ours else "num_key_value_heads"]
            values = values.reshape(heads, 2, -1, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        if pack and values.ndim == 2 and values.shape[-1] % 32 == 0:
            packed, type_, values = pack(np.ascontiguousarray(values))
            writer.add_tensor(name, packed, raw_dtype=type_)
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
@pytest.mark.parametrize("pack", [None, pack_q8])
def test_weights_logits_and_tokens_come_through(tmp_path, kind, pack):
    folder = make_checkpoint(tmp_path / "model", kind, hidden_size=96, intermediate_size=128, num_attention_heads=6)
    seen = write_gguf(folder, tmp_path / "model.gguf", kind, pack)
    model = load_model(str(tmp_path / "model.gguf"))
    for name, values in model.state_dict().items():
        assert torch.equal(values, seen[name]), name
    tokens = torch.arange(3, 120)[None]
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    reference.load_state_dict(seen)
    with torch.inference_mode():
        difference = (model(tokens) - reference(tokens).logits).abs().max()
    assert difference < 1e-4
    checkpoint = find_checkpoint(str(tmp_path / "model.gguf"))
    assert checkpoint.quantisation == "Q8_0"
    tokenizer = load_tokenizer(checkpoint)
    assert tokenizer.eos_ids == (2, 0)
    assert tokenizer.decode(tokenizer.encode("héllo 123 world")) == "héllo 123 world"


def test_qwen_text_is_normalised_and_control_tokens_are_read(tmp_path):
    write_gguf(make_checkpoint(tmp_path / "model"), tmp_path / "model.gguf", "qwen2")
    tokenizer = load_tokenizer(find_checkpoint(str(tmp_path / "model.gguf")))
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")
    assert tokenizer.encode_rendered("<|im_start|>")[0] == 1
    assert len(tokenizer.encode("12")) == 2


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, share):
    write_gguf(make_checkpoint(tmp_path / "model"), tmp_path / "model.gguf", "qwen2", pack_q8)
    whole = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match=r"model\.gguf: damaged or truncated") as caught:
        find_checkpoint(str(tmp_path / "model.gguf"))
    assert "\n" not in str(caught.value)
    assert not any((tmp_path / "cache").glob("converted/*"))


def test_a_scale_that_is_no_number_is_named(tmp_path):
    def pack(values):
        packed, kind, numbers = pack_q8(values)
        packed[0, :2] = 0, 0x7E  # NaN in half precision
        return packed, kind, numbers

    folder = make_checkpoint(tmp_path / "model", hidden_size=96, intermediate_size=128, num_attention_heads=6)
    write_gguf(folder, tmp_path / "model.gguf", "qwen2", pack)
    with pytest.raises(ModelError, match=r"codes\.safetensors: tensor .*\.scales holds NaN"):
        load_model(str(tmp_path / "model.gguf"))


def test_unknown_architecture_is_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match="architecture 'mamba'"):
        find_checkpoint(str(tmp_path / "model.gguf"))


def pack_random(kind):
    """Packs any matrix as blocks of random bits, which use all of a format."""
    type_ = gguf.GGMLQuantizationType[kind]
    numbers, size = gguf.GGML_QUANT_SIZES[type_]
    rng = np.random.default_rng(0)

    def pack(values):
        blocks = random_blocks(kind, values.size // numbers, size, rng)
        decoded = np.array([decode(kind, block.tobytes()) for block in blocks], dtype=np.float32)
        return blocks.reshape(len(values), -1), type_, decoded.reshape(values.shape)

    return pack


def pack_plain(kind):
    type_ = gguf.GGMLQuantizationType[kind]

    def pack(values):
        tensor = torch.from_numpy(values).to(torch.bfloat16 if kind == "BF16" else torch.float16)
        packed = tensor.numpy() if kind == "F16" else tensor.view(torch.uint8).numpy()
        return packed, type_, tensor.float().numpy()

    return pack


PACKS = {kind: pack_random(kind) for kind in HALVES} | {kind: pack_plain(kind) for kind in ("F16", "BF16")}


@pytest.mark.parametrize("kind", PACKS)
def test_every_quantisation_is_read_to_the_bit(tmp_path, kind):
    folder = make_checkpoint(
        tmp_path / "model", hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=8
    )
    seen = write_gguf(folder, tmp_path / "model.gguf", "qwen2", PACKS[kind])
    model = load_model(str(tmp_path / "model.gguf"))
    for name, values in model.state_dict().items():
        assert torch.equal(values, seen[name]), name
    for name, layer in model.named_modules():
        if isinstance(layer, Linear):
            codes = layer.codes
            assert (codes is not None) == (kind in HALVES), name
            if codes is not None:
                expanded = expand(codes.codes, codes.scales, codes.mins, torch.float32)
                assert torch.equal(expanded.view(torch.int32), layer.weight.view(torch.int32)), name  # zeros have signs
    changed = (seen["lm_head.weight"] - load_file(folder / "model.safetensors")["lm_head.weight"]).abs().max()
    assert changed > 0


def decoded(model, rows):
    """The logits of some steps of `rows` sequences."""
    writing = Rows(model, Reader(model, 64), rows)
    for row in range(rows):
        writing.enter([[5, 7 + row, 9]], [(0, 0)])
    tokens, logits = [5] * rows, []
    for _ in range(4):
        logits.append(writing.step(tokens))
        tokens = logits[-1].argmax(-1).tolist()
    return torch.cat(logits)


def read(model):
    """The logits of every position of two texts that are read in one pass."""
    reader = Reader(model, 256)
    texts = [[5 + i % 90 for i in range(70)], [7 + i % 80 for i in range(60)]]
    with torch.inference_mode():
        return reader.read(texts, [(0, 0), (1, 0)], [range(70), range(60)]).logits


def take_codes_off(model):
    for layer in model.modules():
        if isinstance(layer, Linear):
            layer.codes = None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("architecture", "kind"), [("qwen2", "Q5_1"), ("qwen2", "Q6_K"), ("llama", "Q4_K")])
@pytest.mark.parametrize("tied", [False, True])
def test_codes_give_the_same_bits(tmp_path, monkeypatch, dtype, architecture, kind, tied):
    folder = make_checkpoint(
        tmp_path / "model",
        architecture,
        hidden_size=256,
        intermediate_size=512,
        num_attention_heads=8,
        tie_word_embeddings=tied,
    )
    write_gguf(folder, tmp_path / "model.gguf", architecture, PACKS[kind])
    with torch.inference_mode():
        model = load_model(str(tmp_path / "model.gguf"), dtype)
    assert all(layer.codes.stand_for(layer.weight) for layer in model.modules() if isinstance(layer, Linear))
    monkeypatch.setattr(wide, "STRIP", 256 * 512)  # the output matrix in more than one
    coded, whole = [decoded(model, rows) for rows in (1, 3, 7)], read(model)
    state = list(model.state_dict())
    take_codes_off(model)
    assert list(model.state_dict()) == state and not any("codes" in name for name in state)
    for before, rows in zip(coded, (1, 3, 7), strict=True):
        assert before.isfinite().all() and torch.equal(before, decoded(model, rows))
    assert whole.isfinite().all() and torch.equal(whole, read(model))


@pytest.mark.parametrize("change", ["no_grad", "inference_mode", "optimizer", "replaced", "loaded"])
def test_changed_weights_are_decoded_as_they_are(tmp_path, change):
    folder = make_checkpoint(tmp_path / "model", hidden_size=256, intermediate_size=256, num_attention_heads=8)
    write_gguf(folder, tmp_path / "model.gguf", "qwen2", PACKS["Q8_0"])
    model, original = (load_model(str(tmp_path / "model.gguf")) for _ in range(2))
    for parameter in model.parameters():
        if change == "optimizer":
            parameter.requires_grad_(True).grad = torch.ones_like(parameter)
        elif change == "replaced":
            parameter.data = parameter * 1.5
        elif change != "loaded":
            with getattr(torch, change)():
                parameter.mul_(1.5)
    if change == "optimizer":
        torch.optim.AdamW(model.parameters(), lr=0.1).step()
    elif change == "loaded":
        model.load_state_dict({name: value * 1.5 for name, value in model.state_dict().items()})
    changed = decoded(model, 1)
    assert not torch.equal(changed, decoded(original, 1))
    take_codes_off(model)
    assert torch.equal(changed, decoded(model, 1))


def test_only_what_was_made_from_a_gguf_has_codes_and_not_while_training(tmp_path):
    folder = make_checkpoint(tmp_path / "model", hidden_size=256, intermediate_size=256, num_attention_heads=8)
    write_gguf(folder, tmp_path / "model.gguf", "qwen2", PACKS["Q8_0"])
    made = find_checkpoint(str(tmp_path / "model.gguf"))
    model = load_model(made)
    assert model.lm_head.codes is not None
    assert model.train().eval().lm_head.codes is None
    assert load_model(made, "float16").lm_head.codes is None
    # a copy is the user's, who may have put other weights into it
    assert load_model(str(made.folder)).lm_head.codes is None
    (made.folder / "codes.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match=r"codes\.safetensors: damaged") as caught:
        load_model(made)
    assert "\n" not in str(caught.value)


def test_all_that_is_listed_is_tested():
    assert {*PACKS, "F32"} == set(QUANTISATIONS)


@pytest.mark.model
def test_the_released_file_is_read_to_the_bit(monkeypatch):
    monkeypatch.delenv("HARNESS_CACHE")
    name = "qwen2.5-coder-0.5b-instruct"
    path = available(name)
    if path is None:
        pytest.skip(f"{name} is not in the cache")
    folder = find_checkpoint(name).folder
    stored, codes, tested = load_file(folder / "model.safetensors"), load_file(folder / "codes.safetensors"), set()
    for key in codes:
        if key.endswith(".codes"):
            of = key.removesuffix(".codes")
            parts = codes[key], codes[f"{of}.scales"], codes.get(f"{of}.mins")
            assert torch.equal(expand(*parts, torch.float32), stored[of]), of
    assert sum(key.endswith(".codes") for key in codes) == 24 * 7 + 1
    file, names = GGUFFile(path.open("rb")), gguf_names(stored, "qwen2", 24)
    for tensor in file.tensors:
        kind = tensor.kind.name
        if kind in tested or kind not in HALVES:
            continue
        tested.add(kind)
        size = gguf.GGML_QUANT_SIZES[tensor.kind][1]
        rows = file.read(tensor, tensor.rows - 2, tensor.rows)
        numbers = [number for block in rows.reshape(-1, size) for number in decode(kind, block.tobytes())]
        expected = torch.tensor(numbers, dtype=torch.float64).float()
        assert torch.equal(stored[names[tensor.name]][-2:].reshape(-1), expected), tensor.name
    assert tested == {"Q4_K", "Q5_0", "Q6_K", "Q8_0"}


def test_a_quantisation_that_is_not_read_is_named(tmp_path):
    def pack(values):
        type_ = gguf.GGMLQuantizationType.Q2_K
        numbers, size = gguf.GGML_QUANT_SIZES[type_]
        return np.zeros((len(values), values.shape[1] // numbers * size), np.uint8), type_, values

    folder = make_checkpoint(tmp_path / "model", hidden_size=256, intermediate_size=256, num_attention_heads=8)
    write_gguf(folder, tmp_path / "model.gguf", "qwen2", pack)
    with pytest.raises(ModelError, match=r"model\.gguf: tensor \S+ is Q2_K, not one of F32, F16") as caught:
        find_checkpoint(str(tmp_path / "model.gguf"))
    assert "\n" not in str(caught.value)


def test_another_alignment_is_followed(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    seen = write_gguf(folder, tmp_path / "model.gguf", "qwen2", alignment=256)
    for name, values in load_model(str(tmp_path / "model.gguf")).state_dict().items():
        assert torch.equal(values, seen[name]), name


def test_fields_and_tensors_are_those_of_the_gguf_package(tmp_path):
    write_gguf(make_checkpoint(tmp_path / "model"), tmp_path / "model.gguf", "qwen2", pack_q8)
    ours, theirs = GGUFFile((tmp_path / "model.gguf").open("rb")), gguf.GGUFReader(tmp_path / "model.gguf")
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.fields == fields
    for tensor, expected in zip(ours.tensors, theirs.tensors, strict=True):
        assert (tensor.name, tensor.kind) == (expected.name, expected.tensor_type)
        assert tensor.shape == tuple(expected.shape[::-1])
        assert ours.read(tensor, 0, tensor.rows).tobytes() == expected.data.tobytes()


def test_flipped_bytes_are_named_or_harmless(tmp_path):
    write_gguf(make_checkpoint(tmp_path / "model"), tmp_path / "model.gguf", "qwen2", pack_q8)
    whole = (tmp_path / "model.gguf").read_bytes()
    header = GGUFFile((tmp_path / "model.gguf").open("rb")).tensors[0].start
    rng, said = random.Random(0), []
    for number in range(150):
        damaged = bytearray(whole)
        damaged[rng.choice((rng.randrange(1200), rng.randrange(header)))] = rng.choice((0, 1, 8, 9, 255))
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(damaged)
        try:
            find_checkpoint(str(path))
        except ModelError as error:
            said.append((str(path), str(error)))
    assert len(said) > 50
    assert all(path in line and "\n" not in line for path, line in said)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    write_gguf(make_checkpoint(tmp_path / "model"), tmp_path / "model.gguf", "qwen2", pack_q8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(ModelError, match="File too large; free space or set HARNESS_CACHE") as caught:
            find_checkpoint(str(tmp_path / "model.gguf"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("converted/*"))
