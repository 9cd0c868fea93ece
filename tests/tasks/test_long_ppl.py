from __future__ import annotations

import json
import math

import pytest

from tasks.api import Options, Rolled, TaskError
from tasks.documents import read_documents
from tasks.long_ppl import BIN, LongPPL
from tests.tasks.scripted import judge


class Rolls:
    """Every token at position p (from 0) costs p nats."""

    def __init__(self):
        self.asked = []

    async def rolling(self, text, *, length=None, stride=None, begin=False):
        self.asked.append((text, length, stride, begin))
        return Rolled(logprobs=tuple(-float(place) for place in range(1, length)), tokens=5000)


def task_with(tmp_path, texts, **options):
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()))
    return LongPPL(Options(documents=path, **options))


def test_a_sample_for_each_document_and_length(tmp_path):
    task = task_with(tmp_path, {"a": "x", "b": "y"}, lengths=(8, 4))
    samples = task.samples(None)
    assert [sample.id for sample in samples] == ["long-ppl/a/4", "long-ppl/a/8", "long-ppl/b/4", "long-ppl/b/8"]
    assert [sample.group for sample in samples] == ["4", "8", "4", "8"]
    assert task.prompt(samples[2]) == "y"


def test_documents_that_are_too_short_for_the_greatest_length_are_named(tmp_path):
    task = task_with(tmp_path, {"short": "x" * 7, "just": "y" * 8}, lengths=(4, 8))
    fitting, lines = task.fit(task.samples(None), len)
    assert [sample.id for sample in fitting] == ["long-ppl/just/4", "long-ppl/just/8"]
    assert lines == ["short left out: 7 of 8 tokens"]
    task = task_with(tmp_path, {"short": "x" * 7, "just": "y" * 8}, lengths=(9,))
    samples = task.samples(None)
    with pytest.raises(TaskError, match="the longest has 8 tokens and --lengths asks for 9"):
        task.fit(samples, len)


def test_verdict_by_hand(tmp_path):
    task, model = task_with(tmp_path, {"a": "text"}, lengths=(600,), stride=50), Rolls()
    verdict = judge(task, task.samples(None)[0], model)
    assert model.asked == [("text", 600, 50, False)]
    assert verdict.scores == {"perplexity": 300.0}  # the mean of 1 .. 599
    assert verdict.detail["judged"] == 599
    # positions 1 .. 255, 256 .. 511, 512 .. 599
    assert (BIN, verdict.detail["losses"]) == (256, [128.0, 383.5, 555.5])


def test_the_mean_of_the_bins_is_the_loss(tmp_path):
    task = task_with(tmp_path, {"a": "text"}, lengths=(BIN, BIN + 1, 2 * BIN))
    for sample in task.samples(None):
        verdict = judge(task, sample, Rolls())
        judged, losses = verdict.detail["judged"], verdict.detail["losses"]
        sizes = [BIN - 1] + [BIN] * (len(losses) - 2) + [judged - (BIN - 1) - BIN * (len(losses) - 2)]
        if len(losses) == 1:
            sizes = [judged]
        total = math.fsum(size * loss for size, loss in zip(sizes, losses, strict=True))
        assert total / judged == pytest.approx(verdict.scores["perplexity"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": (1, 8)}, "--lengths: 1 tokens have no token to judge"),
        ({"lengths": (8, 8)}, "--lengths: one is named twice"),
        ({"lengths": (4, 8), "stride": 4}, "--stride: 4 is not from 1 to 3"),
        ({"lengths": (4,), "stride": 0}, "--stride: 0 is not from 1 to 3"),
    ],
)
def test_impossible_options(tmp_path, options, message):
    with pytest.raises(TaskError, match=message):
        task_with(tmp_path, {"a": "x"}, **options).samples(None)


def test_without_documents_it_says_what_to_give():
    with pytest.raises(TaskError, match=r"give --documents FOLDER with \.txt files, or a \.jsonl file"):
        LongPPL().samples(None)


def test_documents_of_a_folder_and_of_a_file(tmp_path):
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a.txt").write_text("\ufeffone", encoding="utf-8")
    (tmp_path / "c.md").write_text("no")
    assert read_documents(tmp_path) == {"a": "one", "b": "two"}
    file = tmp_path / "d.jsonl"
    file.write_text(r'{"text": "x\ud83d", "id": 7}' + "\n\n" + '{"text": "y"}\n')
    assert read_documents(file) == {"7": "x\ufffd", "3": "y"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", '{"text": "x"}\nno', "d.jsonl:2: not JSON"),
        ("d.jsonl", '{"body": "x"}', "d.jsonl:1: no field 'text'"),
        ("d.jsonl", "[]", "d.jsonl:1: no field 'text'"),
        ("d.jsonl", '{"text": "x", "id": [1]}', "d.jsonl:1: field 'id' is"),
        ("d.jsonl", '{"text": "x", "id": "2"}\n{"text": "y"}', "d.jsonl:2: a second document is called '2'"),
        ("d.jsonl", "\n", "no document there"),
        ("d.csv", "text", "neither a folder of .txt files nor a .jsonl file"),
    ],
)
def test_bad_documents_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(TaskError, match=message) as error:
        read_documents(tmp_path / name)
    assert "\n" not in str(error.value)


def test_an_empty_folder_and_a_missing_file(tmp_path):
    with pytest.raises(TaskError, match="no document there"):
        read_documents(tmp_path)
    with pytest.raises(TaskError, match="cannot be read"):
        read_documents(tmp_path / "x.jsonl")
