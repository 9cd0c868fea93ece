"""HumanEvalPack's programs: a solution, its tests and, last, a word that is printed only when all tests have held.

Solution and tests share a process in these languages. So a pass needs a control: the same program with one assertion
that is false has to fail. It shows that the assertions assert and that the end is not feigned.
"""

from __future__ import annotations

import re


def program(language: str, row: dict[str, str], code: str, word: str, control: bool) -> str:
    """The whole source. row: the data set's fields; word: printed at the end; control: with a false assertion."""
    return _PROGRAMS[language](row, code, word, control)


def _js(row: dict[str, str], code: str, word: str, control: bool) -> str:
    # node's console.assert only prints.
    throwing = "console.assert = (held) => { if (!held) { throw new Error('Assertion failed') } }\n"
    false = "console.assert(JSON.stringify([1]) === JSON.stringify([2]))\n" if control else ""
    return f"{row['prompt']}{code}\n{throwing}{row['test']}\n{false}console.log('{word}')\n"


def _java(row: dict[str, str], code: str, word: str, control: bool) -> str:
    tests = row["test"].replace("public class Main", "class Tests_", 1)
    false = "if (Arrays.asList(Objects.equals(1, 2)).contains(false)) throw new AssertionError();" if control else ""
    main = (
        "public class Main { public static void main(String[] a) throws Throwable {"
        f' Tests_.main(a); {false} System.out.println("{word}"); }} }}'
    )
    return f"{row['prompt']}{code}\n{tests}\n{main}\n"


def _go(row: dict[str, str], code: str, word: str, control: bool) -> str:
    false = "func TestControl(t *testing.T) { assert := assert.New(t); assert.Equal(1, 2) }" if control else ""
    body = _without_imports(row["prompt"]) + _without_imports(code) + "\n" + row["test"] + "\n" + false
    wanted = {"testing", "os", "github.com/stretchr/testify/assert", *_GO_PACKAGES}
    for text in (row["test_setup"], row["import"], row["prompt"], code):
        wanted.update(name for block in _IMPORTS.findall(text) for name in re.findall(r'"([^"]+)"', block))
    # An import that nobody uses, or that is there twice, does not compile.
    main = f'func TestMain(m *testing.M) {{ s := m.Run(); if s == 0 {{ fmt.Println("{word}") }}; os.Exit(s) }}'
    body += "\n" + main
    bare = _GO_UNREAD.sub("", body)
    used = sorted(name for name in wanted if re.search(rf"\b{name.split('/')[-1]}\.", bare))
    return "package main\n\nimport (\n" + "".join(f'    "{name}"\n' for name in used) + f")\n{body}\n"


# Some prompts use packages that nothing imports, as goimports would mend.
_GO_PACKAGES = ("bytes", "crypto/md5", "errors", "fmt", "math", "regexp", "sort", "strconv", "strings", "unicode")
_GO_UNREAD = re.compile(r"//[^\n]*|/\*.*?\*/|`[^`]*`|([\"'])(?:\\.|(?!\1)[^\\\n])*\1", re.DOTALL)
"""Comments, and texts and runes in their three kinds of quotes."""
_IMPORTS = re.compile(r"^import\s*(\([^)]*\)|\"[^\"]+\")", re.MULTILINE)


def _without_imports(text: str) -> str:
    return re.sub(r"^package \w+\n", "", _IMPORTS.sub("", text), flags=re.MULTILINE)


def _cpp(row: dict[str, str], code: str, word: str, control: bool) -> str:
    tests = re.sub(r"\bint main\(\s*\)", "static void tests_()", row["test"], count=1)
    tests = re.sub(r"\breturn 0;", "return;", tests)
    false = "assert(1 == 2);" if control else ""
    return f'{row["prompt"]}{code}\n{tests}\nint main() {{ tests_(); {false} puts("{word}"); return 0; }}\n'


def _rust(row: dict[str, str], code: str, word: str, control: bool) -> str:
    tests = row["test"].replace("#[cfg(test)]", "").replace("mod tests {", "mod tests_ {", 1)
    names = re.findall(r"#\[test\]\s*(?://[^\n]*\n\s*)*fn\s+(\w+)", tests)
    tests = re.sub(r"#\[test\](\s*(?://[^\n]*\n\s*)*)fn\s", r"\1pub fn ", tests)
    if control:
        false = "assert_eq!(1, 2)" if "assert_eq!" in tests else "assert!(1 == 2)"
        tests = re.sub(r"(pub fn \w+\(\)\s*\{)", rf"\1 {false}; ", tests, count=1)
    calls = " ".join(f"tests_::{name}();" for name in names)
    main = f'fn main(){{ {calls} println!("{word}"); }}'
    return f"{row['prompt'].replace('fn main(){}', '')}{code}\n{tests}\n{main}\n"


_PROGRAMS = {"js": _js, "java": _java, "go": _go, "cpp": _cpp, "rust": _rust}
