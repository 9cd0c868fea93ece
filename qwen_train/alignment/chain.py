"""From a base model to a policy trained by PPO in one call, each stage in a folder of its own.

A recipe has a table for each of `sft`, `pmp`, `reward` and `ppo`, without the models, which come from the stage before:
the reward model begins with the base, as in the report (section 3.2.1), policy and reference with the SFT model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwen_train.alignment.ppo_run import run_ppo
from qwen_train.alignment.recipes import checked
from qwen_train.alignment.reward import run_reward
from qwen_train.alignment.settings import SFT, PPORecipe, Reward
from qwen_train.alignment.sft import run_sft
from qwen_train.alignment.stage import FILES, Say, deal
from qwen_train.errors import TrainError
from qwen_train.parallel import World
from qwen_train.recipe_file import read_recipe_table

STAGES = ("sft", "pmp", "reward", "ppo")


def run_chain(
    recipe: Path, base: str, data: Path, out: Path, changes: list[str], world: World, say: Say
) -> dict[str, Path]:
    """The folder of each stage's model. Stages that are finished are not run again."""
    table = read_recipe_table(recipe)
    if set(table) != set(STAGES):
        raise TrainError(f"{recipe}: its tables are {', '.join(table)}; wanted are {', '.join(STAGES)}")
    models = {name: out / name / "model" for name in STAGES}
    begins: dict[str, dict[str, Any]] = {
        "sft": {"model": base},
        "pmp": {"model": base},
        "reward": {"model": str(models["pmp"])},
        "ppo": {"model": str(models["sft"]), "reward": str(models["reward"])},
    }
    kinds: dict[str, Any] = {"sft": SFT, "pmp": Reward, "reward": Reward, "ppo": PPORecipe}
    settings: dict[str, Any] = {}
    for name in STAGES:  # all are read before the first one runs
        own = dict(table[name] or {}) | begins[name]
        for field in FILES:
            if field in own:
                own[field] = [str(data / file) for file in own[field]]
        mine = [change.partition(".")[2] for change in changes if change.startswith(f"{name}.")]
        settings[name] = checked(own, kinds[name], mine, f"{recipe}: {name}")
        for field in FILES:
            for file in getattr(settings[name], field, []):
                if not Path(file).is_file():
                    raise TrainError(f"{file}: no such file, which {recipe} wants for {name}; see docs/alignment.md")
        if not models[name].exists():
            deal(settings[name], world)
    unknown = [change for change in changes if change.partition(".")[0] not in STAGES]
    if unknown:
        raise TrainError(f"--set: {unknown[0]!r} does not begin with one of {', '.join(STAGES)} and a dot")
    runs: dict[str, Any] = {"sft": run_sft, "pmp": run_reward, "reward": run_reward, "ppo": run_ppo}
    for name in STAGES:
        say(f"== {name}")
        runs[name](settings[name], out / name, world, say)
    return models
