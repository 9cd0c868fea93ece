from __future__ import annotations

import asyncio
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness.runners import Runners, SandboxHandle
from harness.sandbox import SandboxUnavailable
from harness.sandbox.languages import LANGUAGES as BUILT
from harness.sandbox.languages import Workshop, find_tool
from tasks.humanevalpack import LANGUAGES, HumanEvalPack
from tasks.humanevalpack_programs import program
from tests.tasks.references import KINDS, Built, outcomes, samples_of, unexpected
from tests.tasks.scripted import SHARED, Says, judge

FILES = [f"humanevalpack/{language}_humanevalpack.jsonl" for language in LANGUAGES]

JAVA = {
    "task_id": "Java/1",
    "prompt": "import java.util.*;\nimport java.lang.*;\n\nclass Solution {\n    public int next(int x) {\n",
    "canonical_solution": "        return x + 1;\n    }\n}\n",
    "buggy_solution": "        return x;\n    }\n}\n",
    "entry_point": "next",
    "test": "public class Main {\n    public static void main(String[] args) {\n        Solution s = new Solution();\n"
    "        List<Boolean> correct = Arrays.asList(s.next(1) == 2);\n"
    "        if (correct.contains(false)) {\n            throw new AssertionError();\n        }\n    }\n}\n",
}
ROWS = {
    "java": JAVA,
    "python": {
        "task_id": "Python/1",
        "prompt": 'def next_(x):\n    """ One more. """\n',
        "canonical_solution": "    return x + 1\n",
        "buggy_solution": "    return x\n",
        "entry_point": "next_",
        "test": "def check(next_):\n    assert next_(1) == 2\n\ncheck(next_)",
    },
    "js": {
        "task_id": "JavaScript/1",
        "prompt": "const next = (x) => {\n",
        "canonical_solution": "  return x + 1;\n}\n",
        "buggy_solution": "  return x;\n}\n",
        "entry_point": "next",
        "test": "const testNext = () => {\n  console.assert(next(1) === 2)\n}\n\ntestNext()\n",
    },
    "go": {
        "task_id": "Go/1",
        "prompt": 'import (\n    "math"\n)\n\nfunc Next(x int) int {\n',
        "canonical_solution": "    return x + int(math.Abs(-1))\n}\n",
        "buggy_solution": "    return x\n}\n",
        "entry_point": "Next",
        "import": 'import (\n    "math"\n)\n',
        "test_setup": 'package main\n\nimport (\n    "testing"\n    "github.com/stretchr/testify/assert"\n)\n',
        "test": "func TestNext(t *testing.T) {\n    assert := assert.New(t)\n    assert.Equal(2, Next(1))\n}\n",
    },
    "cpp": {
        "task_id": "CPP/1",
        "prompt": "#include<stdio.h>\n#include<stdlib.h>\nusing namespace std;\nint next_(int x){\n",
        "canonical_solution": "    return x + 1;\n}\n",
        "buggy_solution": "    return x;\n}\n",
        "entry_point": "next_",
        "test": "#undef NDEBUG\n#include<assert.h>\nint main(){\n    assert (next_(1) == 2);\n}\n",
    },
    "rust": {
        "task_id": "Rust/1",
        "prompt": "fn main(){}\n\nuse rand::Rng;\nuse regex::Regex;\nuse md5;\n\nfn next(x: i32) -> i32 {\n",
        "canonical_solution": "    x + 1\n}\n",
        "buggy_solution": "    x\n}\n",
        "entry_point": "next",
        "test": "#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn test_next() {\n"
        "        let x: i32 = rand::thread_rng().gen_range(1, 2);\n        assert_eq!(next(x), 2);\n    }\n}\n",
    },
}
# Each ends with status 0 or makes assertions hold, in the process that it shares with its tests.
FORGED = {
    "js": [
        "  console.log('passed'); process.exit(0);\n}\n",
        "  return x;\n}\nObject.defineProperty(console, 'assert', { value: () => {}, writable: false });\n",
        "  return x;\n}\nJSON.stringify = () => '';\nError = function () { process.exit(0) };\n",
    ],
    "java": [
        "        System.exit(0); return 0;\n    }\n}\n",
        "        return x;\n    }\n}\n"
        "class Arrays { static <T> List<T> asList(T... t) { return new ArrayList<T>(); } }\n",
        "        return x;\n    }\n}\n"
        "class AssertionError extends RuntimeException { AssertionError() { System.exit(0); } }\n",
    ],
    "go": [
        '    os.Exit(0)\n    return 0\n}\nvar _ = os.Args\n',
        "    return x\n}\nfunc init() { os.Exit(0) }\n",
    ],
    "cpp": [
        "    exit(0);\n}\n",
        "    return x;\n}\nstruct S { S() { _Exit(0); } } s;\n",
        '    return x;\n}\nextern "C" void __assert_fail(const char*, const char*, unsigned, const char*)'
        " noexcept { _Exit(0); }\n",
    ],
    "rust": [
        "    std::process::exit(0)\n}\n",
        "    x\n}\nmacro_rules! assert_eq { ($($t:tt)*) => {} }\n",
    ],
}  # fmt: skip


