"""Checkpoints that are damaged, incomplete or of another kind get one line that names the fault."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen_model import ModelError, load_model
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
from tests.conftest import make_checkpoint


@pytest.fixture
def folder(tmp_path):
    return make_checkpoint(tmp_path / "model")


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


NORM = "model.norm.weight"
FAULTS = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "not JSON"),
    "config lacks a field": (lambda f: edit_config(f, hidden_size=None), "'hidden_size' is missing"),
    "another architecture": (
        lambda f: edit_config(f, architectures=["GPT2LMHeadModel"]),
        "GPT2LMHeadModel is not one of",
    ),
    "scaled positions": (lambda f: edit_config(f, rope_scaling={"type": "yarn"}), "rope scaling 'yarn'"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    "pickled weights": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "a pickle, which is never read",
    ),
    "truncated weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]),
        "damaged or truncated",
    ),
    "a tensor is missing": (lambda f: edit_weights(f, lambda w: w.pop(NORM)), f"{NORM} is missing"),
    "a tensor too many": (lambda f: edit_weights(f, lambda w: w.update(extra=torch.ones(1))), "extra is unknown"),
    "a tensor of another shape": (
        lambda f: edit_weights(f, lambda w: w.update({NORM: torch.ones(3)})),
        r"the shape \(3,\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named_in_one_line(folder, fault):
    damage, message = FAULTS[fault]
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


def test_missing_or_damaged_tokenizer_is_named(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="not a tokenizer"):
        load_tokenizer(find_checkpoint(str(folder)))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        load_tokenizer(find_checkpoint(str(folder)))


def test_fingerprint_follows_weights_and_template(folder):
    before = find_checkpoint(str(folder)).fingerprint
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "{{ messages }}"}))
    template = find_checkpoint(str(folder)).fingerprint
    edit_weights(folder, lambda weights: weights[NORM].mul_(2))
    assert len({before, template, find_checkpoint(str(folder)).fingerprint}) == 3


def test_a_template_that_refuses_is_an_error(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | {"chat_template": "{{ raise_exception('no system') }}"})
    )
    with pytest.raises(ModelError, match="no system"):
        load_tokenizer(find_checkpoint(str(folder))).render([("user", "x")])
