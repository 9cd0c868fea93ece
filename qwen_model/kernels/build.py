"""The C++ kernels as a loaded library: compiled once for this processor, kept in the cache folder."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from qwen_model.download import cache_dir

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-std=c++20", "-O3", "-march=native", "-fPIC", "-shared", "-pthread", "-fopenmp")
_DIGEST = hashlib.sha256().digest_size


class Unavailable(Exception):
    """The kernels cannot be used here. The message says why, in one line."""


def load(flags: Sequence[str] = FLAGS) -> ctypes.CDLL:
    """The compiled kernels, compiled now if they are not in the cache. Raises Unavailable."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise Unavailable(f"they are for Linux on x86-64 or aarch64, this is {platform.system()} {platform.machine()}")
    compiler = _compiler()
    path = cache_dir() / "kernels" / f"{_fingerprint(compiler, flags)}.so"
    if not _intact(path):
        _compile(compiler, flags, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} does not load: {error}") from None


def _compiler() -> str:
    asked = os.environ.get("CXX")
    found = shutil.which(asked) if asked else shutil.which("g++") or shutil.which("c++")
    if found is None:
        raise Unavailable(f"no C++ compiler: {f'$CXX is {asked}' if asked else 'neither g++ nor c++ is in $PATH'}")
    return found


def _fingerprint(compiler: str, flags: Sequence[str]) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    wanted = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    processor = [line for line in first if line.startswith(wanted)]
    sources = [file.read_text() for file in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    parts = [*sources, *flags, *_torch_openmp(), compiler, version, *processor]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _intact(path: Path) -> bool:
    """Whether a file of ours is there and whole: behind the library stands its own SHA-256."""
    if not path.is_file():
        return False
    data = path.read_bytes()
    return hashlib.sha256(data[:-_DIGEST]).digest() == data[-_DIGEST:]


def _compile(compiler: str, flags: Sequence[str], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder, "kernels.so")
            # torch's OpenMP runtime, by its file: the system's would bring threads of its own, which fight with torch's
            _run([compiler, *flags, str(SOURCE), "-Wl,--as-needed", *_torch_openmp(), "-o", str(made)])
            data = made.read_bytes()
            made.write_bytes(data + hashlib.sha256(data).digest())
            made.replace(path)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from None


def _torch_openmp() -> list[str]:
    home = Path(torch.__file__).parent
    return [str(file) for folder in (home / "lib", home.with_name("torch.libs")) for file in folder.glob("libgomp*")]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        said = next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
        raise Unavailable(f"compiling with {command[0]} failed: {said}")