def built_for(language):
    try:
        return Built(language)
    except (FileNotFoundError, SandboxUnavailable) as error:
        pytest.skip(str(error))


def sample_of(language):
    rows = {source.name.split()[-1]: source for source in HumanEvalPack.sources()}
    assert tuple(rows) == LANGUAGES
    samples = HumanEvalPack().samples(lambda source: [ROWS[source.name.split()[-1]]])
    return next(sample for sample in samples if sample.group == language)


def outcome(language, code, built):
    return asyncio.run(HumanEvalPack().judge_code(sample_of(language), code, built)).outcome


@pytest.mark.parametrize("language", LANGUAGES)
def test_right_wrong_and_broken_solutions(language):
    built, row = built_for(language), ROWS[language]
    assert outcome(language, row["canonical_solution"], built) == "correct"
    assert outcome(language, row["buggy_solution"], built) in ("wrong", "error")
    assert outcome(language, "((", built) in ("syntax", "error")


@pytest.mark.parametrize(("language", "code"), [(language, code) for language in FORGED for code in FORGED[language]])
def test_a_forgery_is_not_correct(language, code):
    assert outcome(language, code, built_for(language)) not in ("correct", "syntax")


@pytest.mark.parametrize("language", ["js", "java", "cpp", "rust", "go"])
def test_an_endless_loop_is_a_timeout(language):
    loop = {
        "rust": "    loop {}\n}\n",
        "go": "    for {}\n    return 0\n}\n",
        "java": "        while (x > 0) {} return 0;\n    }\n}\n",
    }
    built = built_for(language)
    built.shop._seconds = 1
    assert outcome(language, loop.get(language, "    while (1) {}\n}\n"), built) == "timeout"


@pytest.mark.parametrize(
    ("code", "packages"),
    [
        ('    if s[0] == \'"\' { return strings.ToUpper("a") }\n', {"strings"}),
        ("    if s[0] == '\\'' { return sort.X }; return \"'\" + strconv.Y\n", {"sort", "strconv"}),
        ("    a := `\" strings.X`; return errors.Y // don't sort.X\n", {"errors"}),
        ('    return "\\" strings.X" + "http://" + bytes.Y /* regexp.X */\n', {"bytes"}),
    ],
)
def test_packages_that_go_code_uses_are_imported_and_no_others(code, packages):
    row = {key: str(value) for key, value in ROWS["go"].items()}
    source = program("go", row, code + "}\n", "word", control=False)
    imported = set(re.findall(r'"([^"]+)"', source.partition(")")[0]))
    assert imported == packages | {"fmt", "os", "testing", "github.com/stretchr/testify/assert"}


def test_extraction():
    task = HumanEvalPack()
    assert task.extract(sample_of("python"), "    return 1\n\n    # more\n\ndef g():") == "    return 1\n\n    # more\n"
    assert task.extract(sample_of("js"), "  return 1;\n}\n\nconst g = 2") == "  return 1;\n}\n"
    assert task.extract(sample_of("java"), "        return 1;\n    }\n") == "        return 1;\n    }\n\n}\n"
    assert task.extract(sample_of("java"), "        return 1;\n    }\n}\nclass B") == "        return 1;\n    }\n}\n"


