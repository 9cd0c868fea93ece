"""`harness compare`: which samples are paired, what is said, every output, every mistake."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from harness.comparison import mcnemar
from harness.pairing import compare
from harness.records import RunError
from reports import comparison as shown
from reports.against import against, parse
from tests.commands import harness, typed
from tests.harness.made_runs import make_run, record


def sums(right: set[int], n: int = 20, *, first: int = 0, task: str = "sums", **changes):
    return [
        record(
            task,
            f"sums/{i}",
            i,
            correct=i in right,
            answer="4" if i in right else f"<b>{i}",
            group="ab"[i % 2],
            **changes,
        )
        for i in range(first, first + n)
    ]


@pytest.fixture
def two(tmp_path: Path):
    """7 right in both, 3 in the first only, 5 in the second only."""
    one = make_run(tmp_path / "one", {"sums": sums(set(range(10)))})
    other = make_run(tmp_path / "other", {"sums": sums(set(range(3, 15)))})
    return one, other


def test_pairs_by_hand(two):
    (task,) = compare(*two).tasks
    whole = task.whole
    assert (whole.n, whole.first, whole.second, whole.gained, whole.lost) == (20, 0.5, 0.6, 5, 3)
    assert whole.p == mcnemar(5, 3) and task.notes == ()
    # even samples are of group a: 0 and 2 lost, 10, 12, 14 gained
    assert (task.groups["a"].n, task.groups["a"].gained, task.groups["a"].lost) == (10, 3, 2)
    assert [(flip.id, flip.gained, flip.first, flip.second) for flip in task.flips] == [
        *((f"sums/{i}", False, "4", f"<b>{i}") for i in range(3)),
        *((f"sums/{i}", True, f"<b>{i}", "4") for i in range(10, 15)),
    ]


def test_only_common_samples_are_compared_and_this_is_said(tmp_path):
    one = make_run(tmp_path / "one", {"sums": sums({1}, 20), "only": [record("only", "only/0")]})
    other = make_run(tmp_path / "other", {"sums": sums({1, 5}, 10, first=5, gold="5")}, sums={"version": 2, "shots": 3})
    found = compare(one, other)
    (task,) = found.tasks
    assert (task.whole.n, task.whole.gained, task.whole.lost) == (10, 1, 0)
    said = " ".join((*found.notes, *task.notes))
    assert "Only one has only." in said and "the 10 samples in common are compared; 10 more in one" in said
    assert "version differs: 1 in one, 2 in other" in said and "shots differs: 0 in one, 3 in other" in said
    assert "10 samples of the same id have another gold answer" in said


def test_another_protocol_of_the_benchmark_is_a_partner(tmp_path):
    one = make_run(tmp_path / "one", {"sums": sums({1})})
    chat = make_run(tmp_path / "two", {"sums-chat": sums({1, 2}, task="sums-chat")})
    (task,) = compare(one, chat).tasks
    assert (task.task, task.other, task.whole.gained) == ("sums", "sums-chat", 1)
    assert task.notes[0] == "sums of one is compared with sums-chat of two."


def test_uncounted_samples_are_no_pair(tmp_path):
    missing = [record("sums", "sums/0", outcome="not_installed", correct=False), record("sums", "sums/1", 1)]
    one = make_run(tmp_path / "one", {"sums": missing})
    other = make_run(tmp_path / "other", {"sums": sums({0, 1}, 2)})
    assert compare(one, other).tasks[0].whole.n == 1


def test_several_answers_are_averaged(tmp_path):
    answers = [record("sums", f"sums/{i}#{k}", 4 * i + k, correct=k < i, scores={}) for i in range(4) for k in range(4)]
    one = make_run(tmp_path / "one", {"sums": answers}, sums={"metric": "pass@1", "draws": 4})
    other = make_run(tmp_path / "other", {"sums": sums({3}, 4)}, sums={"metric": "pass@1"})
    (task,) = compare(one, other).tasks
    assert (task.whole.n, task.whole.first, task.whole.second) == (4, (0 + 1 + 2 + 3) / 16, 0.25)
    assert task.whole.p is None and task.flips[0].first == "1 of 4 answers right"


def test_other_measures_means_over_groups_and_sets(tmp_path):
    spec = {"metric": "f1", "measures": {"f1": "mean"}, "mean": "groups", "sets": {"only a": ["a"], "none": ["z"]}}
    runs = []
    for name, by in (("one", 0.1), ("other", 0.2)):
        records = [record("sums", f"s/{i}", i, scores={"f1": by * (i + 1)}, group="aab"[i]) for i in range(3)]
        records.append(record("sums", "s/9", 9, group="b"))  # no score of that name
        runs.append(make_run(tmp_path / name, {"sums": records}, sums=spec))
    (task,) = compare(*runs).tasks
    assert task.whole.n == 3 and task.flips == ()
    assert (task.whole.first, task.whole.second) == pytest.approx((0.225, 0.45))
    assert list(task.sets) == ["only a"] and task.sets["only a"].value == pytest.approx(0.15)


def test_nothing_in_common_is_an_error(tmp_path):
    one = make_run(tmp_path / "one", {"sums": sums({1})})
    with pytest.raises(RunError, match="sums: no sample in common; compare"):
        compare(one, make_run(tmp_path / "other", {"sums": sums({1}, first=50)}))
    begun = make_run(tmp_path / "begun", {"sums": sums({1})})
    with closing(sqlite3.connect(begun.path / "samples.sqlite")) as database, database:
        database.execute("DELETE FROM samples")
    with pytest.raises(RunError, match=r"sums: no sample is judged yet in .*begun; compare"):
        compare(one, begun)
    with pytest.raises(RunError, match=r"no sample in common \(tasks sums there, riddles here\)"):
        compare(one, make_run(tmp_path / "third", {"riddles": sums({1}, task="riddles")}))


def test_a_metric_of_the_whole_run_is_named_as_the_reason(tmp_path):
    spec = {"metric": "f1", "measures": {"f1": "mean", "acc": "share"}}

    def run(name: str, **tasks):
        alone = [record("whole", "w/0", detail={"whole": {"f1": [0, 1]}}, scores={"acc": 1.0})]
        return make_run(tmp_path / name, {"whole": alone, **tasks}, whole=spec)

    reason = "whole: its samples have no f1 of their own to be paired by"
    with pytest.raises(RunError, match=f"{reason}; compare other") as caught:
        compare(run("one"), run("two"))
    assert "in common" not in str(caught.value)
    found = compare(run("three", sums=sums({1})), run("four", sums=sums({1, 2})))
    assert [task.task for task in found.tasks] == ["sums"] and found.notes == (f"{reason}.",)


def test_names_are_told_apart(tmp_path):
    for parent in "xy":
        (tmp_path / parent).mkdir()
    runs = [make_run(tmp_path / parent / "run", {"sums": sums({1})}) for parent in "xy"]
    assert compare(*runs).second == str(tmp_path / "y" / "run")


# Output


def test_every_format_has_the_same_numbers(two):
    found = [compare(*two)]
    row = shown.rows(found[0], groups=False)
    assert row == [("sums", "20", "50.0", "60.0", "+10.0", row[0][5], "0.73", "5", "3")]
    read = list(csv.DictReader(io.StringIO(shown.as_csv(found))))
    assert [line["part"] for line in read] == ["task", "group", "group"]
    assert (float(read[0]["difference"]), read[0]["gained"]) == (pytest.approx(0.1), "5")
    whole = json.loads(shown.as_json(found))[0]["tasks"][0]
    assert whole["whole"]["difference"] == pytest.approx(0.1) and len(whole["flips"]) == 8
    assert float(read[0]["low"]) == whole["whole"]["low"]
    assert "| sums | 20 | 50.0 | 60.0 | +10.0 |" in shown.as_markdown(found)


def test_the_command_prints_and_writes(two, tmp_path):
    paths = [run.path for run in two]
    done = harness("compare", *paths, paths[0], "--groups", "--flips", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "+10.0" in done.stdout and "sums/14" in done.stdout and "+0.0" in done.stdout
    assert "p is below 0.05 in 0 of 2 groups" in done.stdout
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "&lt;b&gt;14" in page and "<b>14" not in page and "other" in page
    with (tmp_path / "out" / "flips.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file) if row["change"] == "gained"] == [
            f"sums/{i}" for i in range(10, 15)
        ]
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert typed("harness", "compare", *paths, paths[0], "--format", "csv", "--out", tmp_path / "out").returncode == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first


def test_names_of_runs_are_no_markup(tmp_path):
    runs = [make_run(tmp_path / name, {"sums": sums({1})}) for name in ("a_b_", "<i>|x")]
    heading = shown.as_markdown([compare(*runs)]).splitlines()[0]
    assert heading == r"## \<i\>\|x against a\_b\_"


@pytest.mark.parametrize("name", ["md", "csv", "json"])
def test_a_format_is_all_of_standard_output(name, two):
    done = typed("harness", "compare", *(run.path for run in two), "--format", name)
    text = {"md": shown.as_markdown, "csv": shown.as_csv, "json": shown.as_json}[name]([compare(*two)])
    assert (done.returncode, done.stdout) == (0, text)


def test_against_the_report(tmp_path):
    spec = {"report": {"table": "table_2", "column": "GSM8K"}}
    run = make_run(tmp_path / "one", {"sums": sums({1, 2}), "more": [record("more", "m")]}, sums=spec)
    found, left = against(run, *parse("report:table_2:qwen-7b"))
    # the report's Table 2: GSM8K of Qwen 7B is 51.7; 2 of 20 right is 10
    assert [(line.task, line.theirs, line.value) for line in found] == [("sums", 51.7, 10.0)]
    assert left == ["more: Table 2 has no column of this protocol."]
    done = typed("harness", "compare", run.path, "--against", "report:table_2:Qwen-7B")
    assert done.returncode == 0 and "-41.7" in done.stdout and "Not paired" in done.stdout


MISTAKES = {
    "one run": (lambda a, b: [a], "one run alone"),
    "no run": (lambda a, b: [a, "/tmp"], "not a run folder"),
    "wrong format": (lambda a, b: [a, b, "--format", "xml"], "--format: 'xml' is not one of"),
    "wrong table": (lambda a, b: [a, "--against", "report:table_99:Qwen-7B"], "no 'table_99'"),
    "wrong model": (lambda a, b: [a, "--against", "report:table_2:Qwen-9B"], "has no model 'Qwen-9B'; it has MPT 7B"),
    "not the report": (lambda a, b: [a, "--against", "paper"], "is not report:TABLE:MODEL"),
    "no column": (lambda a, b: [a, "--against", "report:table_2:Qwen-7B"], "nothing to compare"),
    "flips of the report": (lambda a, b: [a, "--against", "report:table_2:Qwen-7B", "--flips"], "has no samples"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(mistake, two):
    arguments, message = MISTAKES[mistake]
    done = typed("harness", "compare", *arguments(*(run.path for run in two)))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
