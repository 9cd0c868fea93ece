"""Whole stages on tiny models: they learn, what they leave loads, and a killed run ends as an unbroken one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from qwen_model import load_model
from qwen_model.checkpoint import load_tokenizer
from qwen_model.generation import generate
from qwen_train.alignment import dpo, ppo_run, reward, sft
from qwen_train.alignment.settings import DPO, SFT, Lora, PPORecipe, Reward
from qwen_train.errors import TrainError
from qwen_train.parallel import World
from qwen_train.trainer import Optimiser, Trainer
from qwen_train.trainer.logs import read_log
from tests.alignment.conftest import write_rows

FAST = Optimiser(learning_rate=3e-3, warmup_steps=0, schedule="constant", weight_decay=0.0)
PPO = {"steps": 4, "value_steps": 2, "queries": 4, "max_tokens": 6, "minibatches": 2, "policy": FAST, "value": FAST}


def sft_recipe(base, data, **changes):
    common = {"model": base, "data": [data["sft"]], "length": 128, "batch": 8, "steps": 6, "checkpoint_every": 2}
    return SFT(**(common | {"dropout": 0.1, "optimiser": FAST} | changes))


def reward_recipe(base, data, **changes):
    common = {"model": base, "data": [data["pairs"]], "length": 128, "batch": 8, "checkpoint_every": 2}
    return Reward(**(common | {"optimiser": FAST} | changes))


def dpo_recipe(base, data, **changes):
    common = {"model": base, "data": [data["pairs"]], "length": 128, "batch": 8, "checkpoint_every": 2}
    return DPO(**(common | {"optimiser": FAST} | changes))


def ppo_recipe(base, data, **changes):
    common = {"model": base, "reward": data["reward"], "queries": [data["queries"]], "length": 128}
    return PPORecipe(**(common | {"checkpoint_every": 1, "pretraining": [data["texts"]], "ppo": PPO} | changes))


MEASURED = ("seconds", "tokens_per_second", "responses_per_second", "memory_mb")
STAGES = {
    "sft": (sft.run_sft, sft_recipe),
    "lora": (sft.run_sft, lambda base, data: sft_recipe(base, data, lora=Lora(rank=4))),
    "reward": (reward.run_reward, reward_recipe),
    "dpo": (dpo.run_dpo, dpo_recipe),
    "ppo": (ppo_run.run_ppo, ppo_recipe),
}


def weights(folder: Path):
    return load_model(str(folder)).state_dict()


class Killed(Exception):
    """Stands for kill -9: nothing of the process goes on."""


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_ends_as_an_unbroken_one(stage, base, data, tmp_path, monkeypatch):
    run, recipe_of = STAGES[stage]
    recipe = recipe_of(base, data)
    unbroken = run(recipe, tmp_path / "unbroken", World(), print)
    loop = ppo_run.PPOTrainer if stage == "ppo" else Trainer
    tell, taken = loop._tell, []

    def killing(self, *arguments):
        taken.append(self.step)
        if len(taken) == 4:
            self.checkpoints.wait()
            raise Killed
        tell(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_tell", killing)
        with pytest.raises(Killed):
            run(recipe, tmp_path / "killed", World(), print)
    killed = run(recipe, tmp_path / "killed", World(), print)
    one, other = weights(unbroken), weights(killed)
    assert all(torch.equal(one[name], other[name]) for name in one)
    first, second = (
        [
            {name: value for name, value in row.items() if not name.startswith(MEASURED)}
            for row in read_log(folder.parent)
        ]
        for folder in (unbroken, killed)
    )
    assert first == second


def test_samples_behind_the_checkpoint_are_dropped_by_their_step(tmp_path):
    path = tmp_path / "samples.jsonl"
    lines = [json.dumps({"step": step, "answer": "a\u2028b"}, ensure_ascii=False) + "\n" for step in (0, 0, 1, 2)]
    path.write_text("".join(lines) + '{"step": 2, "ans', encoding="utf-8")
    ppo_run._keep_steps(path, 2)
    assert path.read_text(encoding="utf-8") == "".join(lines[:3])
    ppo_run._keep_steps(tmp_path / "new" / "samples.jsonl", 0)
    assert (tmp_path / "new" / "samples.jsonl").read_text() == ""


def test_sft_learns_and_what_it_leaves_chats(base, data, tmp_path):
    talks = tmp_path / "sft.jsonl"
    talks.write_bytes(Path(data["sft"]).read_bytes())
    given = {**data, "sft": str(talks)}
    recipe = sft_recipe(base, given, steps=60, dropout=0.0, validation=[data["sft"]], validate_every=30)
    folder = sft.run_sft(recipe, tmp_path / "sft", World(), print)
    losses = [row["loss"] for row in read_log(tmp_path / "sft") if row["kind"] == "validation"]
    assert losses[-1] < 0.5 < losses[0] * 2
    assert (tmp_path / "sft" / "left-out-data.txt").read_text() == "sft.jsonl:1\n"
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_ids[0] == 2 and tokenizer.chat_template is not None
    model = load_model(str(folder))
    (said,) = generate(model, tokenizer, [tokenizer.render([("user", "Say cat")])], max_tokens=8)
    assert said.finish == "eos"
    assert sft.run_sft(recipe, tmp_path / "sft", World(), print) == folder  # finished: nothing is done again
    with pytest.raises(TrainError, match=r"the model of another run: recipe.seed \(\d+ there, 5 now\)"):
        sft.run_sft(recipe.model_copy(update={"seed": 5}), tmp_path / "sft", World(), print)
    talks.write_bytes(talks.read_bytes() * 2)
    with pytest.raises(TrainError, match=r"the model of another run: files.*sft.jsonl"):
        sft.run_sft(recipe, tmp_path / "sft", World(), print)


def test_another_recipe_does_not_go_on(base, data, tmp_path):
    run, recipe = sft.run_sft, sft_recipe(base, data)
    run(recipe, tmp_path, World(), print)
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(TrainError, match=r"recipe.batch \(8 there, 4 now\)"):
        run(recipe.model_copy(update={"batch": 4}), tmp_path, World(), print)


def test_batches_are_dealt_evenly(base, data, tmp_path):
    for recipe, run in ((sft_recipe(base, data), sft.run_sft), (dpo_recipe(base, data), dpo.run_dpo)):
        with pytest.raises(TrainError, match="batch: 8 cannot be dealt evenly to 3 processes; give a multiple of 3"):
            run(recipe, tmp_path, World(size=3), print)


def test_dpo_learns_nothing_of_ties(base, data, tmp_path):
    ties = write_rows(tmp_path / "ties.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b", "tie": True}])
    with pytest.raises(TrainError, match="data: all pairs are ties"):
        dpo.run_dpo(dpo_recipe(base, {**data, "pairs": ties}), tmp_path, World(), print)
    said = []
    recipe = dpo_recipe(base, data).model_copy(update={"data": [ties, data["pairs"]]})
    dpo.run_dpo(recipe, tmp_path / "both", World(), said.append)
    steps = [row for row in read_log(tmp_path / "both") if row["kind"] == "train"]
    assert "41 pairs, 1 of them ties" in said[0] and len(steps) == 5  # 40 pairs by 8


def test_a_reward_model_learns_and_is_measured(base, data, tmp_path):
    recipe = reward_recipe(base, data, epochs=6, validation=[data["pairs"]], validate_every=10)
    folder = reward.run_reward(recipe, tmp_path, World(), print)
    found = [row["accuracy"] for row in read_log(tmp_path) if row["kind"] == "validation"]
    assert found[-1] > 0.9
    assert (tmp_path / "calibration.png").stat().st_size > 5000
    assert load_model(str(folder)).config.scalar_head
    # a second stage begins with the first one's head
    second = reward_recipe(str(folder), data)
    begun = reward.begin_with(second.model, scalar=True)
    assert torch.equal(begun.lm_head.weight, load_model(str(folder)).lm_head.weight)


def test_dpo_prefers_the_chosen(base, data, tmp_path):
    style = {**data, "pairs": data["style"]}
    recipe = dpo_recipe(base, style, epochs=4, validation=[data["style"]], validate_every=20)
    dpo.run_dpo(recipe, tmp_path, World(), print)
    found = [row["accuracy"] for row in read_log(tmp_path) if row["kind"] == "validation"]
    assert found[-1] > 0.9


def test_ppo_by_a_reward_model_with_everything_logged(base, data, tmp_path):
    judge = reward.run_reward(reward_recipe(base, data), tmp_path / "rm", World(), print)
    recipe = ppo_recipe(base, data, reward=str(judge), gold=data["reward"], held_out=[data["queries"]], watch_every=2)
    folder = ppo_run.run_ppo(recipe, tmp_path / "ppo", World(), print)
    rows = read_log(tmp_path / "ppo")
    steps = [row for row in rows if row["kind"] == "train"]
    assert [row["value_only"] for row in steps] == [1, 1, 0, 0]
    wanted = {"reward", "kl", "kl_per_response", "entropy", "explained_variance", "length", "ended", "value_loss"}
    assert wanted <= steps[0].keys() and wanted | {"clipped", "policy_loss", "ptx_loss", "moved"} <= steps[2].keys()
    assert steps[0]["kl"] == 0 and "policy_loss" not in steps[0]
    watched = [row for row in rows if row["kind"] == "held out"]
    assert len(watched) == 2 and {"reward", "gold", "length", "kl_per_response"} <= watched[0].keys()
    kept = [json.loads(line) for line in (tmp_path / "ppo" / "samples.jsonl").read_text().splitlines()]
    assert len(kept) == 16 and kept[0].keys() >= {"query", "answer", "reward", "kl"}
    assert not load_model(str(folder)).config.scalar_head


def test_value_only_steps_leave_the_policy_as_it_was(base, data, tmp_path):
    recipe = ppo_recipe(base, data, ppo=PPO | {"steps": 2, "value_steps": 2})
    after = weights(ppo_run.run_ppo(recipe, tmp_path, World(), print))
    assert all(torch.equal(value, after[name]) for name, value in weights(Path(base)).items())
