"""Ways to break `qwen-train data`: each ends in one clear line, or is counted and the rest is done."""

from __future__ import annotations

import errno
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from filelock import FileLock

from harness import corpus as corpora
from qwen_train.data import files, pipeline, scores
from qwen_train.data import read as reading
from tests.commands import typed
from tests.qwen_train.data.corpora import prose, rows_of, write_jsonl


class Command:
    """`qwen-train data` in this process."""

    def __init__(self, folder: Path) -> None:
        self.corpus, self.out = folder / "corpus", folder / "out"
        self.corpus.mkdir()

    def __call__(self, *more: str, code: int = 0) -> str:
        """What it says, of which errors are one line."""
        done = typed("qwen-train", "data", "--corpus", self.corpus, "--out", self.out, *more)
        assert done.returncode == code, done
        if code:
            lines = [line for line in done.stderr.splitlines() if line.startswith("qwen-train: ")]
            assert len(lines) == 1 and "Traceback" not in done.stderr
            return lines[0]
        return done.stdout + done.stderr


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def good(command: Command, count: int = 3, name: str = "good.jsonl") -> Path:
    return write_jsonl(command.corpus / name, [{"id": str(n), "text": prose(n)} for n in range(count)])


def test_an_empty_folder(command: Command) -> None:
    assert "no file that is read; put .jsonl" in command(code=2)


def test_no_such_corpus(command: Command) -> None:
    command.corpus.rmdir()
    assert "no such file or folder" in command(code=2)


def test_files_of_no_length(command: Command) -> None:
    for name in ("a.jsonl", "b.txt", "c.py"):
        (command.corpus / name).touch()
    assert "no document was left of 0" in command(code=2)
    good(command)
    command.out = command.out.with_name("second")
    command()
    assert len(rows_of(command.out, "documents")) == 3


def test_nothing_but_bad_lines(command: Command) -> None:
    (command.corpus / "bad.jsonl").write_text("{\n" * 50)
    assert "no document was left of 0; corpus/bad.jsonl:1: not JSON" in command(code=2)
    assert len(rows_of(command.out, "quarantine")) == 50


def test_another_name_of_the_text(command: Command) -> None:
    write_jsonl(command.corpus / "a.jsonl", [{"body": prose(1)}])
    assert "no field 'text'" in command(code=2)
    settings = command.corpus.with_name("data.yaml")
    settings.write_text("text_field: body")
    assert 'was begun with text_field = "text", now it is "body"' in command("--config", str(settings), code=2)
    command.out = command.out.with_name("second")
    command("--config", str(settings))


def test_a_line_longer_than_memory_should_hold(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "LONGEST_LINE", 1 << 20)
    path = good(command)
    with path.open("a") as file:
        file.write(
            json.dumps({"text": "word " * 500_000}) + "\n" + json.dumps({"id": "after", "text": prose(9)}) + "\n"
        )
    command()
    bad = rows_of(command.out, "quarantine")
    assert [(row["line"], row["why"]) for row in bad] == [(4, "longer than 1 MB")]
    assert {row["id"] for row in rows_of(command.out, "documents")} == {"0", "1", "2", "after"}


