"""`qwen-train pretrain` as a user runs it: to a model that others load, resumed, refused in one line."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import statistics

import pytest
import torch
import yaml

from qwen_model import load_model
from qwen_train.tokens.write import write_tokens
from qwen_train.trainer import trainer as training
from qwen_train.trainer.logs import read_log
from reports.training import write_page
from tests.commands import typed
from tests.conftest import write_tokenizer

RECIPE = {
    "model": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "num_key_value_heads": 2, "head_dim": 16},
    "training": {"tokens": 8 * 16 * 10, "batch": 8, "micro_batch": 4, "context": 16, "dtype": "float32",
                 "checkpoint_every": 4},
    "optimiser": {"learning_rate": 3e-3, "warmup_steps": 3},
    "validation": {"every": 5, "sequences": 6},
}  # fmt: skip


@pytest.fixture(scope="session")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    (folder / "tokenizer").mkdir()
    write_tokenizer(folder / "tokenizer")
    rows = [{"id": str(n), "text": f"def f{n}(x):\n    return x + {n % 7}\n", "source": "code"} for n in range(400)]
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return write_tokens(folder / "documents.jsonl", folder / "tokenizer", folder / "tokens", validation=0.1).folder


def write_recipe(folder, **changes):
    path = folder / "tiny.yaml"
    merged = {key: value if isinstance(value, str) else dict(value) for key, value in RECIPE.items()}
    for key, value in changes.items():
        section, _, field = key.partition("__")
        if field:
            merged.setdefault(section, {})[field] = value
        else:
            merged[section] = value
    path.write_text(yaml.safe_dump(merged))
    return path


def qwen_train(*arguments) -> tuple[int, str]:
    """Exit code and standard error of `qwen-train ...`."""
    done = typed("qwen-train", *arguments)
    return done.returncode, done.stderr


@pytest.fixture(scope="session")
def trained(tokens, tmp_path_factory):
    """A finished run, by the command itself."""
    folder = tmp_path_factory.mktemp("trained")
    code, error = qwen_train("pretrain", write_recipe(folder), "--tokens", tokens, "--out", folder / "run")
    assert code == 0, error
    return folder / "run"


def test_the_model_is_loaded_by_transformers_and_by_ours_in_both_layouts(trained):
    from transformers import AutoModelForCausalLM

    tokens = torch.arange(40)[None] % 300
    reference = AutoModelForCausalLM.from_pretrained(trained / "model", dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = reference(tokens).logits
        for layout in ("model", "model-qwen"):
            torch.testing.assert_close(load_model(str(trained / layout))(tokens), wanted, atol=1e-5, rtol=0)


def test_it_learnt_and_said_so(trained):
    rows = read_log(trained)
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    held_out = [(row["step"], row["loss"]) for row in rows if row["kind"] == "validation"]
    assert len(losses) == 10 and losses[-1] < losses[0] - 0.3
    assert [step for step, _ in held_out] == [5, 10] and held_out[1][1] < held_out[0][1]
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4 and f"{sum(losses) / 10:.3f} nats" in page and f"{held_out[-1][1]:.3f} nats" in page
    assert list((trained / "tensorboard").glob("events.out.tfevents.*"))


def test_the_harness_takes_the_model(trained, tmp_path):
    from harness import evaluate

    documents = tmp_path / "documents.jsonl"
    documents.write_text(json.dumps({"id": "a", "text": "def f(x):\n    return x\n" * 30}) + "\n")
    settings = {"documents": documents, "lengths": (16, 64)}
    run = evaluate(["long-ppl"], str(trained / "model"), out=tmp_path / "run", **settings)
    assert run.results["long-ppl"].n


def test_tasks_of_the_harness_are_measured_on_the_way(tokens, tmp_path):
    documents = tmp_path / "documents.jsonl"
    documents.write_text(json.dumps({"id": "a", "text": "def f(x):\n    return x\n" * 30}) + "\n")
    asked = {"tasks": ["long-ppl"], "every": 5, "documents": str(documents), "lengths": [64]}
    code, error = qwen_train(
        "pretrain", write_recipe(tmp_path, harness=asked), "--tokens", tokens, "--out", tmp_path / "run"
    )
    assert code == 0, error
    rows = [row for row in read_log(tmp_path / "run") if row["kind"] == "harness"]
    first, last = (row["long-ppl/perplexity"] for row in rows)
    assert [row["step"] for row in rows] == [5, 10] and last < first < 500
    assert "long-ppl/perplexity" in (tmp_path / "run" / "report.html").read_text()


def test_sigterm_ends_with_143_and_the_same_command_ends_as_if_never_stopped(trained, tokens, tmp_path, monkeypatch):
    real = training.Trainer._take

    def take(self):
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self)

    monkeypatch.setattr(training.Trainer, "_take", take)
    arguments = ("pretrain", write_recipe(tmp_path), "--tokens", tokens, "--out", tmp_path / "run")
    code, said = qwen_train(*arguments)
    assert code == 143 and "after step 6; the same command goes on" in said
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.setattr(training.Trainer, "_take", real)
    code, said = qwen_train(*arguments)
    assert code == 0 and "going on from the checkpoint of step 6" in said
    for name, weight in load_model(str(trained / "model")).named_parameters():
        assert torch.equal(weight, load_model(str(tmp_path / "run" / "model")).get_parameter(name)), name
    losses = [[row["loss"] for row in read_log(run)] for run in (trained, tmp_path / "run")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training__contxt": 16}, "training.contxt: no such field; did you mean context?"),
        ({"optimizer": {}}, "optimizer: no such field; did you mean optimiser?"),
        ({"training__dtype": "float8"}, "training.dtype: Input should be 'bfloat16' or 'float32', not 'float8'"),
        ({"model__hiden_size": 3}, "model: no field 'hiden_size'; did you mean hidden_size?"),
        ({"model": "nano-9m"}, "'nano-9m' is none of"),
        ({"model__num_attention_heads": 0}, "num_attention_heads: 0 is no size"),
        ({"model__vocab_size": 100}, "model.vocab_size: 100 rows are fewer than the tokenizer's 400 ids"),
        ({"training__batch": 6}, "training.batch: 6 sequences are not shared evenly"),
        ({"training__context": 10**6, "training__tokens": 1}, "fewer than one sequence"),
        ({"training__weights": {"web": 1.0}}, "training.weights: no source 'web'"),
    ],
)
def test_a_wrong_recipe_is_one_line(tokens, tmp_path, changes, said):
    code, error = qwen_train(
        "pretrain", write_recipe(tmp_path, **changes), "--tokens", tokens, "--out", tmp_path / "run"
    )
    assert code == 2 and said in error and error.count("\n") == 1, error


def test_a_changed_recipe_is_refused_on_resuming_and_nothing_is_lost(trained, tokens, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    recipe = write_recipe(tmp_path, optimiser__learning_rate=1e-3)
    code, error = qwen_train("pretrain", recipe, "--tokens", tokens, "--out", tmp_path / "run")
    assert code == 2 and "another recipe: optimiser.learning_rate (0.003 there, 0.001 now)" in error
    assert (tmp_path / "run" / "checkpoints" / "step-00000010").is_dir()
    # what does not change the numbers may change
    code, error = qwen_train(
        "pretrain", write_recipe(tmp_path, validation__every=3), "--tokens", tokens, "--out", tmp_path / "run"
    )
    assert code == 0, error


def test_other_errors_of_the_users_are_one_line(trained, tokens, tmp_path):
    good = write_recipe(tmp_path)
    (tmp_path / "not.yaml").write_text("a: [")
    (tmp_path / "list.yaml").write_text("- a")
    out = tmp_path / "run"
    for arguments, said in (
        ((tmp_path / "none.yaml", "--tokens", tokens), "no such recipe; give a .yaml file or one of"),
        ((tmp_path / "nano.yaml", "--tokens", tokens), "no such recipe; give a .yaml file or one of"),
        ((tmp_path / "not.yaml", "--tokens", tokens), "not YAML"),
        ((tmp_path / "list.yaml", "--tokens", tokens), "not a table of settings"),
        ((good, "--tokens", tmp_path), "no tokens.json; make it with `qwen-train tokens"),
        ((good, "--tokens", tokens, "--device", "tpu"), "device: 'tpu' is not to be had here"),
        ((good, "--tokens", tokens, "--start", tmp_path), "no weights; fetch"),
    ):
        code, error = qwen_train("pretrain", *arguments, "--out", out)
        assert code == 2 and said in error and error.count("\n") == 1, error


def test_a_damaged_checkpoint_is_named(trained, tokens, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-00000010"
    (file,) = newest.glob("*.safetensors")
    file.write_bytes(b"")
    arguments = ("pretrain", write_recipe(tmp_path), "--tokens", tokens, "--out", tmp_path / "run")
    code, error = qwen_train(*arguments)
    assert code == 2 and f"{newest}: damaged" in error and "an older one is taken" in error
    shutil.rmtree(newest)
    code, error = qwen_train(*arguments)
    assert code == 0 and "going on from the checkpoint of step 8" in error


def test_continued_pretraining_starts_from_the_base_at_a_constant_rate(trained, tokens, tmp_path):
    changes = {"training__context": 32, "training__tokens": 8 * 32 * 4, "optimiser__warmup_share": 0.25}
    recipe = write_recipe(tmp_path, optimiser__schedule="constant", **changes)
    code, error = qwen_train(
        "pretrain", recipe, "--tokens", tokens, "--out", tmp_path / "run", "--start", trained / "model"
    )
    assert code == 0, error
    rows = [row for row in read_log(tmp_path / "run") if row["kind"] == "train"]
    base = [row["loss"] for row in read_log(trained) if row["kind"] == "train"]
    assert rows[0]["loss"] == pytest.approx(base[-1], abs=0.3)
    assert [row["learning_rate"] for row in rows] == [3e-3] * 4
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["max_position_embeddings"] == 32


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__hidden_size": 64, "model__head_dim": 32}, "model.hidden_size: 64 in the recipe, 32 in"),
        ({"model__rope_theta": 1e6}, "model.rope_theta: 1000000.0 in the recipe, 10000.0 in"),
    ],
)
def test_a_base_of_another_shape_is_refused(trained, tokens, tmp_path, changes, said):
    recipe = write_recipe(tmp_path, **changes)
    code, error = qwen_train(
        "pretrain", recipe, "--tokens", tokens, "--out", tmp_path / "run", "--start", trained / "model"
    )
    assert code == 2 and said in error


def test_token_files_of_another_tokenizer_are_refused(trained, tokens, tmp_path):
    shutil.copytree(trained / "model", tmp_path / "model")
    changed = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    changed["model"]["merges"].reverse()
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(changed))
    arguments = ("--tokens", tokens, "--out", tmp_path / "run", "--start", tmp_path / "model")
    code, error = qwen_train("pretrain", write_recipe(tmp_path), *arguments)
    assert code == 2 and f"of another tokenizer than {tmp_path / 'model'}" in error


def test_a_step_without_a_finite_loss_is_left_out_of_the_page_and_counted(trained, tmp_path):
    for name in ("run.json", "log.jsonl"):
        shutil.copy(trained / name, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "train"]
    steps[-2]["loss"], steps[3]["grad_norm"] = math.nan, math.inf
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mean = statistics.fmean(row["loss"] for row in steps if row is not steps[-2])
    assert f"{mean:.3f} nats (1 not finite, left out)" in write_page(tmp_path).read_text()
