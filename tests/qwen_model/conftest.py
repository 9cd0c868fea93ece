"""The tiny checkpoint, loaded; the C++ kernels of each instruction set."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen_model import kernels, load_model
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
from qwen_model.kernels import build
from tests.qwen_model.kernel_cases import VARIANTS


@pytest.fixture(scope="module")
def model(tiny):
    return load_model(str(tiny))


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load_tokenizer(find_checkpoint(str(tiny)))


@pytest.fixture(params=list(VARIANTS))
def variant(request, monkeypatch):
    """Each instruction set that this processor can run, by turns."""
    if request.param != "native" and "avx512_bf16" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("variants are compiled on a processor that has them all")
    loaded = kernels._Kernels(build.load((*build.FLAGS, *VARIANTS[request.param])))
    monkeypatch.setattr(kernels, "_loaded", lambda: loaded)
    return loaded
