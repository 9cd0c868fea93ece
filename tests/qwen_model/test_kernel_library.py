"""The C++ kernels' library is compiled when it has to be, and what hinders that is said."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from qwen_model import kernels
from qwen_model.kernels import build

if kernels.unavailable():
    pytest.skip(f"no kernels here: {kernels.unavailable()}", allow_module_level=True)

ANSWER = """
import torch
from qwen_model import kernels
torch.set_grad_enabled(False)
print(kernels.describe())
out = kernels.linear(torch.ones(2, 8), torch.ones(3, 8))
assert torch.equal(out, torch.full((2, 3), 8.0))
"""


def ask(**environment):
    run = [sys.executable, "-c", ANSWER]
    return subprocess.run(run, env={**os.environ, **environment}, capture_output=True, text=True, check=True)


def test_without_a_compiler_torch_is_used_and_said(tmp_path):
    done = ask(PATH=str(tmp_path), HARNESS_CACHE=str(tmp_path), CXX="")
    assert done.stdout == "torch (no C++ compiler: neither g++ nor c++ is in $PATH)\n"
    assert done.stderr.count("\n") == 1 and "no C++ compiler" in done.stderr
    done = ask(CXX="no-such-compiler", HARNESS_CACHE=str(tmp_path))
    assert "$CXX is no-such-compiler" in done.stdout
    done = ask(CXX="false", HARNESS_CACHE=str(tmp_path))
    assert "false failed: no message" in done.stdout
    done = ask(HARNESS_KERNELS="off")
    assert done.stdout == "torch (turned off by $HARNESS_KERNELS)\n" and not done.stderr


def test_a_damaged_library_is_compiled_anew(tmp_path):
    cache = {"HARNESS_CACHE": str(tmp_path)}
    first = ask(**cache)
    assert first.stdout.startswith("C++ kernels")
    (library,) = (tmp_path / "kernels").iterdir()
    whole = library.read_bytes()
    library.write_bytes(whole[: len(whole) // 2])
    assert ask(**cache).stdout == first.stdout
    (library,) = (tmp_path / "kernels").iterdir()
    assert build._intact(library)


def test_a_cache_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "kernels").write_text("in the way")
    assert "cannot be written" in ask(HARNESS_CACHE=str(tmp_path)).stdout
