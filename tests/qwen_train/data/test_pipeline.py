"""`qwen-train data` from the outside: what comes out of small corpora, whatever interrupts it."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest

from harness import corpus as corpora
from qwen_train.data import clean as cleaning
from qwen_train.data import duplicates
from qwen_train.data import read as reading
from qwen_train.data.config import DataConfig
from qwen_train.data.pipeline import run
from tests.qwen_train.data.corpora import prose, rows_of, write_jsonl


def content(out: Path) -> dict[str, bytes]:
    """All files of a finished run."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of everything: copies, near copies, short texts, code, HTML, bad lines, several kinds of files."""
    folder = tmp_path_factory.mktemp("corpus")
    rows: list[dict[str, object]] = [{"id": f"p{n}", "text": prose(n), "source": "web"} for n in range(40)]
    rows += [{"id": "copy", "text": "  " + prose(3).upper().replace("\n", "\r\n")}]
    rows += [{"id": "near", "text": prose(5) + " and a few words more"}, {"id": "short", "text": "too short"}]
    write_jsonl(folder / "a.jsonl", rows)
    with (folder / "a.jsonl").open("ab") as file:
        file.write(b"{not json}\n" + b'{"text": "\xff"}\n' + b'{"txt": "no text"}\n' + b"[1]\n" + b"\n")
    (folder / "code.py").write_text(
        "import os\n\n\ndef main() -> None:\n    for name in os.listdir('.'):\n        print(name)\n" * 3
    )
    (folder / "page.html").write_text(
        "<html><body><nav><a href='/'>menu menu</a></nav><article>"
        f"<p>{prose(50)}</p><p>{prose(51)}</p></article></body></html>"
    )
    (folder / "notes.md").write_text(prose(60))
    return folder


def test_every_document_has_a_fate(corpus: Path, tmp_path: Path) -> None:
    whole = run(DataConfig(), [corpus], tmp_path / "out")
    fates = rows_of(tmp_path / "out", "fates")
    by_id = {row["id"]: row for row in fates}
    assert len(fates) == whole["documents"] == 46
    assert by_id["copy"]["fate"] == "exact copy" and by_id["copy"]["of"].endswith("a.jsonl:4")
    # of near copies the longer one stays
    assert (
        by_id["near"]["fate"] == "kept"
        and by_id["p5"]["fate"] == "near copy"
        and by_id["p5"]["of"].endswith("a.jsonl:42")
    )
    assert by_id["short"]["fate"] == "rule: few words" and by_id["short"]["line"] == 43
    kept = {row["id"] for row in fates if row["fate"] == "kept"}
    documents = rows_of(tmp_path / "out", "documents")
    assert {row["id"] for row in documents} == kept and len(documents) == 43
    page = next(row for row in documents if str(row["id"]).endswith("page.html"))
    assert "menu" not in page["text"] and prose(50).split()[0] in page["text"]
    assert next(row for row in documents if str(row["id"]).endswith("code.py"))["kind"] == "code"
    assert sum(row["documents"] for row in whole["fates"]) == whole["documents"]


def test_bad_lines_are_kept_with_file_and_line(corpus: Path, tmp_path: Path) -> None:
    whole = run(DataConfig(), [corpus], tmp_path / "out")
    bad = rows_of(tmp_path / "out", "quarantine")
    assert [(str(row["file"]).rpartition("/")[2], row["line"]) for row in bad] == [
        ("a.jsonl", line) for line in (44, 45, 46, 47)
    ]
    assert bad[0]["content"] == "{not json}\n" and whole["bad"]["lines"] == 4
    assert "not UTF-8" in str(bad[1]["why"]) and "no field 'text'" in str(bad[2]["why"])


def test_the_number_of_processes_changes_nothing(corpus: Path, tmp_path: Path) -> None:
    run(DataConfig(), [corpus], tmp_path / "one", processes=1)
    run(DataConfig(), [corpus], tmp_path / "two", processes=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def killed_run(corpus: Path, out: Path, when: Callable[[], bool]) -> None:
    """A run in a process of its own that is killed, without notice, as soon as `when()`."""
    child = os.fork()
    if not child:
        with redirect_stderr(io.StringIO()):
            run(DataConfig(), [corpus], out, processes=1)
        os._exit(0)
    while not when() and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.0005)
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_killed_at_any_moment_the_same_command_goes_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PART", 3000)
    monkeypatch.setattr(corpora, "PART", 3000)  # many shards
    monkeypatch.setattr(cleaning, "RUN", 3)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(DataConfig(), [corpus], whole, processes=1)
    assert len(list((whole / "documents").iterdir())) > 5
    stages = ("work/000000.json", "work/000003.jsonl.zst.partial", "work/first.npy", "work/near-3-0.npy")
    for stage in (*stages, "work/fates.npy", "documents/000002.jsonl.zst", "report.json"):
        killed_run(corpus, killed, (killed / stage).exists)
    for seed in range(5):
        end = time.monotonic() + random.Random(seed).uniform(0, 0.3)
        killed_run(corpus, tmp_path / "again", lambda end=end: time.monotonic() > end)
    for out in (killed, tmp_path / "again"):
        run(DataConfig(), [corpus], out, processes=1)
        assert content(out) == content(whole)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """Four times the documents, 16 MB more text and 10 MB more of arrays: at most 4 MB more at the peak."""
    peaks = []
    for count in (2_000, 8_000):
        rows = [{"id": str(n), "text": prose(n, 400)} for n in range(count)]
        corpus = write_jsonl(tmp_path / f"{count}.jsonl", rows)
        del rows
        process = subprocess.run(
            [sys.executable, "-c", MEASURED, str(corpus), str(tmp_path / f"out{count}")],
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
        )
        peaks.append(int(process.stdout))
    assert peaks[1] - peaks[0] < 4_000, peaks


MEASURED = """
import sys
from pathlib import Path
from harness import corpus
from qwen_train.data import clean, duplicates, read
from qwen_train.data.config import DataConfig
from qwen_train.data.pipeline import run
read.PART = corpus.PART = 1 << 20
clean.RUN, duplicates.ENTRIES = 256, 1 << 10
run(DataConfig(), [Path(sys.argv[1])], Path(sys.argv[2]), processes=1)
# not ru_maxrss: a process inherits it from the one that started it
print(next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM:")))
"""


def test_the_size_of_shards_and_runs_changes_no_document(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(DataConfig(), [corpus], tmp_path / "large")
    monkeypatch.setattr(reading, "PART", 3000)
    monkeypatch.setattr(corpora, "PART", 3000)
    monkeypatch.setattr(cleaning, "RUN", 3)
    monkeypatch.setattr(duplicates, "ENTRIES", 7)  # keys in several ranges
    run(DataConfig(), [corpus], tmp_path / "small")
    for what in ("documents", "fates", "quarantine"):
        assert rows_of(tmp_path / "large", what) == rows_of(tmp_path / "small", what)
