"""`harness score`: the same numbers without the model, from what a run stored or from a file of completions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from harness import evaluate
from harness.completions import read_completions
from harness.evaluation import Progress, Settings, execute, prepare
from harness.records import Run, RunError
from harness.scoring import Selection, score_completions, score_run
from tasks.api import Options, TaskError
from tests.commands import harness, typed
from tests.tasks.scripted import humaneval_rows, real_sandbox

SCRIPTED = str(Path(__file__).parent / "scripted.py")
SUMS, GUESSES, TOOLS = (f"{SCRIPTED}:{name}" for name in ("Sums", "Guesses", "Tools"))


def rows(run: Run, task: str) -> list[dict]:
    return [asdict(record) | {"seconds": 0} for record in run.records(task)]


def score(path: Path, *tasks: str, out: Path | None = None) -> Run:
    return score_run(path, tasks=tasks, out=out, options=Options(), progress=Progress())


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    return evaluate([SUMS, TOOLS], str(tiny), out=tmp_path_factory.mktemp("runs") / "whole")


def test_every_turn_is_stored(whole):
    for record in whole.records("sums"):
        kinds = [entry["kind"] for entry in record.asked]
        assert kinds == (["score"] if record.id in {f"sums/{i}" for i in range(1, 40, 2)} else ["generate"] * 2)
        if kinds[0] == "generate":
            assert record.asked[-1]["text"] == record.response
            assert tuple(record.asked[-1]["logprobs"]) == record.token_logprobs
        else:
            assert record.asked[0]["scores"] == list(record.choice_logprobs.values())


def test_unchanged_tasks_give_the_same_to_the_digit(whole):
    again = score(whole.path, SUMS, TOOLS)
    assert again.path == whole.path.with_name("whole-scored")
    assert again.results == whole.results
    for task in ("sums", "tools"):
        assert rows(again, task) == rows(whole, task)
    assert again.spec["scored"]["samples"] == {"sums": 40, "tools": 40}
    assert {name: value for name, value in again.spec.items() if name != "scored"} == whole.spec
    twice = score(again.path, SUMS, TOOLS)  # what was scored can be scored
    assert twice.results == whole.results


def test_measures_sets_and_means_reach_the_results(whole):
    entry = whole.results["tools"]
    records = list(whole.records("tools"))
    assert list(entry.metrics) == ["rouge", "rouge (micro)", "called", "loss"]
    by_group = {name: [r.scores["rouge"] for r in records if r.group == name] for name in "ab"}
    assert entry.metrics["rouge"].value == pytest.approx(sum(sum(v) / len(v) for v in by_group.values()) / 2)
    assert entry.metrics["called"].n == 20 and set(entry.sets) == {"first"}
    assert whole.spec["tasks"]["tools"]["sets"] == {"first": ["a"]}


def test_several_answers_and_other_sampling(tiny, tmp_path):
    run = evaluate([GUESSES], str(tiny), limit=3, draws=10, temperature=1.5, out=tmp_path / "run")
    again = score(run.path, GUESSES)
    assert again.results == run.results and rows(again, "guesses") == rows(run, "guesses")


def test_an_unfinished_run(tiny, tmp_path):
    class Stop(Progress):
        left = 5

        def judged(self, task):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(prepare(Settings(tasks=(SUMS, TOOLS), model=str(tiny))), tmp_path / "run", Stop())
    again = score(tmp_path / "run", SUMS, TOOLS)
    judged = {name: len(rows(Run(tmp_path / "run"), name)) for name in ("sums", "tools")}
    assert {name: result.n for name, result in again.results.items()} == {n: k for n, k in judged.items() if k}


def changed(tmp_path: Path, *changes: tuple[str, str]) -> str:
    source = Path(SCRIPTED).read_text()
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    (tmp_path / "changed.py").write_text(source)
    return f"{tmp_path / 'changed.py'}:Sums"


def test_a_changed_judgement_changes_the_numbers(tiny, tmp_path):
    run = evaluate([SUMS], str(tiny), out=tmp_path / "run")
    lenient = changed(tmp_path, ('"correct" if best == "a" else "wrong"', '"correct"'))
    assert (
        score(run.path, SUMS).results["sums"].metrics["accuracy"].value == run.results["sums"].metrics["accuracy"].value
    )
    again = score(run.path, lenient)  # into the same folder, although no spec shows the change
    assert again.results["sums"].metrics["accuracy"].value == 0.5
    assert len(rows(again, "sums")) == 40


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("1 + 1 = 2", "1 + 1 = two"), "sample sums/0: the task now asks something else in request 1"),
        (('" a", " b"', '" a", " d"'), "sample sums/1: the task now asks something else in request 1"),
        (("max_tokens=5", "max_tokens=6"), "sample sums/0: the task now asks something else in request 2"),
        (
            ("return Verdict(answer=first", "await model.score('', ['x'])\n        return Verdict(answer=first"),
            "sample sums/0: the task now asks for more than the 2 requests that were answered",
        ),
    ],
)  # fmt: skip
def test_a_task_that_asks_something_else_is_told_so(tiny, tmp_path, change, said, whole):
    with pytest.raises(TaskError) as caught:
        score(whole.path, changed(tmp_path, change), TOOLS, out=tmp_path / "out")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_task_may_ask_less(whole, tmp_path):
    once = changed(
        tmp_path, ("        again = await", "        return Verdict(answer='', outcome='wrong')\n        again = await")
    )
    again = {row["id"]: row for row in rows(score(whole.path, once, TOOLS, out=tmp_path / "out"), "sums")}
    stored = {record.id: record for record in whole.records("sums")}
    assert again["sums/0"]["response"] == stored["sums/0"].asked[0]["text"]


def test_folders_that_are_not_overwritten(whole, tmp_path):
    before = (whole.path / "results.json").read_bytes()
    with pytest.raises(RunError, match="did not write"):
        score(whole.path, SUMS, TOOLS, out=whole.path)
    assert (whole.path / "results.json").read_bytes() == before
    with pytest.raises(TaskError, match="its task sums is not installed; name it by --task"):
        score(whole.path)


def test_the_folder_that_one_is_in(tiny, tmp_path, monkeypatch):
    evaluate([SUMS], str(tiny), limit=2, out=tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    assert score(Path(), SUMS).path == tmp_path / "run-scored"


@pytest.mark.parametrize("task", ["retrieval", "long-ppl"])
def test_samples_that_were_fitted_to_the_model_are_fitted_again_without_it(task, tiny, tmp_path):
    model, texts = tmp_path / "model", tmp_path / "texts"
    shutil.copytree(tiny, model)
    texts.mkdir()
    for name, words in (("long", 400), ("short", 3)):
        (texts / f"{name}.txt").write_text("word " * words)
    asked = {"lengths": (900,), "filter": {"document": "3"}} if task == "retrieval" else {"lengths": (64, 128)}
    given = {} if task == "retrieval" else {"documents": texts}
    run = evaluate([task], str(model), out=tmp_path / "run", **asked, **given)
    shutil.rmtree(model)
    again = score_run(run.path, out=None, options=Options(**given), progress=Progress())
    assert again.results == run.results
    assert {name: value for name, value in again.spec.items() if name != "scored"} == run.spec
    twice = score_run(again.path, out=None, options=Options(**given), progress=Progress())
    assert twice.results == run.results
    if given:
        (texts / "long.txt").write_text("other words " * 400)
        with pytest.raises(TaskError, match="a task now counts another text"):
            score_run(run.path, out=None, options=Options(**given), progress=Progress())


# --- completions ------------------------------------------------------------------------------------------------------


def write(path: Path, lines: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in lines), encoding="utf-8")
    return path


def completed(task: str, path: Path, out: Path, **selection) -> Run:
    chosen = Selection(**{"filters": {}} | selection)
    return score_completions(task, path, chosen, out=out, options=Options(), progress=Progress())


def every(texts) -> list[tuple[str, str]]:
    return [(f"sums/{i}", text) for i, text in enumerate(texts)]


def test_completions_are_judged_as_replies(tmp_path):
    """`Guesses` calls a reply right where its letters' codes add up to a multiple of 3."""
    texts = ["c\nand more", "ab", "f"] + ["a"] * 37  # 99 to its stop string, 195, 102, 97
    run = completed(GUESSES, write(tmp_path / "mine.jsonl", every(texts)), tmp_path / "out")
    assert run.results["guesses"].metrics["pass@1"].value == 3 / 40
    assert [record.response for record in run.records("guesses")][:2] == ["c", "ab"]
    assert run.spec["model"]["name"] == "mine.jsonl" and len(run.spec["model"]["fingerprint"]) == 64
    again = score(run.path, GUESSES)
    assert again.results == run.results and rows(again, "guesses") == rows(run, "guesses")


