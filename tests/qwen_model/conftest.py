"""The tiny checkpoint, loaded."""

from __future__ import annotations

import pytest

from qwen_model import load_model
from qwen_model.checkpoint import find_checkpoint, load_tokenizer


@pytest.fixture(scope="module")
def model(tiny):
    return load_model(str(tiny))


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load_tokenizer(find_checkpoint(str(tiny)))