def test_a_giant_text_file_is_cut_between_lines(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PIECE", 5000)
    text = "\n".join(prose(seed) for seed in range(100))
    (command.corpus / "giant.txt").write_text(text)
    command()
    documents = rows_of(command.out, "documents")
    assert len(documents) > 10 and "\n".join(row["text"] for row in documents) == text
    assert [row["id"] for row in documents][:2] == ["corpus/giant.txt", "corpus/giant.txt#2"]


def test_invalid_utf8_in_a_text_file(command: Command) -> None:
    (command.corpus / "a.txt").write_bytes(prose(1).encode() + b" \xff\xfe " + prose(2).encode())
    assert "1 bad lines" in command()
    assert "\ufffd\ufffd" in rows_of(command.out, "documents")[0]["text"]


def test_surrogates_controls_and_nested_json(command: Command) -> None:
    path = good(command)
    with path.open("a") as file:
        file.write(
            json.dumps({"id": "s\ud800", "text": prose(7) + " \ud800\x00\x1b[31m"}) + "\n" + "[" * 100_000 + "\n"
        )
    command()
    rows = {row["id"]: row for row in rows_of(command.out, "documents")}
    assert rows["s\ud800"]["text"].endswith(" \ufffd[31m")
    assert [row["line"] for row in rows_of(command.out, "quarantine")] == [5]


@pytest.mark.parametrize("name", ["cut.jsonl.gz", "cut.jsonl.zst", "cut.parquet", "no.parquet"])
def test_a_damaged_file_is_named_and_the_rest_is_done(command: Command, name: str) -> None:
    good(command)
    lines = "".join(json.dumps({"id": f"c{n}", "text": prose(100 + n, 5000)}) + "\n" for n in range(20)).encode()
    path = command.corpus / name
    if name.endswith(".gz"):
        content = gzip.compress(lines)
    elif name.endswith(".zst"):
        content = pyarrow.Codec("zstd").compress(lines, asbytes=True)
    elif name == "cut.parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": [prose(1)]}), path)
        content = path.read_bytes()
    else:
        content = b"no parquet at all, but of some length"
    path.write_bytes(content[: len(content) * 2 // 3])
    said = command()
    bad = rows_of(command.out, "quarantine")
    assert [row["file"] for row in bad] == [f"corpus/{name}"] and "damaged" in bad[0]["why"] and name in said
    assert {"0", "1", "2"} <= {row["id"] for row in rows_of(command.out, "documents")}


def test_compressed_and_parquet_files_are_read(command: Command) -> None:
    with gzip.open(command.corpus / "a.jsonl.gz", "wt") as file:
        file.write(json.dumps({"id": "gz", "text": prose(1)}) + "\n")
    with files.new_lines(command.corpus / "b.jsonl.zst") as out:
        out.write({"id": "zst", "text": prose(2)})
    table = pyarrow.table({"id": [1], "text": [prose(3)], "source": ["books"], "more": [[1, 2]]})
    pyarrow.parquet.write_table(table, command.corpus / "c.parquet")
    with gzip.open(command.corpus / "d.txt.gz", "wt") as file:
        file.write(prose(4))
    command()
    rows = {row["id"]: row["source"] for row in rows_of(command.out, "documents")}
    assert rows == {"gz": "a", "zst": "b", "1": "books", "corpus/d.txt.gz": "corpus"}


def test_a_full_disk(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    good(command)
    calls = []

    def fsync(descriptor: int, real: Any = os.fsync) -> None:
        calls.append(descriptor)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    assert "No space left on device; check space and permissions" in command(code=2)
    assert not list(command.out.rglob("*.partial")) and not (command.out / "report.json").exists()
    command()
    assert len(rows_of(command.out, "documents")) == 3


def test_the_corpus_changed_between_two_halves(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    path = good(command)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "summary", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            command()
    with path.open("a") as file:
        file.write(json.dumps({"text": prose(8)}) + "\n")
    assert "was begun with other documents (files differs)" in command(code=2)


def test_a_finished_folder_stays_whatever_became_of_what_was_read(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = good(command, 12)
    settings = command.corpus.with_name("data.yaml")
    settings.write_text(f"quality: {{good: {path}, bad: {path}, least: 0}}")
    command("--config", str(settings))
    report = (command.out / "report.json").read_bytes()
    path.unlink()
    monkeypatch.setattr(scores, "train_quality", lambda *_: 1 / 0)
    (command.out / "work").mkdir()  # stopped before it was removed
    command("--config", str(settings))
    assert not (command.out / "work").exists()
    command.corpus = command.corpus.with_name("other")
    assert "is finished, of other documents; give another --out" in command("--config", str(settings), code=2)
    assert (command.out / "report.json").read_bytes() == report
    assert "was begun with quality = " in command(code=2)
    (command.out / "spec.json").unlink()
    assert "its spec.json is something else's" in command(code=2)


def test_a_large_corpus_shows_every_long_stage(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    good(command, 40)
    monkeypatch.setattr(pipeline, "QUIET_BYTES", 1000)
    monkeypatch.setattr(pipeline.duplicates, "ENTRIES", 7)
    said = command("--processes", "1")
    for stage in ("cleaning", "exact copies", "near copies", "writing"):
        assert f"{stage}: " in said


def test_two_at_once_in_one_folder(command: Command) -> None:
    good(command)
    command.out.mkdir()
    with FileLock(command.out / ".lock"):
        assert "another process is at work there" in command(code=2)


def test_a_damaged_file_of_its_own(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    good(command)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.duplicates, "resolve", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            command()
    path = command.out / "work" / "000000.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-20])
    assert "work/000000.jsonl.zst: damaged" in command(code=2)


def test_every_document_dropped(command: Command) -> None:
    write_jsonl(command.corpus / "a.jsonl", [{"text": "short"}] * 3)
    assert "no document was left of 3" in command(code=2)
    assert {row["fate"] for row in rows_of(command.out, "fates")} == {"rule: few words"}


def test_equal_ids_and_odd_names(command: Command) -> None:
    write_jsonl(command.corpus / "a\n<b>.jsonl", [{"id": "same", "text": prose(n)} for n in range(20)])
    (Path(os.fsdecode(os.fsencode(command.corpus) + b"/\xff.txt"))).write_text(prose(30))
    command()
    assert len(rows_of(command.out, "documents")) == 21
    assert "<b>.jsonl" not in (command.out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("langages: [en]", "langages: no such field; did you mean languages"),
        ("rules: {few word: 3}", "rules: 'few word' is none of few words,"),
        ("near: {bands: 7}", "near: 128 permutations are not whole bands of 7"),
        ("near: {threshold: 80}", "near.threshold: Input should be less than or equal to 1"),
        ("mask: [email, name]", "mask: 'name' is none of"),
        ("quality: {good: a}", "quality.bad: Field required"),
        ("- a list", "not a table of settings"),
        ("a: [", "not YAML"),
        ("decontaminate: {tasks: [gsm9k]}", "gsm9k"),
        ("quality: {good: /nowhere, bad: /nowhere}", "/nowhere: no such file or folder"),
        ("perplexity: {model: nowhere, most: 100}", "nowhere"),
    ],
)
def test_mistakes_in_the_settings(command: Command, content: str, said: str) -> None:
    good(command)
    settings = command.corpus.with_name("data.yaml")
    settings.write_text(content)
    assert said in command("--config", str(settings), code=2)


def test_a_source_that_is_not_there_is_said(command: Command) -> None:
    good(command)
    settings = command.corpus.with_name("data.yaml")
    settings.write_text("repeat: {goods: 2}")
    assert "no document of the source 'goods', which the settings name; there are good" in command(
        "--config", str(settings)
    )


def test_help_answers_at_once_and_names_an_example(command: Command) -> None:
    assert "Example: qwen-train data" in " ".join(command("--help").split())
