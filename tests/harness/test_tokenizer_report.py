"""Measured token counts against counts made otherwise; texts, files, plot; what a user types."""

from __future__ import annotations

import csv
import json
import re
import sys
import unicodedata
from pathlib import Path

import pytest

from harness.tokenizer_report import ORDER, QUIET_BYTES, Codec, Text, codecs, measure, notes, tables, texts, write
from qwen_model.download import DownloadError
from reports.tokenizer_plot import write_plots
from tasks.api import TaskError
from tests.commands import harness, typed
from tests.conftest import make_checkpoint

BYTES = Codec("bytes", "one per byte", lambda text: list(text.encode()), lambda ids: bytes(ids).decode())
LETTERS = Codec("letters", "one per letter", lambda text: list(map(ord, text)), lambda ids: "".join(map(chr, ids)))
COMPOSED = Codec(
    "composed", "one per letter of NFC", lambda text: list(map(ord, unicodedata.normalize("NFC", text))), LETTERS.decode
)
LOWER = Codec("lower", "forgets capitals", lambda text: list(map(ord, text.lower())), LETTERS.decode)
FAKES = [BYTES, LETTERS, COMPOSED, LOWER]
TWO = [Text("zh", "by hand", ("深度", "学习")), Text("code", "by hand", ("Caf", "e\u0301"))]


def test_counts_worked_out_by_hand() -> None:
    rows = {(row.text, row.tokenizer): row for row in measure(TWO, FAKES, "letters")}
    assert len(rows) == 8
    assert [(rows["zh", name].bytes, rows["zh", name].tokens) for name in ("bytes", "letters")] == [(12, 12), (12, 4)]
    assert (rows["zh", "letters"].bytes_per_token, rows["zh", "letters"].ratio) == (3, 1)
    assert (rows["zh", "bytes"].bytes_per_token, rows["zh", "bytes"].ratio) == (1, 3)
    assert [rows["code", codec.name].tokens for codec in FAKES] == [6, 5, 4, 5]
    assert [rows["code", codec.name].gives_back for codec in FAKES] == ["exact", "exact", "nfc", "lossy"]
    assert rows["code", "composed"].ratio == 4 / 5


def test_what_does_not_come_back_is_said() -> None:
    rows = measure(TWO, FAKES, "letters")
    ((columns, lines),) = tables(rows)
    assert columns == ["text", "bytes", "bytes", "letters", "composed", "lower"]
    assert lines[1] == ["code", "6", "1.00 (1.20)", "1.20 (1.00)", "1.50 (0.80) n", "1.20 (1.00) !"]
    said = notes(TWO, FAKES, "letters", rows)
    assert any(line.startswith("n: ") for line in said) and said[-1].startswith("!: lossy")
    exact = FAKES[:2]
    assert notes(TWO, exact, "letters", measure(TWO, exact, "letters"))[-1] == "every tokenizer gives every text back"


def test_many_tokenizers_are_several_tables() -> None:
    many = [Codec(f"t{n}", "", BYTES.encode, BYTES.decode) for n in range(8)]
    found = list(tables(measure(TWO, many, "t0")))
    assert [columns[2:] for columns, _ in found] == [[f"t{n}" for n in range(6)], ["t6", "t7"]]
    assert all(len(line) == len(columns) for columns, lines in found for line in lines)


