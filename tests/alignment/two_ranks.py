"""Run by torchrun: a stage of `test_two_ranks`, by its name, on the data and into the folder named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from qwen_train.parallel import join_world
from tests.alignment.test_stages import STAGES

if __name__ == "__main__":
    torch.set_num_threads(1)
    base, data, out = sys.argv[1:]
    with join_world("cpu") as here:
        for stage in ("sft", "reward", "dpo", "ppo"):
            run, recipe_of = STAGES[stage]
            recipe = recipe_of(base, json.loads(data))
            if stage == "sft":
                recipe = recipe.model_copy(update={"dropout": 0.0})
            if stage != "ppo":
                recipe = recipe.model_copy(update={"validation": recipe.data, "validate_every": 2})
            run(recipe, Path(out) / stage, here, print)
