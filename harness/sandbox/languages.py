"""Programs in other languages: written to a scratch folder, built and run there, behind the same walls.

A program's exit status is its own word: whoever judges it by that has to see to it that it cannot be forged.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from harness.sandbox.policy import Policy, Result
from harness.sandbox.runner import Sandbox

STANDINS = Path(__file__).with_name("standins")
BUILD_SECONDS = 120.0
"""Processor seconds for building."""
NO_BUILD, OUT_OF_TIME = 90, 91


@dataclass(frozen=True, kw_only=True)
class Language:
    """tools: programs that must be installed; file: where the source goes; build, run: command lines, in which TOOL
    is the first tool's path; extra: further files of ours."""

    name: str
    tools: tuple[str, ...]
    file: str
    build: tuple[tuple[str, ...], ...] = ()
    run: tuple[str, ...]
    extra: tuple[tuple[str, str], ...] = ()


LANGUAGES = {
    language.name: language
    for language in (
        Language(name="js", tools=("node",), file="main.js", run=("TOOL", "--max-old-space-size=512", "main.js")),
        Language(
            name="java",
            tools=("java", "javac"),
            file="Main.java",
            build=(("javac", "-J-Xmx512m", "-J-XX:TieredStopAtLevel=1", "-nowarn", "Main.java"),),
            run=("TOOL", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", ".", "Main"),
        ),
        Language(
            name="go",
            tools=("go",),
            file="main_test.go",
            build=(("TOOL", "test", "-c", "-vet=off", "-o", "main", "main_test.go"),),
            run=("./main",),
            extra=(("path/src/github.com/stretchr/testify/assert/assert.go", "assert.go"),),
        ),
        Language(
            name="cpp",
            tools=("g++",),
            file="main.cpp",
            build=(("TOOL", "-std=c++17", "-w", "main.cpp", "-o", "main"),),
            run=("./main",),
        ),
        Language(
            name="rust",
            tools=("rustc",),
            file="main.rs",
            build=(
                ("TOOL", "--edition=2021", "--cap-lints=allow", "-Clink-arg=-fuse-ld=bfd", "main.rs", "-o", "main"),
            ),
            run=("./main",),
        ),
    )
}

_DRIVER = """
import os, resource, subprocess, sys
files, build, run, seconds = {work!r}
for name, text in files.items():
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)
here = os.getcwd()
os.environ.update(HOME=here, TMPDIR=here, GOCACHE=here + "/cache", GOPATH=here + "/path")
for command in build:
    if subprocess.run(command, stdout=2).returncode:
        os._exit({no_build})
def limit():
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
try:
    status = subprocess.run(run, preexec_fn=limit, timeout=3 * seconds + 2).returncode
except subprocess.TimeoutExpired:
    os._exit({out_of_time})
if status in (-9, -24):
    os._exit({out_of_time})
sys.exit("ended by signal %d" % -status if status < 0 else 1 if status else None) if status else None
"""


class Workshop:
    """Builds and runs programs of one language. Raises as Sandbox does, and FileNotFoundError, naming what is missing,
    for a language whose tools are not installed."""

    def __init__(self, name: str, cpu_seconds: float, unsafe: bool = False) -> None:
        self.language, self._seconds = LANGUAGES[name], cpu_seconds
        if absent := [tool for tool in self.language.tools if not shutil.which(tool)]:
            raise FileNotFoundError(f"{', '.join(absent)} (for {name}) not installed")
        self._tool = _real_tool(self.language.tools[0])
        places = {"/usr", str(Path(self._tool).parents[1])}
        places.update(str(path) for pattern in ("alternatives", "java-*") for path in Path("/etc").glob(pattern))
        # Without /proc the loader cannot tell where a program lies, so it has to be told where its libraries are.
        home = Path(self._tool).parents[1]
        environment = {
            "PATH": f"{home}/bin:/usr/local/bin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": f"{home}/lib:{home}/lib/server",
            "GO111MODULE": "off",
        }
        policy = Policy(
            cpu_seconds=BUILD_SECONDS + cpu_seconds,
            memory_mb=2048,
            address_mb=1 << 20,  # node, java and go reserve far more than they use
            processes=128,
            file_mb=256,
            scratch_mb=512,
            read=tuple(sorted(places)),
            environment=tuple(environment.items()),
            own_programs=True,
        )
        self._box = Sandbox(policy, unsafe)

    def missing(self, source: str) -> str:
        """What the source needs that is not installed, as far as that can be told; "" for nothing."""
        if self.language.name == "cpp":
            for header in re.findall(r"^\s*#\s*include\s*<([^>]+/[^>]+)>", source, re.MULTILINE):
                if not any(os.path.exists(f"{folder}/{header}") for folder in _include_folders()):
                    return f"the header {header}"
        if self.language.name == "rust" and (crate := re.search(r"\b(Regex|md5)::", source)):
            return f"the crate {crate[1].lower()}"
        if self.language.name == "js":
            for module in re.findall(r"""\brequire\(\s*['"]([^.'"][^'"]*)['"]""", source):
                if module.removeprefix("node:").split("/")[0] not in _node_modules(self._tool):
                    return f"the module {module}"
        return ""

    def run(self, source: str) -> Result:
        """Builds and runs a program: "ok" for exit status 0, "syntax" when it cannot be built."""
        if missing := self.missing(source):
            return Result(outcome="not_installed", detail=f"{missing} is not installed")
        language = self.language
        files = {language.file: source}
        if language.name == "rust":
            files[language.file] = source.replace("use md5;", "") + (STANDINS / "crates.rs").read_text(encoding="utf-8")
        files |= {place: (STANDINS / name).read_text(encoding="utf-8") for place, name in language.extra}
        build = [[self._tool if part == "TOOL" else part for part in command] for command in language.build]
        if language.name == "cpp" and "openssl/" in source:
            build[0].append("-lcrypto")
        if language.name == "rust":
            build[0] += ["--sysroot", str(Path(self._tool).parents[1])]
        command = [self._tool if part == "TOOL" else part for part in language.run]
        work = (files, build, command, max(1, round(self._seconds)))
        result = self._box.run(_DRIVER.format(work=work, no_build=NO_BUILD, out_of_time=OUT_OF_TIME))
        return _translated(result, self._seconds)

    def close(self) -> None:
        self._box.close()


def _translated(result: Result, seconds: float) -> Result:
    """The driver's exit status as an outcome of the program's."""
    if result.detail == f"exit status {NO_BUILD}":
        return replace(result, outcome="syntax", detail="cannot be built")
    if result.detail == f"exit status {OUT_OF_TIME}":
        return replace(result, outcome="timeout", detail=f"used more than {seconds:g} s of processor time")
    return result


def _real_tool(name: str) -> str:
    """The tool itself: rustup's rustc is a proxy that picks one by the user's settings."""
    path = os.path.realpath(str(shutil.which(name)))
    if name == "rustc":
        said = subprocess.run(
            [str(shutil.which(name)), "--print", "sysroot"], capture_output=True, text=True, check=True
        )
        return f"{said.stdout.strip()}/bin/rustc"
    return path


@functools.cache
def _include_folders() -> tuple[str, ...]:
    """Where g++ looks for headers."""
    said = subprocess.run(["g++", "-E", "-x", "c++", "-", "-v"], input="", capture_output=True, text=True, check=True)
    return tuple(line.strip() for line in said.stderr.splitlines() if line.startswith(" /"))


@functools.cache
def _node_modules(node: str) -> frozenset[str]:
    said = subprocess.run([node, "-p", "require('module').builtinModules.join(' ')"], capture_output=True, text=True)
    return frozenset(name.split("/")[0] for name in said.stdout.split())
