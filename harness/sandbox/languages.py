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
    """tools: programs that must be installed; version: what makes them tell theirs, which shows that they work; file:
    where the source goes; build, run: command lines, in which TOOL is the first tool's path; extra: further files of
    ours."""

    name: str
    tools: tuple[str, ...]
    version: str = "--version"
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
            version="-version",
            file="Main.java",
            build=(("javac", "-J-Xmx512m", "-J-XX:TieredStopAtLevel=1", "-nowarn", "Main.java"),),
            run=("TOOL", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", ".", "Main"),
        ),
        Language(
            name="go",
            tools=("go",),
            version="version",
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
    for a language whose tools are not installed, do not work, or would open too much to programs."""

    def __init__(self, name: str, cpu_seconds: float, unsafe: bool = False) -> None:
        self.language, self._seconds = LANGUAGES[name], cpu_seconds
        self._tool, home = find_tool(self.language)
        # folders of headers, or names of modules
        self._libraries = _LIBRARIES[name](self._tool) if name in _LIBRARIES else frozenset()
        places = {"/usr", str(home)}
        places.update(str(path) for pattern in ("alternatives", "java-*") for path in Path("/etc").glob(pattern))
        # Without /proc the loader cannot tell where a program lies, so it has to be told where its libraries are.
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

    def missing(self, needs: str) -> str:
        """What these texts ask for that is not installed, as far as that can be told; "" for nothing."""
        if self.language.name == "cpp":
            for header in re.findall(r"^\s*#\s*include\s*<([^>]+/[^>]+)>", needs, re.MULTILINE):
                if not any(os.path.exists(f"{folder}/{header}") for folder in self._libraries):
                    return f"the header {header}"
        if self.language.name == "rust" and (crate := re.search(r"\b(Regex|md5)::", needs)):
            return f"the crate {crate[1].lower()}"
        if self.language.name == "js":
            for module in re.findall(r"""\brequire\(\s*['"]([^.'"][^'"]*)['"]""", needs):
                if module.removeprefix("node:").split("/")[0] not in self._libraries:
                    return f"the module {module}"
        return ""

    def run(self, source: str, needs: str) -> Result:
        """Builds and runs a program: "ok" for exit status 0, "syntax" when it cannot be built.

        `needs` is what the problem itself says: where that asks for what is not installed, the outcome is
        "not_installed". What only a model's code asks for is that code's failure.
        """
        if missing := self.missing(needs):
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


def find_tool(language: Language) -> tuple[str, Path]:
    """The first tool itself, and the folder that it is installed in, which programs may read.

    Raises FileNotFoundError, naming what is missing or in the way, where the language cannot be had.
    """
    if absent := [tool for tool in language.tools if not shutil.which(tool)]:
        raise FileNotFoundError(f"{', '.join(absent)} (for {language.name}) not installed")
    tool = os.path.realpath(str(shutil.which(language.tools[0])))
    if language.name == "rust":  # rustup's rustc is a proxy that picks one by the user's settings
        tool = f"{_said('rustc', '--print', 'sysroot').stdout.strip()}/bin/rustc"
    folder, user = Path(tool).parent.parent, Path(os.path.realpath(os.path.expanduser("~")))
    if folder != Path("/usr") and (user.is_relative_to(folder) or folder == user / ".local"):
        raise FileNotFoundError(
            f"{tool} (for {language.name}) lies where programs would get to read all of {folder}; install it in a "
            f"folder of its own, such as /opt/{language.name}"
        )
    for each in (tool, *language.tools[1:]):
        _said(each, language.version)
    return tool, folder


def _said(*command: str) -> subprocess.CompletedProcess[str]:
    """What a tool answers. Raises FileNotFoundError for one that cannot do its work."""
    said = subprocess.run(command, input="", capture_output=True, text=True)
    if said.returncode:
        why = " ".join(said.stderr.split())[:300] or f"exit status {said.returncode}"
        raise FileNotFoundError(f"{command[0]} does not work ({why}); mend it or install another")
    return said


@functools.cache
def _include_folders(tool: str) -> frozenset[str]:
    """Where g++ looks for headers."""
    said = _said(tool, "-E", "-x", "c++", "-", "-v")
    return frozenset(line.strip() for line in said.stderr.splitlines() if line.startswith(" /"))


@functools.cache
def _node_modules(tool: str) -> frozenset[str]:
    said = _said(tool, "-p", "require('module').builtinModules.join(' ')")
    return frozenset(name.split("/")[0] for name in said.stdout.split())


_LIBRARIES = {"cpp": _include_folders, "js": _node_modules}
