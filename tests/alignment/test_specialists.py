"""The specialists of sections 4 and 5 from one small base by the package's own recipes, shrunk by their options."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
import yaml

from qwen_model import load_model
from qwen_train.recipe_file import read_recipe_table
from qwen_train.trainer.logs import read_log
from tests.alignment.conftest import write_rows
from tests.commands import typed

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
MODEL = {**SHAPE, "num_key_value_heads": 2, "head_dim": 16}
CODE = Path(sysconfig.get_path("stdlib")) / "json"


def shrunk(name: str, path: Path) -> Path:
    """A pretraining recipe of the package, with a smaller model and fewer tokens."""
    table = read_recipe_table(name)
    table["model"] = MODEL
    table["data"] = {"vocabulary": 700, "validation": 0.2}
    table["training"] |= {"tokens": 16 * 4 * 10, "batch": 4, "micro_batch": 4, "context": 16}
    path.write_text(yaml.safe_dump(table))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A base model by the package's own recipe."""
    folder = tmp_path_factory.mktemp("base")
    done = typed("qwen-train", "run", shrunk("nano", folder / "n.yaml"), "--corpus", CODE, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run" / "training" / "model"


@pytest.mark.parametrize(
    ("recipe", "rows", "rate"),
    [
        (
            "sft-code",
            [{"instruction": f"Double {n} in Python.", "input": "", "output": f"2 * {n}"} for n in range(9)],
            1e-5,
        ),
        ("sft-math", [{"instruction": f"What is {n} + 1?", "input": "", "output": f"{n + 1}"} for n in range(9)], 2e-5),
    ],
)
def test_from_a_base_to_its_specialists(tmp_path, trained, recipe, rows, rate):
    start = trained
    if recipe == "sft-code":  # code chat models follow the continued pretraining, math ones the base
        code = tmp_path / "code"
        recipe_file = shrunk("code-nano", tmp_path / "c.yaml")
        assert (
            typed("qwen-train", "run", recipe_file, "--start", start, "--corpus", CODE, "--out", code).returncode == 0
        )
        start = code / "training" / "model"
    data = write_rows(tmp_path / "rows.jsonl", rows)
    small = ("length=256", "batch=4", "steps=2", f"model={start}", f"data=[{data}]", f"validation=[{data}]")
    options = [part for one in small for part in ("--set", one)]
    assert typed("qwen-train", "sft", recipe, "--out", tmp_path / "chat", *options).returncode == 0
    assert load_model(str(tmp_path / "chat" / "model")).config.hidden_size == 32
    log = read_log(tmp_path / "chat")
    assert [row["kind"] for row in log] == ["train", "train", "validation"]
    warm = {"sft-code": 1, "sft-math": 1430}[recipe]  # 3 % of two steps are none
    assert log[0]["learning_rate"] == pytest.approx(rate / warm)