def test_line_ends_of_another_system_are_read_as_models_write_them(tmp_path):
    path = write(tmp_path / "mine.jsonl", [("sums/0", "```python\r\nx\r\n```"), ("sums/1", "a\rb")])
    assert [text for _, _, text in read_completions(path).lines] == ["```python\nx\n```", "a\rb"]


def test_half_an_emoji_is_a_replacement_character(tmp_path):
    texts = ["a \ud83d", "\ude00\ud83d", "\ud83d\ude00", r"\ud83d"] + ["a"] * 36
    run = completed(GUESSES, write(tmp_path / "mine.jsonl", every(texts)), tmp_path / "out")
    found = [record.response for record in run.records("guesses")][:4]
    assert found == ["a \ufffd", "\ufffd\ufffd", "\U0001f600", r"\ud83d"]


def test_several_completions_are_pass_at_k(tmp_path):
    """Ten each: right are 0, 1 and 10 of them."""
    lines = [(f"sums/{i}", "c" if draw < right else "a") for i, right in enumerate((0, 1, 10)) for draw in range(10)]
    run = completed(GUESSES, write(tmp_path / "mine.jsonl", lines), tmp_path / "out", partial=True)
    metrics = run.results["guesses"].metrics
    assert metrics["pass@1"].value == pytest.approx(1.1 / 3) and metrics["pass@10"].value == pytest.approx(2 / 3)
    assert run.results["guesses"].n == 3 and run.spec["tasks"]["guesses"]["draws"] == 10
    assert [record.id for record in run.records("guesses")][:2] == ["sums/0#0", "sums/0#1"]


