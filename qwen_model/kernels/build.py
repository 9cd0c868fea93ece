"""The C++ kernels as a loaded library: compiled once for this processor, kept in the cache folder.

The library must use the OpenMP runtime of torch: two runtimes would each start a thread per core. So it is linked
against the very file that torch has loaded, and refused if loading it brings in another.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from qwen_model.download import cache_dir

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC")
_DIGEST = hashlib.sha256().digest_size


class Unavailable(Exception):
    """The kernels cannot be used here. The message says why, in one line."""


def load(flags: Sequence[str] = FLAGS) -> ctypes.CDLL:
    """The compiled kernels, compiled now if they are not in the cache. Raises Unavailable."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise Unavailable(f"they are for Linux on x86-64 or aarch64, this is {platform.system()} {platform.machine()}")
    runtime = _torch_openmp()
    compiler = _compiler()
    path = cache_dir() / "kernels" / f"{_fingerprint(compiler, runtime, flags)}.so"
    if not _intact(path):
        _compile(compiler, runtime, flags, path)
    before = _openmp_loaded()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} does not load: {error}") from None
    if _openmp_loaded() != before:
        raise Unavailable(f"{path} brought a second OpenMP runtime besides {runtime}")
    return library


def _openmp_loaded() -> set[Path]:
    """Files of OpenMP runtimes mapped into this process."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    files = {Path(line.split(maxsplit=5)[5]) for line in maps if line.count("/")}
    return {file for file in files if re.match(r"lib(gomp|omp|iomp5)\b", file.name)}


def _torch_openmp() -> Path:
    home = Path(torch.__file__).resolve().parent
    loaded = _openmp_loaded()
    # another package may have loaded its own copy; a torch that bundles none uses the system's
    own = [file for file in loaded if file.is_relative_to(home) or file.is_relative_to(home.with_name("torch.libs"))]
    candidates = own or list(loaded)
    if len(candidates) != 1:
        names = ", ".join(sorted(map(str, candidates))) or "none"
        raise Unavailable(f"torch's OpenMP runtime cannot be told (loaded: {names})")
    return candidates[0]


def _compiler() -> str:
    asked = os.environ.get("CXX")
    found = shutil.which(asked) if asked else shutil.which("g++") or shutil.which("c++")
    if found is None:
        raise Unavailable(f"no C++ compiler: {f'$CXX is {asked}' if asked else 'neither g++ nor c++ is in $PATH'}")
    return found


def _fingerprint(compiler: str, runtime: Path, flags: Sequence[str]) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    wanted = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    processor = [line for line in first if line.startswith(wanted)]
    parts = [SOURCE.read_text(), *flags, compiler, version, str(runtime), *processor]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _intact(path: Path) -> bool:
    """Whether a file of ours is there and whole: behind the library stands its own SHA-256."""
    if not path.is_file():
        return False
    data = path.read_bytes()
    return hashlib.sha256(data[:-_DIGEST]).digest() == data[-_DIGEST:]


def _compile(compiler: str, runtime: Path, flags: Sequence[str], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made, linked = Path(folder, "kernels.o"), Path(folder, "kernels.so")
            _run([compiler, *flags, "-c", str(SOURCE), "-o", str(made)])
            # without -fopenmp here, which would add the compiler's own runtime
            _run([compiler, "-shared", "-Wl,--no-undefined", str(made), "-o", str(linked), str(runtime)])
            data = linked.read_bytes()
            linked.write_bytes(data + hashlib.sha256(data).digest())
            linked.replace(path)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from None


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        said = next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
        raise Unavailable(f"compiling with {command[0]} failed: {said}")
