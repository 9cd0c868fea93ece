"""lm-eval's results and samples files: what it writes itself, what we write, and what we make of both."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import datasets
import lm_eval
import pytest
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager
from lm_eval.utils import (
    get_file_datetime,
    get_file_task_name,
    get_results_filenames,
    get_sample_results_filenames,
    make_table,
)

from harness import evaluate
from harness.evaluation import Progress
from harness.lmeval.export import MINE, export
from harness.lmeval.read import read
from harness.pairing import compare
from harness.records import Run
from tasks.api import TaskError
from tests.commands import typed
from tests.conftest import make_checkpoint
from tests.harness.made_runs import make_run, record
from tests.parity import lm_eval_side
from tests.parity.test_lm_eval_tasks import lay_out, own_rows

TASKS = ("arc_easy", "lambada_openai", "wikitext", "gsm8k")
SETTINGS = {"gsm8k": {"max_gen_toks": 16}}


class Heard(Progress):
    """What was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"), max_position_embeddings=1024)


@pytest.fixture(scope="module")
def theirs(model, tmp_path_factory) -> Path:
    """The output folder of lm-eval's evaluator, tracker and `hf` model: a task of each kind, one with two filters."""
    made = {
        task: {split: datasets.Dataset.from_list(rows) for split, rows in own_rows()[task][1].items()} for task in TASKS
    }
    paths = {"allenai/ai2_arc": "arc_easy", "EleutherAI/lambada_openai": "lambada_openai", "openai/gsm8k": "gsm8k"}
    folders = [Path(lm_eval.__file__).parent / "tasks" / lm_eval_side.FOLDERS.get(task, task) for task in TASKS]
    tracker = EvaluationTracker(output_path=str(tmp_path_factory.mktemp("theirs")))
    with patch("lm_eval.api.task.datasets.load_dataset", lambda path, **_: made[paths.get(path, "wikitext")]):
        found = lm_eval.simple_evaluate(
            lm_eval_side.hf_model(model),
            tasks=list(TASKS),
            task_manager=TaskManager(include_defaults=False, include_path=[str(folder) for folder in folders]),
            bootstrap_iters=2,
            limit=6,
            num_fewshot=0,
            evaluation_tracker=tracker,
        )
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for task in found["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    return Path(tracker.output_path)


def results_of(folder: Path) -> dict:
    (file,) = folder.rglob("results_*.json")
    return json.loads(file.read_text())


def rows_of(folder: Path, task: str) -> list[dict]:
    (file,) = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def imported(theirs, tmp_path_factory) -> Run:
    return read(theirs, tmp_path_factory.mktemp("imported") / "run", Progress())


def test_every_number_of_lm_evals_own_folder_is_taken(theirs, imported):
    for task, reported in results_of(theirs)["results"].items():
        metrics = imported.results[f"lm-eval/{task}"].metrics
        expected = {
            name.removesuffix(",none"): value
            for name, value in reported.items()
            if "," in name and "_stderr" not in name
        }
        assert set(metrics) == set(expected)
        for name, value in expected.items():
            assert metrics[name].value == pytest.approx(value, rel=1e-6)
            assert metrics[name].low <= metrics[name].value <= metrics[name].high
    assert imported.samples("lm-eval/arc_easy")["prompt"].str.startswith("Question: ").all()
    kinds = imported.spec["tasks"]["lm-eval/lambada_openai"]["measures"]
    assert kinds == {"perplexity": "perplexity", "acc": "share"}


def test_exported_again_it_is_lm_evals_folder_to_the_letter(theirs, imported, tmp_path):
    export(imported, tmp_path)
    before, after = results_of(theirs), results_of(tmp_path)
    for task in TASKS:
        mine = [{name: value for name, value in row.items() if name != MINE} for row in rows_of(tmp_path, task)]
        assert list(map(json.dumps, mine)) == list(map(json.dumps, rows_of(theirs, task)))
        for name, value in before["results"][task].items():
            if not isinstance(value, float) or "perplexity" not in name:
                assert after["results"][task][name] == (pytest.approx(value) if isinstance(value, float) else value)
    for name in ("versions", "n-shot", "higher_is_better", "n-samples", "task_hashes"):
        assert after[name] == {task: before[name][task] for task in after[name]}
    tokenizer = {name for name in before if name.startswith("tokenizer_")} | {"eot_token_id", "max_length"}
    assert set(after) - {MINE} == set(before) - tokenizer


def test_our_run_and_lm_evals_are_compared_item_by_item(imported, model, tmp_path):
    below, splits = own_rows()["arc_easy"]
    data = lay_out(tmp_path / "data", below, splits)
    ours = evaluate(["lm-eval/arc_easy"], str(model), data_dir=data, out=tmp_path / "ours")
    (task,) = compare(imported, ours).tasks
    assert (task.whole.n, task.whole.gained, task.whole.lost) == (6, 0, 0)
    assert not any("data" in note or "prompts" in note for note in task.notes)
    theirs = {row.id: row for row in imported.records("lm-eval/arc_easy")}
    for row in ours.records("lm-eval/arc_easy"):
        if row.id in theirs:
            assert row.prompt == theirs[row.id].prompt and row.gold == theirs[row.id].gold
            assert row.choice_logprobs == pytest.approx(theirs[row.id].choice_logprobs, abs=1e-3)
            assert [each["request"] for each in row.asked] == [each["request"] for each in theirs[row.id].asked]


@pytest.mark.parametrize("task", ["arc_easy", "lambada_openai", "wikitext"])
def test_our_export_is_what_lm_eval_logs_of_the_same_items(theirs, model, tmp_path, task):
    """Written by us of our own run, and by lm-eval of its `hf` model."""
    below, splits = own_rows()[task]
    data = lay_out(tmp_path / "data", below, splits)
    ours = evaluate([f"lm-eval/{task}"], str(model), data_dir=data, out=tmp_path / "ours")
    export(ours, tmp_path / "files")
    expected = {row["doc_id"]: row for row in rows_of(theirs, task)}
    for row in rows_of(tmp_path / "files", task):
        if row["doc_id"] not in expected:
            continue
        other = expected[row["doc_id"]]
        assert list(other) == [name for name in row if name != MINE]
        for name in ("doc", "target", "arguments", "filter", "metrics", "doc_hash", "prompt_hash", "target_hash"):
            assert row[name] == other[name]
        for mine, his in zip(row["resps"], other["resps"], strict=True):
            one, two = (mine[0], his[0]) if isinstance(mine[0], str) else (mine[0][0], his[0][0])
            assert float(one) == pytest.approx(float(two), abs=1e-2)
    back = read(tmp_path / "files", tmp_path / "back", Progress())
    assert back.results == ours.results
    assert list(back.records(f"lm-eval/{task}")) == list(ours.records(f"lm-eval/{task}"))


def strip(folder: Path) -> None:
    """Leave only lm-eval's own keys in files of ours."""
    for file in folder.rglob("samples_*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({k: v for k, v in row.items() if k != MINE}) + "\n" for row in rows))
    (file,) = folder.rglob("results_*.json")
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != MINE}))