def test_files_hold_what_was_measured(tmp_path: Path) -> None:
    rows = measure(TWO, FAKES, "letters")
    write(tmp_path / "new", TWO, FAKES, "letters", rows)
    with (tmp_path / "new" / "tokenizers.csv").open(encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [(row["text"], row["tokenizer"], int(row["tokens"]), float(row["ratio"])) for row in read] == [
        (row.text, row.tokenizer, row.tokens, row.ratio) for row in rows
    ]
    whole = json.loads((tmp_path / "new" / "tokenizers.json").read_text(encoding="utf-8"))
    assert whole["tokenizers"]["lower"] == "forgets capitals" and whole["texts"]["zh"] == "by hand"
    assert whole["baseline"] == "letters" and whole["rows"][0]["tokens"] == 12


def test_an_unknown_baseline_is_named() -> None:
    with pytest.raises(TaskError, match="--baseline xlm-r: not among the tokenizers bytes, letters; add it"):
        measure(TWO, FAKES[:2], "xlm-r")


def test_progress_only_where_it_takes_long(capsys: pytest.CaptureFixture[str]) -> None:
    quick = Codec("quick", "", lambda text: [0], lambda ids: "")
    measure(TWO, [quick], "quick")
    assert capsys.readouterr().err == ""
    measure([Text("long", "", ("x" * QUIET_BYTES,)), TWO[0]], [quick], "quick")
    assert re.search(r"encoding: \d+ % \(20 of 20 MB\).* s left", capsys.readouterr().err)


# Texts


def test_our_texts_are_the_figures_languages() -> None:
    found = texts(None)
    assert [text.label for text in found] == [*ORDER, "code"]
    paragraphs = {text.label: text.documents[0] for text in found[:-1]}
    assert all(unicodedata.normalize("NFC", text) == text for text in paragraphs.values())
    # each is the same paragraph: the two times of day stand in all of them
    assert all(re.findall(r"[0-9]+", text) == re.findall("[79]", text) for text in paragraphs.values())
    assert {tuple(sorted(re.findall("[79]", text))) for text in paragraphs.values()} == {("7", "9")}
    assert "argparse" in found[-1].documents[0] and f"Python {sys.version.split()[0]}" in found[-1].source


def test_a_folder_of_texts(tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_text("one\ntwo", encoding="utf-8")
    (tmp_path / "zh.jsonl").write_text('{"text": "一"}\n\n{"text": "二\u2028", "id": 2}\n', encoding="utf-8")
    (tmp_path / "code.txt").write_text("x = 1", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no text to measure")
    assert {text.label: text.documents for text in texts(tmp_path)} == {
        "zh": ("一", "二\u2028"),
        "en": ("one\ntwo",),
        "code": ("x = 1",),
    }
    assert [text.label for text in texts(tmp_path)] == ["zh", "en", "code"], "the figure's order, code last"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no .txt or .jsonl file; put files such as en.txt"),
        ({"en.txt": b" \n"}, "en.txt: holds no text; remove it"),
        ({"en.txt": b"ab\xff"}, "en.txt: not UTF-8 text (byte 2); save it as UTF-8"),
        ({"en.jsonl": b'{"text": "a"}\n{"text": \n'}, "en.jsonl:2: not JSON"),
        ({"en.jsonl": b'{"txt": "a"}\n'}, "en.jsonl:1: no field 'text'"),
        ({"en.jsonl": b'["a"]\n'}, "en.jsonl:1: no field 'text'"),
        ({"en.jsonl": b"[" * 100_000}, "en.jsonl:1: not JSON"),
        ({"en.jsonl": b'{"text": "a"}\n', "en.txt": b"a"}, "en.txt: a second file named en"),
    ],
)
def test_bad_texts_are_named(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=re.escape(message)):
        texts(tmp_path)


# Plot


def test_plot_has_a_bar_per_text_and_tokenizer_but_the_baseline(tmp_path: Path) -> None:
    ratios = {"a": [2.0, 0.5, 1.0], "base $x$": [1.0, 1.0, 1.0], "b": [1.0, 1.5, 0.25]}
    png, svg = write_plots(["en", "zh$a$", "code"], ratios, "base $x$", tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    drawn = svg.read_text(encoding="utf-8")
    for text in ("en", "zh$a$", "code", "a", "b", "base $x$ = 1", "(lower is better)"):
        assert f">{text}</text>" in drawn
    for name, colour in (("a", "#7b5ea7"), ("b", "#4c9f9b")):
        bars = re.findall(rf'<path d="M ([^"]*)z\n" clip-path[^>]*fill: {colour}', drawn)
        tall = [
            max(heights) - min(heights)
            for heights in ([float(y) for y in re.findall(r"\S+ (\S+) \n", bar)] for bar in bars)
        ]
        assert [height / tall[0] * ratios[name][0] for height in tall] == pytest.approx(ratios[name], abs=1e-4)
    again = write_plots(["en", "zh$a$", "code"], ratios, "base $x$", tmp_path)[1]
    assert again.read_text(encoding="utf-8") == drawn


# The command, with the real vocabulary


@pytest.fixture(scope="module")
def real() -> dict[str, Codec]:
    try:
        return {codec.name: codec for codec in codecs(())}
    except DownloadError as error:
        pytest.skip(f"no qwen.tiktoken: {error}")


def test_cl100k_like_is_cl100k_but_for_digits(real: dict[str, Codec]) -> None:
    ours, like = real["qwen"], real["cl100k-like"]
    # as many tokens as OpenAI's documentation shows for cl100k_base
    pieces = [like.decode([token]) for token in like.encode("tiktoken is great!")]
    assert pieces == ["t", "ik", "token", " is", " great", "!"]
    assert [like.decode([token]) for token in like.encode("2 + 200")] == ["2", " +", " ", "2", "0", "0"]
    assert like.encode("def f(x):\n    return x") == ours.encode("def f(x):\n    return x"), "the ranks are the same"
    assert max(like.encode("深度学习模型")) < 99_156 <= max(ours.encode("深度学习模型"))


def test_the_command(real: dict[str, Codec], tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "tiny")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "zh.txt").write_text("深度学习", encoding="utf-8")
    (tmp_path / "texts" / "code.txt").write_text("x = 1", encoding="utf-8")
    arguments = ("--texts", "texts", "--tokenizer", folder, "--baseline", "tiny", "--out", "out")
    done = harness("tokenizer-report", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tokens relative to tiny's" in done.stdout and f"tiny: of {folder}" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "documents.csv", "tokenizers.csv", "tokenizers.json", "tokenizers.png", "tokenizers.svg"
    ]  # fmt: skip
    rows = json.loads((tmp_path / "out" / "tokenizers.json").read_text(encoding="utf-8"))["rows"]
    zh = {row["tokenizer"]: row for row in rows if row["text"] == "zh"}
    assert zh["qwen"]["tokens"] == len(real["qwen"].encode("深度学习")) and zh["tiny"]["ratio"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--texts", "gone"), "--texts gone: no such folder"),
        (("--tokenizer", "gone"), "gone: no such model"),
        (("--baseline", "xlm-r"), "--baseline xlm-r: not among the tokenizers"),
        (("--tokenizer", "."), "no tokenizer.json"),
    ],
)
def test_mistakes_are_one_line(
    real: dict[str, Codec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = typed("harness", "tokenizer-report", *arguments)
    assert done.returncode == 2 and done.stdout == "" and message in done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())
