"""The decoder against logits that the released Qwen code computed (version of 2023-12-13), for every switch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qwen_model import LongContext, load_model
from qwen_model.prefill import Reader
from qwen_model.rows import Rows

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="../shared/reference is not here")
LIMIT = 2e-4


@pytest.fixture(scope="module")
def arrays():
    return np.load(REFERENCE / "qwen_v1_logits.npz")


@pytest.fixture(scope="module")
def model():
    return load_model(str(REFERENCE / "qwen_v1_tiny"))


def difference(ours: torch.Tensor, theirs: np.ndarray) -> float:
    return float((ours - torch.from_numpy(theirs)).abs().max())


def test_the_checkpoint_states_its_own_extension(model):
    assert model.settings == LongContext(dynamic_ntk="released", logn=True)
    assert model.config.long_context == model.settings
    assert (model.config.train_length, model.config.intermediate_size) == (64, 128)


@pytest.mark.parametrize("length", [40, 64, 65, 129, 260, 512])
@pytest.mark.parametrize("logn", [0, 1])
@pytest.mark.parametrize("mode", ["off", "released", "exact"])
def test_one_forward_pass(model, arrays, logn, length, mode):
    tokens = torch.from_numpy(arrays["input_ids"])[:, :length]
    settings = LongContext(dynamic_ntk=mode, logn=bool(logn))
    with model.long_context(settings), torch.inference_mode():
        ours = model(tokens)[0, -8:]
    assert difference(ours, arrays[f"full_ntk{int(mode != 'off')}_logn{logn}_n{length}"]) < LIMIT


@pytest.mark.parametrize(("prompt", "end"), [(60, 80), (100, 140)])
def test_decoding_keeps_the_base_of_the_prompt(model, arrays, prompt, end):
    tokens = arrays["input_ids"][0].tolist()
    rows = Rows(model, Reader(model, 512), slots=1)
    rows.enter([tokens[:prompt]], [(0, 0)])
    ours = torch.cat([rows.step([token]) for token in tokens[prompt:end]])
    assert difference(ours, arrays[f"decode_ntk1_logn1_{prompt}to{end}"]) < LIMIT


def test_every_array_is_compared(arrays):
    full = {f"full_ntk{n}_logn{g}_n{t}" for n in (0, 1) for g in (0, 1) for t in (40, 64, 65, 129, 260, 512)}
    assert set(arrays) == full | {"input_ids", "decode_ntk1_logn1_60to80", "decode_ntk1_logn1_100to140"}