def test_without_our_own_keys_our_files_say_the_same(imported, tmp_path):
    export(imported, tmp_path / "files")
    strip(tmp_path / "files")
    back = read(tmp_path / "files", tmp_path / "back", Progress())
    assert back.results == imported.results
    for task in imported.spec["tasks"]:
        assert list(back.records(task)) == list(imported.records(task))


def sums(n: int = 6):
    return [
        record(
            "sums", f"sums/{i}", i, group="ab"[i % 2], correct=i < 4, scores={"close": i / 2}, answer=None if i else "4"
        )
        for i in range(n)
    ]


@pytest.fixture
def own(tmp_path) -> Run:
    """A run of tasks that are not lm-eval's: a generated one with groups, and letters."""
    decoding = {"max_tokens": 9, "stop": ["\n"], "temperature": 0.0, "top_p": 1.0}
    letters = [record("letters", f"letters/{i}", i, choice_logprobs={"A": -1.5, "B": -0.25}) for i in range(3)]
    specs = {"sums": {"decoding": decoding, "measures": {"close": "mean"}, "sets": {"first": ["a"]}}}
    return make_run(tmp_path / "own", {"sums": sums(), "letters": letters}, **specs)


def test_a_task_of_ours_there_and_back(own, tmp_path):
    file = export(own, tmp_path / "files")
    assert file.name == f"results_{get_file_datetime(file.stem)}.json" and file.parent.name == "own"
    results = json.loads(file.read_text())
    assert results["results"]["qwen_harness_sums"] | {"accuracy_stderr,none": 0} == {
        "name": "qwen_harness_sums",
        "alias": "qwen_harness_sums",
        "sample_len": 6,
        "accuracy,none": 4 / 6,
        "accuracy_stderr,none": 0,
        "close,none": 1.25,
        "close_stderr,none": pytest.approx(0.381881),  # by hand: sqrt(0.875 / 6)
    }
    generated, letter = rows_of(tmp_path, "qwen_harness_sums")[0], rows_of(tmp_path, "qwen_harness_letters")[0]
    assert generated["arguments"]["gen_args_0"] == {
        "arg_0": "Question sums/0?",
        "arg_1": {"until": ["\n"], "max_gen_toks": 9, "do_sample": False},
    }
    assert (generated["resps"], generated["filtered_resps"], generated["accuracy"]) == ([["It is 4."]], ["4"], 1.0)
    assert letter["arguments"]["gen_args_1"]["arg_1"] == "B" and letter["resps"][1] == [["-0.25", "None"]]
    back = read(tmp_path / "files", tmp_path / "back", Progress())
    assert back.results == own.results and back.spec["tasks"] == own.spec["tasks"]
    assert all(list(back.records(task)) == list(own.records(task)) for task in ("sums", "letters"))
    assert not compare(own, back).tasks[0].notes
    # the same files again, and the same run folder
    assert export(own, tmp_path / "files") == file
    assert read(file, tmp_path / "back", Progress()).spec == back.spec


