"""Loading, converting and saving hold the weights once: peaks of resident memory, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen_model import kernels
from qwen_model.checkpoint import find_checkpoint
from qwen_model.config import ModelConfig
from qwen_model.decoder import Decoder
from qwen_model.save import save_model
from tests.conftest import write_tokenizer
from tests.qwen_model.test_gguf import pack_plain, pack_q8, write_gguf

LARGE = ModelConfig(
    vocab_size=16384,
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=2,
    num_attention_heads=16,
    num_key_value_heads=16,
    head_dim=64,
    train_length=2048,
    max_position_embeddings=2048,
)
EMBEDDING = LARGE.vocab_size * LARGE.hidden_size
MEASURE = """
import sys
import gguf
import torch
import qwen_model.decoder  # and torch, which is no part of what loading takes
from qwen_model import load_model
from qwen_model.cache import CacheShape, SlotCache, StackCache
from qwen_model.checkpoint import find_checkpoint
from qwen_model.prefill import Reader
from qwen_model.rows import Rows
from qwen_model.save import save_model

def resident(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

def growth(work):
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts from what is resident now
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before

action, path, more = sys.argv[1:]
if action == "load":
    print(growth(lambda: load_model(path, dtype=more)))
elif action == "decode":
    def decode():
        model = load_model(path, dtype=more)
        rows = Rows(model, Reader(model, 64), 1)
        rows.enter([[5 + i for i in range(100)]], [(0, 0)])  # too many tokens for the kernels that read codes
        rows.step([11])
    print(growth(decode))
elif action == "rows":
    shape = CacheShape(heads=4, head_dim=64, windows=(None,) * 4)
    stack = StackCache(shape, torch.float32, torch.device("cpu"))
    stack.make_room(1, 100)
    slots = SlotCache(shape, 64, torch.float32, torch.device("cpu"))
    for tensor in (*stack.keys, *stack.values):
        tensor.fill_(1)
    def write():
        for row in range(64):
            slots.make_room(64, 4096 * (1 + row // 32))  # it grows once while half of the rows are there
            slots.admit(stack, 100, 100, 100)
    before, written = resident("VmRSS"), growth(write)
    for row in range(63):
        slots.release(0)
    assert all(tensor[0, :, :100].eq(1).all() for tensor in (*slots.keys, *slots.values))
    print([written, resident("VmRSS") - before])
elif action == "convert":
    print(growth(lambda: find_checkpoint(path)))
else:
    model = load_model(path)
    print(growth(lambda: save_model(model, more, "qwen")))
"""


def growth(action: str, path: Path, more: object) -> Any:
    """Bytes by which the peak of resident memory lies over the state just before."""
    command = [sys.executable, "-c", MEASURE, action, str(path), str(more)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def model():
    return Decoder(LARGE).init_weights(seed=0)


@pytest.fixture(scope="module")
def numbers(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope="module")
def folders(tmp_path_factory, model):
    base = tmp_path_factory.mktemp("large")
    for layout in ("qwen", "qwen2"):
        save_model(model, base / layout, layout)
    return base


@pytest.mark.parametrize("layout", ["qwen", "qwen2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_loading_holds_the_weights_once(folders, numbers, layout, dtype):
    # numbers of the file's own type are its pages, and of the embedding nobody has asked for a row
    weights = (numbers - (EMBEDDING if dtype == "float32" else 0)) * getattr(torch, dtype).itemsize
    assert weights > 100_000_000
    assert weights * 0.9 < growth("load", folders / layout, dtype) < weights * 1.2


def test_saving_holds_no_second_copy(folders, tmp_path, numbers):
    # the embedding's pages are read for the first time
    assert growth("save", folders / "qwen2", tmp_path / "saved") < (EMBEDDING + numbers * 0.1) * 4


@pytest.mark.slow
@pytest.mark.parametrize("pack", [pack_plain("BF16"), pack_q8])
def test_converting_a_gguf_holds_a_few_pieces_and_its_use_codes_in_place_of_numbers(
    folders, tmp_path, monkeypatch, numbers, pack
):
    source = tmp_path / "source"
    source.mkdir()
    write_tokenizer(source)  # smaller than the embedding, which converting does not look at
    for name in ("config.json", "model.safetensors"):
        (source / name).symlink_to(folders / "qwen2" / name)
    write_gguf(source, tmp_path / "model.gguf", "qwen2", pack)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    assert growth("convert", tmp_path / "model.gguf", "") < numbers * 4 * 0.2
    converted = find_checkpoint(str(tmp_path / "model.gguf")).folder
    assert (converted / "model.safetensors").stat().st_size > numbers * 4
    config = json.loads((converted / "config.json").read_text())
    (converted / "config.json").write_text(json.dumps(config | {"vocab_size": LARGE.vocab_size}))
    codes = (converted / "codes.safetensors").stat().st_size
    coded = pack is pack_q8 and kernels.unavailable() is None
    held = {
        "float32": codes + LARGE.intermediate_size * LARGE.hidden_size * 4 if coded else (numbers - EMBEDDING) * 4,
        "bfloat16": numbers * 2 + codes,
    }
    for dtype, expected in held.items():
        assert expected * 0.9 < growth("decode", tmp_path / "model.gguf", dtype) < expected * 1.2, dtype


def test_rows_take_what_they_have_written_and_give_it_back():
    written, left = growth("rows", Path(), "")
    row = 2 * 4 * 4 * 64 * 100 * 4  # keys and values, layers, heads, numbers, tokens, bytes
    assert 64 * row * 0.9 < written < 64 * row * 1.3
    assert left < 16 * row
