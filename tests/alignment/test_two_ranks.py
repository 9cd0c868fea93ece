"""Every stage sharded over two gloo processes equals one process within rounding; PPO's copies write the same texts."""

from __future__ import annotations

import json

import pytest
import torch

from qwen_train.parallel import World
from qwen_train.trainer.logs import read_log
from tests.alignment.test_stages import STAGES, weights
from tests.processes import torchrun


@pytest.mark.slow
def test_two_processes_equal_one(base, data, tmp_path):
    done = torchrun(2, "tests.alignment.two_ranks", base, json.dumps(data), tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("sft", "reward", "dpo", "ppo"):
        run, recipe_of = STAGES[stage]
        recipe = recipe_of(base, data)
        if stage == "sft":  # dropout draws otherwise in each process
            recipe = recipe.model_copy(update={"dropout": 0.0})
        alone = run(recipe, tmp_path / "one" / stage, World(), print)
        one, two = weights(alone), weights(tmp_path / "two" / stage / "model")
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-4)
        field = "reward" if stage == "ppo" else "loss"
        told = [
            [row[field] for row in read_log(tmp_path / folder / stage) if row["kind"] == "train"]
            for folder in ("one", "two")
        ]
        assert told[1] == pytest.approx(told[0], abs=1e-4), stage
