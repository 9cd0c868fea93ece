"""datatrove's local executor gives the files that `qwen-train data` gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import corpus as corpora
from qwen_train.data import read as reading
from qwen_train.data.config import DataConfig
from qwen_train.data.pipeline import run
from tests.qwen_train.data.corpora import prose, write_jsonl

pytest.importorskip("datatrove", reason="datatrove is not installed: pip install qwen-harness[cluster]")


def test_equal_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen_train.data.cluster import executors

    monkeypatch.setattr(reading, "PART", 5000)
    monkeypatch.setattr(corpora, "PART", 5000)  # several shards
    rows = [{"id": str(n), "text": prose(n % 20) + ("" if n < 20 else " more of it") * (n % 3)} for n in range(40)]
    corpus = write_jsonl(tmp_path / "a.jsonl", rows)
    run(DataConfig(), [corpus], tmp_path / "ours", processes=1)
    executors(DataConfig(), [corpus], tmp_path / "theirs", tasks=3, workers=1)[-1].run()
    for what in ("documents", "fates", "quarantine"):
        ours, theirs = (sorted((tmp_path / side / what).iterdir()) for side in ("ours", "theirs"))
        assert len(ours) > 2 and [path.name for path in ours] == [path.name for path in theirs]
        assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]
    assert (tmp_path / "ours" / "report.json").read_bytes() == (tmp_path / "theirs" / "report.json").read_bytes()
    assert not (tmp_path / "theirs" / "work").exists()
