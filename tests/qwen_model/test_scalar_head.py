"""A model with a scalar head against transformers' classifier of one label, and in folders."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from qwen_model import PRESETS, ModelError, load_model, save_model
from qwen_model.decoder import Decoder


def scalar_model(**changes):
    sizes = {"vocab_size": 320, "hidden_size": 64, "head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    return Decoder(replace(PRESETS["nano-2m"], scalar_head=True, **(sizes | changes))).init_weights(0).eval()


def test_transformers_pools_the_same_number(tmp_path):
    model = scalar_model()
    save_model(model, tmp_path / "saved")
    theirs, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values()), report
    theirs.config.pad_token_id = 0
    tokens = torch.randint(1, 320, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = model(tokens)
        assert ours.shape == (3, 40, 1)
        assert (ours[:, -1] - theirs.eval()(tokens).logits).abs().max() < 1e-5


def test_what_is_saved_comes_back_equal(tmp_path):
    model = scalar_model()
    save_model(model, tmp_path / "saved")
    found = load_model(str(tmp_path / "saved"))
    assert found.config == model.config
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in model.state_dict().items())


def test_refusals(tmp_path):
    with pytest.raises(ModelError, match="scalar_head"):
        save_model(scalar_model(), tmp_path / "saved", "qwen")
    with pytest.raises(ValueError, match="untie"):
        replace(PRESETS["nano-2m"], scalar_head=True, tie_word_embeddings=True)
    save_model(scalar_model(), tmp_path / "saved")
    config = tmp_path / "saved" / "config.json"
    config.write_text(config.read_text().replace('"0": "reward"', '"0": "a", "1": "b"'))
    with pytest.raises(ModelError, match="several labels"):
        load_model(str(tmp_path / "saved"))