def test_lm_evals_tools_and_others_read_our_files(own, imported, tmp_path):
    for run in (own, imported):
        file = export(run, tmp_path)
        results = json.loads(file.read_text())
        table = make_table(results)
        assert all(name in table for name in results["results"])
        names = [str(path) for path in file.parent.iterdir()]
        assert get_results_filenames(names) == [str(file)]
        for name in get_sample_results_filenames(names):
            assert get_file_task_name(Path(name).name) in results["results"]
            assert get_file_datetime(name) == get_file_datetime(file.stem)
            loaded = datasets.load_dataset("json", data_files=name, split="train", cache_dir=str(tmp_path / "cache"))
            assert len(loaded) == len(Path(name).read_text().splitlines())


def test_what_does_not_come_of_the_samples_is_left_out_and_said(theirs, tmp_path):
    import shutil

    shutil.copytree(theirs, tmp_path / "files")
    (file,) = (tmp_path / "files").rglob("results_*.json")
    results = json.loads(file.read_text())
    results["results"]["arc_easy"]["acc,none"] = 0.123
    results["results"]["all_of_them"] = {"acc,none": 0.5}
    file.write_text(json.dumps(results))
    next((tmp_path / "files").rglob("samples_gsm8k_*")).unlink()
    heard = Heard()
    run = read(tmp_path / "files", tmp_path / "run", heard)
    assert set(run.results["lm-eval/arc_easy"].metrics) == {"acc_norm"} and "lm-eval/gsm8k" not in run.results
    assert any("arc_easy: acc is left out: 0.123 does not come" in line for line in heard.lines)
    assert any("all_of_them: left out, it stands for several tasks" in line for line in heard.lines)
    assert any("gsm8k: left out, samples_gsm8k_" in line and "--log_samples" in line for line in heard.lines)


def test_mistakes_are_named(theirs, tmp_path):
    def files(name: str, content: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "results_2026.json").write_text(
            json.dumps({"results": {"t": {"acc,none": 1.0}}, "configs": {"t": {}}})
        )
        (folder / "samples_t_2026.jsonl").write_text(content)
        return folder

    (tmp_path / "empty").mkdir()
    row = rows_of(theirs, "arc_easy")[0]
    lacking = {name: value for name, value in row.items() if name != "resps"}
    endless = row | {"resps": [[["nan", "False"]]] * 4}
    for place, said in (
        (tmp_path / "empty", r"no results_\*\.json below it; name a folder that lm_eval wrote"),
        (files("torn", json.dumps(row)[:50]), r"samples_t_2026\.jsonl:1: not JSON"),
        (files("lacking", json.dumps(lacking)), r"samples_t_2026\.jsonl:1: field 'resps' is missing"),
        (files("twice", f"{json.dumps(row)}\n" * 2), r":2: item 0 is there twice"),
        (files("nothing", "\n"), "holds no samples"),
        (files("endless", json.dumps(endless | {"acc": 1.0})), "a log-probability is nan"),
    ):
        with pytest.raises(TaskError, match=said):
            read(place, tmp_path / "out", Progress())
    (tmp_path / "torn" / "results_2027.json").write_text("{}")
    with pytest.raises(TaskError, match=r"2 results files below it; name one of them, such as the last, .*2027"):
        read(tmp_path / "torn", None, Progress())
    with pytest.raises(TaskError, match="field 'results' is missing"):
        read(tmp_path / "torn" / "results_2027.json", None, Progress())


def test_the_commands(own, tmp_path):

    done = typed("harness", "export", own.path, "--format", "lm-eval", "--out", tmp_path / "files")
    assert done.returncode == 0 and "results_" in done.stdout
    done = typed("harness", "import", tmp_path / "files", "--out", tmp_path / "back")
    assert done.returncode == 0 and f"harness report {tmp_path / 'back'}" in done.stdout
    done = typed("harness", "report", tmp_path / "back")
    assert done.returncode == 0 and "66.7 %" in done.stdout
    for arguments, remedy in (
        (["export", own.path, "--format", "xlsx"], "--format: 'xlsx' is not one of lm-eval, parquet, csv"),
        (["export", tmp_path, "--format", "csv"], "not a run folder"),
        (["export", own.path, "--format", "csv", "--out", tmp_path], "a folder; name a file"),
        (["export", own.path, "--format", "csv", "--out", "/dev/null/x"], "/dev/null: File exists; give another path"),
        (["import", tmp_path / "none"], "no such file or folder"),
    ):
        done = typed("harness", *arguments)
        assert done.returncode == 2 and remedy in done.stderr, done.stderr
