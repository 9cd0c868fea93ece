"""`qwen-train run`: raw files to a base model, to a code model from it, each stage once."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import pytest
import yaml

from qwen_model import load_model, load_tokenizer
from qwen_train.data.default_corpus import default_corpus
from tests.qwen_train.test_pretrain import RECIPE, qwen_train

LIBRARY = Path(sysconfig.get_path("stdlib"))


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    training = RECIPE["training"] | {"tokens": 8 * 16 * 4}
    path.write_text(yaml.safe_dump({**RECIPE, "training": training, "data": {"vocabulary": 700, "validation": 0.2}}))
    return path


def test_raw_text_to_a_base_model_and_a_code_model_from_it(tmp_path, recipe):
    names = ("abc", "bisect", "heapq", "string", "shlex", "textwrap", "json/decoder", "json/encoder")
    texts = [LIBRARY / f"{name}.py" for name in names]
    corpus = [part for path in texts for part in ("--corpus", path)]
    out = tmp_path / "run"
    code, said = qwen_train("run", recipe, *corpus, "--out", out)
    assert code == 0, said
    assert [f"stage {n} of 4" in said for n in range(1, 5)] == [True] * 4
    tokenizer = load_tokenizer(out / "training" / "model")
    assert tokenizer.size == 700 and load_model(str(out / "training" / "model")).config.vocab_size == 768
    held_out = [json.loads(line) for line in (out / "tokens" / "held-out.jsonl").read_text().splitlines()]
    assert held_out
    assert all(any(row["text"][:100] in path.read_text() for path in texts) for row in held_out)
    for page in (out / "data" / "report.html", out / "training" / "report.html"):
        assert page.is_file()
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.tokens")}
    code, said = qwen_train("run", recipe, *corpus, "--out", out)
    assert code == 0 and {path: path.stat().st_mtime_ns for path in out.rglob("*.tokens")} == written

    other = yaml.safe_load(recipe.read_text())
    for size, wrong in ((701, "701 ids; the tokenizer in"), (300, "300 ids; the bytes and control tokens alone")):
        (tmp_path / "other.yaml").write_text(yaml.safe_dump({**other, "data": other["data"] | {"vocabulary": size}}))
        code, said = qwen_train("run", tmp_path / "other.yaml", *corpus, "--out", out)
        assert code == 2 and f"data.vocabulary: {wrong}" in said and "stage 1" not in said

    code, said = qwen_train(
        *("run", recipe, "--corpus", LIBRARY / "json", "--out", tmp_path / "code"),
        *("--start", out / "training" / "model"),
    )
    assert code == 0, said
    assert not (tmp_path / "code" / "tokenizer").exists()
    assert load_tokenizer(tmp_path / "code" / "training" / "model").size == 700


def test_an_empty_corpus_is_one_line(tmp_path, recipe):
    (tmp_path / "empty").mkdir()
    code, said = qwen_train("run", recipe, "--corpus", tmp_path / "empty", "--out", tmp_path / "run")
    assert code == 2 and "empty: no file that is read; put" in said.splitlines()[-1]


def test_the_default_corpus_is_text_that_any_machine_has():
    files = default_corpus()
    assert any(path.name == "heapq.py" for path in files)
    assert not any("tests" in path.parts or "test" in path.parts[len(LIBRARY.parts) :] for path in files)
