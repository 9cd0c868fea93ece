"""Reading a corpus of every kind, damaged ones too, and `harness contamination` from command to page."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from harness import corpus, overlap
from harness.corpus import Tally, documents, parts
from tasks.api import TaskError
from tests.commands import harness, typed
from tests.harness.worded import Worded

TASK = str(Path(__file__).parent / "worded.py") + ":Worded"
QUESTIONS = [sample.fields["question"] for sample in Worded().samples(None)]
ROWS = [{"id": f"d{i}", "text": f"Zeile {i} …", "n": i} for i in range(40)]


def read(path: Path, name: str = "text") -> tuple[list[tuple[str | None, str]], Tally]:
    """All documents of a path, and what reading came to."""
    total, found = Tally(), []
    for part in parts(path):
        tally = Tally()
        found += [(key.id, text) for key, text in documents(part, name, 13, tally)]
        total.lines += tally.lines
        total.documents += tally.documents
        total.bad += tally.bad
        total.named += tally.named
        total.broken = total.broken or tally.broken
    return found, total


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_every_kind_of_rows_gives_the_same_documents(kind, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif kind == "jsonl.zst":
        with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
            file.write(lines(ROWS))
    else:
        path.write_bytes(gzip.compress(lines(ROWS)) if kind.endswith("gz") else lines(ROWS))
    found, tally = read(path)
    assert found == [(row["id"], row["text"]) for row in ROWS]
    assert (tally.documents, tally.lines, tally.bad, tally.broken) == (40, 40, 0, None)


@pytest.mark.parametrize("step", [1, 7, 31, 32, 33, 100, 10_000])
@pytest.mark.parametrize("last", [b"", b"\n", b'{"text": "no line end"}'])
def test_parts_hold_every_line_once(step, last, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PART", step)
    (tmp_path / "rows.jsonl").write_bytes(lines(ROWS) + last)
    found, tally = read(tmp_path)
    assert [text for _, text in found] == [row["text"] for row in ROWS] + ["no line end"] * last.startswith(b"{")
    assert tally.lines == 40 + bool(last)


@pytest.mark.parametrize("kind", ["txt", "txt.gz"])
def test_a_text_file_is_one_document(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 50)
    content = (" ".join(QUESTIONS) + " … é").encode()
    (tmp_path / f"book.{kind}").write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    found, tally = read(tmp_path)
    assert len(found) > 10 and tally.documents == 1 and tally.bad == 0
    items = overlap.items([TASK], None, ["question"])
    (*some, short), total = overlap.search(items, tmp_path, name="text", n=13, share=0.8)
    assert all((one.share, one.documents, one.line) == (1, 1, 1) for one in some) and short.flag == "too short"
    assert total.documents == 1 and total.characters == len(content.decode())


def test_bad_lines_are_counted_and_named_and_the_others_read(tmp_path):
    bad = [b"{", b"[1]", b'{"texts": 1}', b'{"text": 3}', b'{"text": null}', b'{"text": "\xff"}', b"", b"  "]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([b'{"text": "a"}', *bad, b'{"text": "b"}']))
    found, tally = read(tmp_path)
    assert [text for _, text in found] == ["a", "b"]
    assert tally.bad == 6 and tally.lines == 10
    whys = ["not JSON", "not a JSON object", "no field 'text'", "is not text", "is not text", "not UTF-8 at byte 10"]
    assert [line for line, _ in tally.named] == [2, 3, 4, 5, 6, 7]
    assert all(why in said for why, (_, said) in zip(whys, tally.named, strict=True))


def test_rows_of_parquet_that_are_not_utf8_are_counted(tmp_path):
    import pyarrow.parquet

    texts = pyarrow.array([b"a", b"\xff", b"b"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "rows.parquet")
    found, tally = read(tmp_path)
    assert [text for _, text in found] == ["a", "b"]
    assert (tally.lines, tally.bad, tally.named) == (3, 1, [(2, "text that is not UTF-8")])


def test_damaged_files_are_read_as_far_as_they_go(tmp_path):
    whole = gzip.compress(lines(ROWS * 50))
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9 " + QUESTIONS[0].encode() + b" \xc3")
    (tmp_path / "d.jsonl.zst").write_bytes(b"nothing of the kind")
    (tmp_path / "e.md").write_text("not read")
    items = overlap.items([TASK], None, ["question"])
    found, total = overlap.search(items, tmp_path, name="text", n=13, share=0.8)
    assert (found[0].flag, found[0].file) == ("contaminated", "c.txt")
    assert total.files == 4 and total.bad == 4 and total.documents > 100
    for name, why in (
        ("a.jsonl.gz", "damaged"),
        ("b.parquet", "damaged"),
        ("c.txt:1", "UTF-8"),
        ("d.jsonl.zst", "dam"),
    ):
        assert any(line.startswith(name) and why in line for line in total.named), (name, total.named)


def test_lines_are_numbered_through_the_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PART", 100)
    monkeypatch.setattr(corpus, "NAMED", 1)
    rows = lines(ROWS) + b"{\n" + json.dumps({"id": 7, "text": QUESTIONS[3]}).encode() + b"\n"
    (tmp_path / "rows.jsonl").write_bytes(rows)
    items = overlap.items([TASK], None, ["question"])
    found, total = overlap.search(items, tmp_path, name="text", n=13, share=0.8)
    assert (found[3].line, found[3].document, found[3].file) == (42, "7", "rows.jsonl")
    assert total.named[0].startswith("rows.jsonl:41: not JSON")


def test_what_is_looked_for():
    whole = overlap.items([TASK], None, [])
    assert whole[0].text == QUESTIONS[0] + "\nfirst of these\nsecond", "no label, no group, no gold letter"
    assert overlap.items([TASK], None, ["gold", "kind"])[1].text == "A\nkind 1"
    with pytest.raises(TaskError, match=r"--fields: 'answer' is no field .* it has question, choices, kind, gold"):
        overlap.items([TASK], None, ["answer"])


def big_corpus(folder: Path) -> None:
    folder.mkdir()
    noise = " ".join(f"noise{number}" for number in range(300))
    for file in "abc":
        rows = [{"text": f"{noise} {file} {line}"} for line in range(300)]
        rows[40] = {"id": f"{file}40", "text": f"{noise} {QUESTIONS[0].upper()}! {noise}"}
        rows[80] = {"text": " ".join(QUESTIONS[1].split()[:20])}
        rows[290] = {"text": QUESTIONS[2] + " first of these second"}
        (folder / f"{file}.jsonl").write_bytes(lines(rows) + b"oops\n")


def test_the_number_of_processes_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PART", 100_000)
    big_corpus(tmp_path / "texts")
    for processes in (1, 2):
        done = overlap.search(
            overlap.items([TASK], None, []), tmp_path / "texts", name="text", n=13, share=0.8, processes=processes
        )
        overlap.write(tmp_path / str(processes), *done, {"n": 13})
    names = ("items.csv", "items.jsonl", "contamination.json")
    for name in names:
        assert len({(tmp_path / str(processes) / name).read_bytes() for processes in (1, 2)}) == 1
    with (tmp_path / "1" / "items.csv").open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert [rows[f"worded/{i}"]["flag"] for i in range(7)] == [
        *("contaminated", "overlap", "contaminated", "clean", "clean", "clean", "clean"),
    ]
    # 30 words of the question and 4 of the choices
    assert (rows["worded/1"]["found"], rows["worded/1"]["grams"], rows["worded/1"]["documents"]) == ("8", "22", "3")
    assert (rows["worded/0"]["file"], rows["worded/0"]["line"]) == ("a.jsonl", "41")
    assert rows["worded/0"]["matched"] == QUESTIONS[0].upper()


def test_a_search_prints_its_counts_and_writes_a_page(tmp_path):
    big_corpus(tmp_path / "texts")
    (tmp_path / "texts" / "d.jsonl").write_bytes(lines([{"text": f"<script>x</script> {QUESTIONS[4]} <b>"}]))
    arguments = ("--corpus", tmp_path / "texts", "--fields", "question", "--out", tmp_path / "out")
    done = harness("contamination", "--task", TASK, *arguments)
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "worded" in line).split()
    assert row == ["worded", "7", "1", "4", "66.67", "3", "50.00"]
    assert "901 documents" in done.stdout and "3 lines not read" in done.stdout
    assert "a.jsonl:301: not JSON" in done.stderr
    page = (tmp_path / "out" / "contamination.html").read_text()
    assert "worded/4" in page and QUESTIONS[4] in page and "<b>" not in page and "<script" not in page
    assert "a.jsonl:301: not JSON" in page


MISTAKES = {
    "no corpus": (lambda t: ["--corpus", t / "none"], "none: no such file or folder"),
    "an empty folder": (lambda t: ["--corpus", t], "no file that is read"),
    "another kind": (lambda t: ["--corpus", __file__], "not a kind of file"),
    "no such field": (lambda t: ["--corpus", t / "a.jsonl", "--field", "body"], "a.jsonl:1: no field 'body'"),
    "no such item field": (lambda t: ["--corpus", t / "a.jsonl", "--fields", "x"], "'x' is no field"),
    "small n": (lambda t: ["--corpus", t / "a.jsonl", "--n", 3], "--n: 3"),
    "wrong share": (lambda t: ["--corpus", t / "a.jsonl", "--share", 80], "--share: 80"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(mistake, tmp_path):
    arguments, message = MISTAKES[mistake]
    if "folder" not in mistake:
        (tmp_path / "a.jsonl").write_bytes(lines(ROWS))
    done = typed("harness", "contamination", "--task", TASK, *arguments(tmp_path), "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    lines_said = [line for line in done.stderr.splitlines() if not line.startswith("scanning")]
    assert len(lines_said) == 1 and message in lines_said[0]
