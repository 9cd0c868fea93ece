"""On a GPU: the numbers of the CPU, from the decoder to a run of the harness and every stage of training."""

from __future__ import annotations

import math

import pytest
import torch

from harness import evaluate
from qwen_model import LongContext, load_model
from qwen_model.attention import attend
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
from qwen_model.generation import generate
from qwen_model.layout import Plain
from qwen_train.alignment import dpo, ppo_run, reward, sft
from qwen_train.model import new_module
from qwen_train.parallel import join_world
from qwen_train.recipe import Training
from qwen_train.trainer import Optimiser, Update
from qwen_train.trainer.logs import read_log
from tests.alignment.conftest import base, data  # noqa: F401
from tests.alignment.test_stages import dpo_recipe, ppo_recipe, reward_recipe, sft_recipe
from tests.harness.test_run import SUMS, assert_same, rows
from tests.qwen_model import combinations
from tests.qwen_train.conftest import SHAPE, micro
from tests.qwen_train.conftest import rows as training_rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.fixture
def on_cuda():
    """Tensors are made on the GPU, as nothing in the tests' own code says where."""
    with torch.device("cuda"):
        yield


@pytest.mark.parametrize("path", combinations.PATHS)
@pytest.mark.parametrize("setting", combinations.settings(), ids=lambda s: "-".join(str(value) for value in s.values()))
def test_equals_the_dense_computation(on_cuda, path, setting):
    with torch.device("cpu"):
        made = combinations.model()
    assert combinations.largest_difference(made.to("cuda"), path, setting) < 1e-3


@pytest.mark.parametrize(("new", "past", "window"), [(300, 0, 64), (300, 0, 299), (257, 100, 40), (1, 500, 64)])
def test_flex_and_banded_agree_with_the_mask(on_cuda, new, past, window):
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, new, 32), torch.randn(1, 2, past + new, 32), torch.randn(1, 2, past + new, 32)
    layout = Plain(new, past=past, steps=torch.zeros(1, 1, dtype=torch.long))
    dense = attend(q.double(), k.double(), v.double(), layout, window, "sdpa")
    for backend in ("flex", "banded"):
        assert (attend(q, k, v, layout, window, backend) - dense).abs().max() < 1e-5


def test_writes_what_the_cpu_writes(tiny):
    checkpoint = find_checkpoint(str(tiny))
    tokenizer = load_tokenizer(checkpoint)
    prompts = ["def make(folder):", "def make(self):\n    return", "import", "import json\n" * 20, "x" * 300]
    texts = []
    for device in ("cpu", "cuda"):
        model = load_model(checkpoint, "float32", device)
        with model.long_context(LongContext(dynamic_ntk="exact", logn=True, window=(64, 128, None))):
            texts.append(generate(model, tokenizer, prompts, max_tokens=40))
    for one, two in zip(*texts, strict=True):
        assert (one.tokens, one.finish) == (two.tokens, two.finish)
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)


@pytest.mark.parametrize("backend", ["native", "hf"])
def test_a_run_of_the_harness_has_the_cpus_numbers(tiny, tmp_path, backend):
    runs = [
        evaluate(
            [SUMS, SUMS.replace(":Sums", ":Likely")], str(tiny), out=tmp_path / device, backend=backend, device=device
        )
        for device in ("cpu", "cuda")
    ]
    for task in ("sums", "likely"):
        assert_same(rows(runs[1], task), rows(runs[0], task))


@pytest.mark.parametrize("changes", [{}, {"compile": True}, {"recompute": True}])
def test_a_training_step_is_the_cpus(changes):
    from qwen_model import ModelConfig

    norms = []
    for device in ("cpu", "cuda"):
        own = changes if device == "cuda" else {}
        training = Training(tokens=1, batch=8, micro_batch=8, context=16, dtype="float32", **own)
        with join_world(device) as world:
            module = new_module(ModelConfig(**SHAPE), training, world).train()
            update = Update(module, Optimiser(learning_rate=3e-3, warmup_steps=0), world)
            steps = [update.step([micro(training_rows(step).to(world.device))], 3e-3) for step in range(20)]
        norms.append([(taken.loss, taken.grad_norm) for taken in steps])
    for one, two in zip(*norms, strict=True):
        assert one == pytest.approx(two, rel=1e-3)


STAGES = {
    "sft": (sft.run_sft, sft_recipe),
    "reward": (reward.run_reward, reward_recipe),
    "dpo": (dpo.run_dpo, dpo_recipe),
    "ppo": (ppo_run.run_ppo, ppo_recipe),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", STAGES)
def test_stages_of_alignment_run_and_begin_where_the_cpu_does(stage, dtype, base, data, tmp_path):  # noqa: F811
    run, recipe_of = STAGES[stage]
    changes = {"dropout": 0.0} if stage == "sft" else {}
    losses = []
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        with join_world(device) as world:
            run(recipe_of(base, data, dtype=dtype, **changes), folder, world, print)
        log = read_log(folder)
        losses.append([entry["loss"] for entry in log if "loss" in entry][:1])
        assert log and all(
            math.isfinite(value) for entry in log for value in entry.values() if isinstance(value, float)
        )
    if stage != "ppo":
        assert losses[0] == pytest.approx(losses[1], rel=1e-3 if dtype == "float32" else 2e-2)
