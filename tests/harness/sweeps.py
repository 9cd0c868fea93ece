"""`harness ablate` as tests call it, and what it wrote."""

from __future__ import annotations

from pathlib import Path

import pandas
from typer.testing import CliRunner

from harness.cli import app
from qwen_model.config import ModelConfig

SUMS = str(Path(__file__).parent / "scripted.py") + ":Sums"
TABLE_3 = "none,ntk,ntk+logn,ntk+logn+window"
LENGTHS = (96, 200, 300, 700)
TRAINED = 128


def ablate(*arguments, code=0):
    done = CliRunner().invoke(app, ["ablate", *map(str, arguments)])
    if done.exit_code != code:
        raise done.exception or AssertionError(done.output)
    return done


def frame(path: Path) -> pandas.DataFrame:
    return pandas.read_csv(path, keep_default_na=False, na_values=[""])


def config(**changes) -> ModelConfig:
    sizes = {"vocab_size": 400, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "head_dim": 4}
    return ModelConfig(
        **sizes, num_hidden_layers=4, num_key_value_heads=2, train_length=100, max_position_embeddings=100, **changes
    )
