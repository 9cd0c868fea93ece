"""The commands as a user types them: what is wrong is one line, and the whole chain is one call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from qwen_model import load_model
from qwen_train.alignment.chain import STAGES, run_chain
from qwen_train.alignment.recipes import checked, read_stage
from qwen_train.alignment.settings import DPO, SFT, PPORecipe, Reward
from qwen_train.errors import TrainError
from qwen_train.parallel import World
from qwen_train.recipe_file import read_recipe_table
from tests.commands import typed

RATE = {"learning_rate": 1e-3, "warmup_steps": 0, "schedule": "constant"}
SMALL = {"length": 128, "batch": 8, "checkpoint_every": 2, "optimiser": RATE}
CHAIN = {
    "sft": SMALL | {"data": ["sft.jsonl"], "steps": 3},
    "pmp": SMALL | {"data": ["pairs.jsonl"], "epochs": 0.5},
    "reward": SMALL | {"data": ["pairs.jsonl"], "validation": ["pairs.jsonl"]},
    "ppo": {
        "queries": ["queries.jsonl"],
        "length": 128,
        "ppo": {"steps": 2, "value_steps": 1, "queries": 4, "max_tokens": 5, "minibatches": 2},
    },
}


def test_the_chain(base, data, tmp_path):
    recipe, out = tmp_path / "chain.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump(CHAIN))
    folder = Path(data["sft"]).parent
    arguments = ("align", recipe, "--base", base, "--data", folder, "--out", out, "--set", "sft.seed=7")
    assert typed("qwen-train", *arguments).returncode == 0
    assert [load_model(str(out / name / "model")).config.scalar_head for name in CHAIN] == [False, True, True, False]
    assert json.loads((out / "sft" / "recipe.json").read_text())["recipe"]["seed"] == 7
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert typed("qwen-train", *arguments).returncode == 0  # finished: nothing is done again
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before


def test_a_chain_deals_all_batches_before_it_begins(base, data, tmp_path):
    recipe = tmp_path / "chain.yaml"
    recipe.write_text(yaml.safe_dump(CHAIN))
    with pytest.raises(TrainError, match=r"minibatches: .* cannot be dealt evenly to 2 processes"):
        run_chain(recipe, str(base), Path(data["sft"]).parent, tmp_path, ["ppo.ppo.queries=3"], World(size=2), print)
    assert not (tmp_path / "sft").exists()


@pytest.mark.parametrize(
    ("kind", "content", "changes", "said"),
    [
        (SFT, {}, [], "model: Field required"),
        (SFT, {"model": "x", "data": []}, [], "data: List should have at least 1"),
        (SFT, {"model": "x", "data": ["y"], "bach": 3}, [], "bach: no such field; did you mean batch\\?"),
        (SFT, {"model": "x", "data": ["y"]}, ["batch=none"], "batch: "),
        (SFT, {"model": "x", "data": ["y"]}, ["batch"], "--set: 'batch' is not FIELD=VALUE"),
        (SFT, {"model": "x", "data": ["y"]}, ["model.name=x"], "--set: model.name: model has no fields"),
        (PPORecipe, {"model": "x", "reward": "r", "queries": ["q"]}, ["ppo.top_p=0"], "ppo.top_p: "),
        (PPORecipe, {"model": "x", "reward": "r", "queries": ["q"]}, ["length=256"], "no room before ppo.max_tokens"),
        (PPORecipe, {"model": "x", "reward": "r", "queries": ["q"]}, ["ppo.minibatches=999"], "are more than"),
    ],
)
def test_recipes_that_are_wrong(tmp_path, kind, content, changes, said):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(TrainError, match=said) as error:
        read_stage(path, kind, changes)
    assert "\n" not in str(error.value)


def test_the_reports_numbers_are_the_defaults():
    sft = SFT(model="x", data=["y"])
    assert (sft.length, sft.batch, sft.steps, sft.dropout) == (2048, 128, 4000, 0.1)
    rate = sft.optimiser
    assert (rate.learning_rate, rate.warmup_steps, rate.weight_decay, rate.clip) == (2e-6, 1430, 0.1, 1.0)
    assert (rate.betas, rate.eps) == ((0.9, 0.95), 1e-8)
    reward = Reward(model="x", data=["y"])
    assert (reward.batch, reward.epochs, reward.length) == (64, 1, 2048)
    assert [reward.optimiser.rate(step, 100) for step in (0, 50, 99)] == [3e-6] * 3
    ppo = PPORecipe(model="x", reward="r", queries=["q"]).ppo
    assert (ppo.value_steps, ppo.responses, ppo.kl, ppo.value_clip, ppo.top_p) == (50, 2, 0.04, 0.15, 0.9)
    assert (ppo.policy.learning_rate, ppo.value.learning_rate) == (1e-6, 5e-6)
    assert ppo.normalise_rewards and ppo.ptx > 0


@pytest.mark.parametrize("name", ["sft-math", "sft-code"])
def test_recipes_of_the_package(name):
    recipe = read_stage(Path(name), SFT, ["model=x", "data=[y.jsonl]"])
    assert (recipe.model, recipe.data) == ("x", ["y.jsonl"])
    assert recipe.optimiser.learning_rate == {"sft-math": 2e-5, "sft-code": 1e-5}[name]


def test_the_nano_chain_of_the_package():
    """Its tables with what the chain gives each: the model that it begins with, and PPO's reward."""
    table = read_recipe_table(Path("align-nano"))
    assert tuple(table) == STAGES
    begins = {name: {"model": "x", **({"reward": "r"} if name == "ppo" else {})} for name in STAGES}
    kinds = {"sft": SFT, "pmp": Reward, "reward": Reward, "ppo": PPORecipe}
    made = {name: checked(table[name] | begins[name], kinds[name], [], f"align-nano: {name}") for name in STAGES}
    assert [made[name].length for name in STAGES] == [256, 320, 320, 320]
    assert made["sft"].steps == 150 and made["reward"].optimiser.learning_rate == 3e-4
    assert (made["ppo"].ppo.steps, made["ppo"].ppo.value.learning_rate) == (45, 5e-4)