def test_uneven_numbers_of_completions(tmp_path):
    lines = [("sums/0", "c"), ("sums/1", "c"), ("sums/1", "a"), ("sums/1", "a")]
    run = completed(GUESSES, write(tmp_path / "mine.jsonl", lines), tmp_path / "out", partial=True)
    assert run.results["guesses"].metrics["pass@1"].value == pytest.approx((1 + 1 / 3) / 2)


def test_a_selection_of_completions(tmp_path, tiny):
    file = write(tmp_path / "mine.jsonl", every(["a"] * 40))
    run = completed(GUESSES, file, tmp_path / "limit", limit=5)
    of_model = prepare(Settings(tasks=(GUESSES,), model=str(tiny), limit=5))
    assert [record.id for record in run.records("guesses")] == [s.id for s in of_model.samples["guesses"]]
    assert run.spec["tasks"]["guesses"]["prompts"] == of_model.spec["tasks"]["guesses"]["prompts"]
    assert len(rows(completed(GUESSES, file, tmp_path / "odd", filters={"parity": ("1",)}), "guesses")) == 20


def bad(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


ROW = '{"id": "sums/0", "text": "x"}\n'
MISTAKES = {
    "no such file": (None, "nowhere.jsonl: No such file"),
    "empty": ("\n\n", "holds no completions"),
    "no JSON": (ROW + "{", "bad.jsonl:2: not JSON"),
    "a list": ("[1]", "bad.jsonl:1: not a JSON object"),
    "no id": (ROW + "\n" + '{"text": "x"}', "bad.jsonl:3: field 'id' is missing"),
    "no text": ('{"id": "sums/0"}', "bad.jsonl:1: field 'text' is missing"),
    "text is a number": ('{"id": "sums/0", "text": 4}', "bad.jsonl:1: field 'text' is int, not text"),
    "unknown id": (ROW + '{"id": "sums/99", "text": "x"}', "bad.jsonl:2: id 'sums/99' is no sample of the task"),
    "missing ids": (ROW, "no line for 39 of 40 samples, the first one sums/1"),
    "not UTF-8": (b"\xff\xfe", "no UTF-8 text"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_bad_files_are_one_line(mistake, tmp_path):
    content, *said = MISTAKES[mistake]
    path = tmp_path / "nowhere.jsonl" if content is None else bad(tmp_path, content)
    with pytest.raises(TaskError) as caught:
        completed(GUESSES, path, tmp_path / "out")
    assert all(part in str(caught.value) for part in said) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_tasks_that_a_file_of_texts_cannot_answer(tmp_path):
    with pytest.raises(TaskError, match="task mmlu has no decoding: it compares log-probabilities, or asks as lm-eval"):
        completed("mmlu", bad(tmp_path, ROW), tmp_path / "out")
    with pytest.raises(TaskError, match=r"sample sums/0: the task asks for a second reply"):
        completed(SUMS, write(tmp_path / "mine.jsonl", [("sums/0", "x")]), tmp_path / "out", partial=True)
    with pytest.raises(TaskError, match=r"sample sums/1: the task asks for log-probabilities"):
        completed(SUMS, write(tmp_path / "mine.jsonl", [("sums/1", "x")]), tmp_path / "out", partial=True)


def test_code_is_run_in_the_sandbox_again(tmp_path):
    """HumanEval's own solutions pass, an empty body fails; judged anew, the same."""
    real_sandbox().close()
    solved = [(row["task_id"], row["canonical_solution"]) for row in humaneval_rows()]
    solved = [(id_, text) for id_, text in solved if "\n\n" not in text and "def " not in text]  # the stop strings
    file = write(tmp_path / "mine.jsonl", [*solved[:3], (solved[3][0], "    pass\n")])
    run = completed("humaneval", file, tmp_path / "out", partial=True)
    assert [record.correct for record in run.records("humaneval")] == [True, True, True, False]
    again = score(run.path, out=tmp_path / "again")
    assert again.results == run.results and again.environment["sandbox"]["tier"] != "none"


def test_the_command_line(tmp_path, whole, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = harness("score", whole.path, "--task", f"{SUMS},{TOOLS}", "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert "Judged from the replies of an earlier run; no model was asked." in " ".join(done.stdout.split())
    file = write(tmp_path / "mine.jsonl", every(["c"] * 40))
    done = typed("harness", "score", "--task", GUESSES, "--completions", file, "--limit", 4)
    assert done.returncode == 0, done.stderr
    assert "100.0 %" in done.stdout and list((tmp_path / "runs").glob("mine-guesses-*/report.html"))
    for arguments, said in (
        ((), "nothing to judge"),
        ((tmp_path,), "not a run folder"),
        ((whole.path, "--limit", 3), "a run's samples are all judged"),
        (("--completions", file), "wants --task T"),
        (("--task", GUESSES, "--completions", bad(tmp_path, "")), "holds no completions"),
    ):
        done = typed("harness", "score", *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert said in done.stderr


def test_no_model_code_is_imported(tmp_path):
    file = write(tmp_path / "mine.jsonl", every(["c"] * 40))
    code = (
        "import sys; from pathlib import Path; from tests.harness.test_score import completed\n"
        f"completed({GUESSES!r}, Path({str(file)!r}), Path({str(tmp_path / 'out')!r}))\n"
        "sys.exit(f'imported {set(sys.modules) & {\"torch\"}}' if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
