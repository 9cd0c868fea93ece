"""An empty cache, no data folder, and a hub that does not answer: no test here leaves the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import data


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(data, "hub_problem", lambda: "unplugged")
    return tmp_path / "cache"