def test_what_is_missing_counts_neither_way(monkeypatch):
    monkeypatch.setenv("PATH", "")
    for language in BUILT:
        with pytest.raises(FileNotFoundError, match="not installed"):
            Workshop(language, 1)

    class Missing:
        async def build(self, language, source, needs, *, cpu_seconds):
            return SimpleNamespace(outcome="not_installed", stdout="", stderr="")

    assert judge(HumanEvalPack(), sample_of("go"), Says("}"), Missing()).outcome == "not_installed"


def test_missing_libraries_are_named():
    shop = built_for("js").shop
    assert "js-md5" in shop.missing("const md5 = require('js-md5')") and not shop.missing("require('fs')")
    assert shop.run("require('js-md5')", "require('js-md5')").outcome == "not_installed"


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("js", "  // require('lodash')\n  return x + 2;\n}\n"),
        ("js", "  return require('lodash').add(x, 1);\n}\n"),
        ("cpp", "#include <foo/bar.h>\n    return x + 1;\n}\n"),
        ("rust", '    Regex::new("x"); x + 1\n}\n'),
    ],
)
def test_no_answer_takes_itself_out_of_the_count(language, code):
    assert outcome(language, code, built_for(language)) in ("error", "syntax")


def test_what_the_problem_needs_counts_neither_way_whatever_the_answer():
    sample = replace(sample_of("rust"), gold='    md5::compute("x"); x + 1\n}\n')
    built = built_for("rust")
    assert asyncio.run(HumanEvalPack().judge_code(sample, "    x + 1\n}\n", built)).outcome == "not_installed"


def tool(path, answer):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("place", ["bin/node", ".local/bin/node", "../bin/node"])
def test_a_tool_beside_the_users_files_opens_nothing(place, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = tmp_path / "home" / place
    tool(path, "echo fs")
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    with pytest.raises(FileNotFoundError, match=f"would get to read all of {path.resolve().parents[1]}; install it"):
        Workshop("js", 1)


def test_a_tool_in_a_folder_of_its_own_in_the_home_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tool(tmp_path / ".nvm" / "bin" / "node", "echo fs")
    monkeypatch.setenv("PATH", f"{tmp_path / '.nvm' / 'bin'}:{os.environ['PATH']}")
    assert find_tool(BUILT["js"]) == (str(tmp_path / ".nvm" / "bin" / "node"), tmp_path / ".nvm")


@pytest.mark.parametrize(("language", "name"), [("rust", "rustc"), ("java", "javac"), ("go", "go"), ("cpp", "g++")])
def test_a_tool_that_does_not_work_is_not_installed(language, name, tmp_path, monkeypatch):
    if language == "java":
        tool(tmp_path / "bin" / "java", "exit 0")
    tool(tmp_path / "bin" / name, "echo no default toolchain is configured >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    runners = Runners(1, unsafe=False)
    result = asyncio.run(SandboxHandle(runners).build(language, "", ""))
    runners.close()
    assert result.outcome == "not_installed" and "no default toolchain" in result.detail


EVERY = "HARNESS_TEST_EVERY_PROBLEM"
"""Set in the environment: the slow test takes all 164 problems of every language, for about half an hour."""


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_reference_solutions_pass_and_buggy_and_empty_ones_do_not(language):
    if not (SHARED / FILES[0]).exists():
        pytest.skip("the real data is not beside this checkout: shared/bench/humanevalpack")
    built, samples = built_for(language), samples_of(language)
    assert len(samples) == 164
    if language != "python" and EVERY not in os.environ:
        samples = samples[:: len(BUILT) * 2]  # each takes seconds to build, four times
    found = {kind: outcomes(samples, kind, built) for kind in KINDS}
    assert [unexpected(found[kind], kind) for kind in KINDS] == [{}, {}, {}]
    assert list(found["reference"].values()).count("not_installed") <= 2