def test_what_the_parser_does_not_take_is_one_line():
    done = typed("qwen-train", "sft", "r.yaml", "--otu", "x")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(
        "qwen-train: No such option: --otu (Possible options: --out, --set); `"
    )


@pytest.mark.parametrize(
    ("stage", "kind", "changes", "said"),
    [
        ("sft", SFT, {"data": ["none.jsonl"]}, "none.jsonl: no such file"),
        ("reward", Reward, {"data": ["none.jsonl"]}, "none.jsonl: no such file"),
        ("dpo", DPO, {"model": "no-such-model"}, "no-such-model"),
        ("ppo", PPORecipe, {"reward": "none.py:f"}, "no such file"),
        ("ppo", PPORecipe, {"reward": "REWARD:missing"}, "no function 'missing'"),
        ("ppo", PPORecipe, {"reward": "BASE"}, "a language model, whose head gives no rewards"),
    ],
)
def test_what_is_missing_is_named(stage, kind, changes, said, base, data, tmp_path):
    common = {"model": base, "length": 128}
    queries = {"queries": [data["queries"]], "reward": data["reward"], "ppo": {"max_tokens": 5}}
    common |= queries if stage == "ppo" else {"data": [data["pairs" if kind != SFT else "sft"]]}
    script = data["reward"].rpartition(":")[0]
    places = {"REWARD:missing": f"{script}:missing", "BASE": base}
    changes = {key: places.get(value, value) if key == "reward" else value for key, value in changes.items()}
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(common | changes))
    done = typed("qwen-train", stage, path, "--out", tmp_path / "out")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("qwen-train: ") and said in last
