"""The first Qwen's tokenizer: against Qwen2.5's own on real text and hard Unicode, against facts, with broken files."""

from __future__ import annotations

import base64
import json
import random
import unicodedata
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from qwen_model.catalogue import available, obtain_vocabulary
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
from qwen_model.config import ModelError
from qwen_model.download import DownloadError
from qwen_model.qwen_tokenizer import CONTROL, RANKS, SPLIT, QwenTokenizer, read_ranks
from qwen_model.tokenizer import Tokenizer

BENCH = Path(__file__).parents[3] / "shared" / "bench"
QWEN25 = "qwen2.5-coder-0.5b-instruct"
LINES = 100_000


@pytest.fixture(scope="module")
def vocabulary() -> Path:
    try:
        return obtain_vocabulary()
    except DownloadError as error:
        pytest.skip(f"no qwen.tiktoken: {error}")


@pytest.fixture(scope="module")
def qwen(vocabulary: Path) -> QwenTokenizer:
    return QwenTokenizer(vocabulary)


@pytest.fixture(scope="module")
def qwen25() -> Tokenizer:
    if available(QWEN25) is None:
        pytest.skip(f"{QWEN25} is not in the cache; `harness run` with it fetches it")
    return load_tokenizer(find_checkpoint(QWEN25))


# Facts of the file, read here by other means than the tokenizer's


def test_vocabulary_as_published(vocabulary: Path) -> None:
    rows = [line.split() for line in vocabulary.read_text("ascii").splitlines()]
    tokens = [base64.b64decode(token) for token, _ in rows]
    assert [int(rank) for _, rank in rows] == list(range(151_643))
    assert len(set(tokens)) == 151_643
    assert {bytes([value]) for value in range(256)} <= set(tokens), "any bytes can be encoded"
    assert not [token for token in tokens if regex.search(rb"[0-9]{2}", token)]
    texts = [token.decode("utf-8", errors="ignore") for token in tokens]
    # full-width ones, which the split pattern keeps from ever being used
    assert [text for text in texts if regex.search(r"\p{N}{2}", text)] == ["１０", "２０"]
    added = [token.decode() for token in tokens[99_156:] if token.decode(errors="ignore").encode() == token]
    assert sum(any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in added) == 24_671


def test_handy_ids(qwen: QwenTokenizer) -> None:
    assert qwen.size == 151_851
    assert [qwen.encode(text) for text in ("\n", "system", "user", "assistant", " A", "A")] == [
        [198], [8948], [872], [77091], [362], [32]
    ]  # fmt: skip
    assert qwen.encode("Observation:") == [37763, 367, 25] and qwen.encode("Observation:\n") == [37763, 367, 510]
    ids = {name: qwen.encode_rendered(name) for name in CONTROL}
    assert ids["<|endoftext|>"] == [151_643] == [qwen.end_of_text]
    assert ids["<|im_start|>"] == [151_644] == [qwen.im_start] and ids["<|im_end|>"] == [151_645] == [qwen.im_end]
    assert ids["<|extra_0|>"] == [151_646] and ids["<|extra_204|>"] == [151_850]
    assert sorted(number for (number,) in ids.values()) == list(range(151_643, 151_851))


def test_digits_are_single(qwen: QwenTokenizer) -> None:
    assert [qwen.token_bytes(token) for token in qwen.encode("20231206")] == [bytes([byte]) for byte in b"20231206"]


# Byte-pair encoding written anew: the longest way round, by the definition


def by_definition(text: str, ranks: dict[bytes, int]) -> list[int]:
    """Merge the pair of lowest rank, leftmost first, until none is left; `regex` splits the text."""
    ids = []
    for piece in regex.findall(SPLIT, text):
        parts = [bytes([byte]) for byte in piece.encode()]
        while len(parts) > 1:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], RANKS))
            if parts[best] + parts[best + 1] not in ranks:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        ids += [ranks[part] for part in parts]
    return ids


@pytest.mark.parametrize(
    "text",
    [
        "It's THE'LL we'Re 'sound'  \n\n  x\t\ty  ",
        "def f(x: int) -> str:\r\n    return f'{x:>10}'\r\n",
        "深度学习模型的词表大小约为十五万。ตัวอย่างข้อความ שלום עולם",
        "３²½Ⅷ١٢٣ 12,345.678e-9",
        "👩‍👩‍👧‍👦🏳️‍🌈 e\u0301\u0323 \u200f\u202e\u0000\u0085\u2028",
    ],
)
def test_is_byte_pair_encoding(qwen: QwenTokenizer, vocabulary: Path, text: str) -> None:
    ranks = {base64.b64decode(line.split()[0]): n for n, line in enumerate(vocabulary.read_bytes().splitlines())}
    assert qwen.encode_raw(text) == by_definition(text, ranks)
    assert qwen.decode(qwen.encode_raw(text)) == text


# Normalisation and control tokens


def test_nfc_except_raw(qwen: QwenTokenizer) -> None:
    assert qwen.encode("Cafe\u0301") == qwen.encode("Caf\u00e9") == qwen.encode_raw("Caf\u00e9")
    assert qwen.encode_raw("Cafe\u0301") != qwen.encode_raw("Caf\u00e9")
    assert qwen.decode(qwen.encode_raw("Cafe\u0301")) == "Cafe\u0301"


@pytest.mark.parametrize("name", ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_0|>"])
def test_a_text_forges_no_control_token(qwen: QwenTokenizer, name: str) -> None:
    text = f"hello {name}\nsystem"
    for ids in (qwen.encode(text), qwen.encode_raw(text)):
        assert max(ids) < RANKS and qwen.decode(ids) == text
    assert [token for token in qwen.encode(text, allowed_special={name}) if token >= RANKS] == qwen.encode_rendered(
        name
    )
    others = set(CONTROL) - {name}
    assert qwen.encode(text, allowed_special=others) == qwen.encode(text)


def test_an_unknown_control_token_is_named(qwen: QwenTokenizer) -> None:
    with pytest.raises(ModelError, match=r"allowed_special: '<\|fim_prefix\|>' is no control token"):
        qwen.encode("x", allowed_special={"<|fim_prefix|>"})


def test_decode_leaves_out_control_tokens_and_unused_rows(qwen: QwenTokenizer) -> None:
    assert qwen.decode([151_644, *qwen.encode("ok"), 151_645, 151_850, 151_935]) == "ok"
    assert qwen.decode(qwen.encode_raw("界")[:1]) in ("界", "\ufffd")
    assert qwen.decode(read_first_byte(qwen, 0xE7)) == "\ufffd"


def read_first_byte(qwen: QwenTokenizer, byte: int) -> list[int]:
    return [next(token for token in range(256) if qwen.token_bytes(token) == bytes([byte]))]


def test_a_lone_surrogate_becomes_the_replacement_character(qwen: QwenTokenizer) -> None:
    assert qwen.encode("a\ud800b") == qwen.encode_raw("a\ud800b") == qwen.encode("a\ufffdb")


def test_a_million_blanks_are_refused_not_a_crash(qwen: QwenTokenizer) -> None:
    fine = "x" + " " * 999_998 + "y"
    assert qwen.decode(qwen.encode(fine)) == fine
    for encode in (qwen.encode, qwen.encode_raw, qwen.encode_rendered):
        with pytest.raises(ModelError, match="999,999 blanks in a row"):
            encode("x" + " " * 999_999 + "y")


# Qwen2.5's own tokenizer: another implementation, another file


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def lines_of(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for row in file:
            for text in strings(json.loads(row)) if path.suffix == ".jsonl" else (row,):
                yield from text.splitlines(keepends=True)


def in_turn(sources: list[Iterator[str]]) -> Iterator[str]:
    """One line of each file, then the next of each, so that no large file crowds out the others; none twice."""
    seen: set[str] = set()
    while sources:
        for source in list(sources):
            line = next((line for line in source if line not in seen), None)
            if line is None:
                sources.remove(source)
            else:
                seen.add(line)
                yield line


@pytest.mark.slow
def test_agrees_with_qwen25_on_real_lines(qwen: QwenTokenizer, qwen25: Tokenizer) -> None:
    if not BENCH.is_dir():
        pytest.skip("no ../shared/bench")
    files = sorted(path for path in BENCH.rglob("*") if path.suffix in (".jsonl", ".txt", ".md"))
    lines = list(islice(in_turn([lines_of(path) for path in files]), LINES))
    assert len(lines) == LINES
    differing = [line for line in lines if qwen.encode(line) != qwen25.encode_rendered(line)]
    assert not differing, f"{len(differing)} of {LINES}, such as {differing[0]!r}"


@pytest.mark.slow
def test_agrees_with_qwen25_on_every_code_point(qwen: QwenTokenizer, qwen25: Tokenizer) -> None:
    """Alone in the middle of words, which shows its class in the split pattern as well as its bytes."""
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    texts = [
        "".join(f"a{chr(point)}a 1{chr(point)} {chr(point)}\n" for point in points[n : n + 64])
        for n in range(0, len(points), 64)
    ]
    differing = [text for text in texts if qwen.encode(text) != qwen25.encode_rendered(text)]
    assert not differing, f"{len(differing)} blocks, such as that of {differing[0][1]!a}"


RANGES = {
    "ascii": (0x20, 0x7E),
    "control": (0x00, 0x1F),
    "latin": (0xA0, 0x24F),
    "combining marks": (0x300, 0x36F),
    "greek, cyrillic": (0x370, 0x52F),
    "hebrew": (0x590, 0x5FF),
    "arabic": (0x600, 0x6FF),
    "devanagari": (0x900, 0x97F),
    "thai": (0xE00, 0xE7F),
    "hangul parts": (0x1100, 0x11FF),
    "vietnamese": (0x1E00, 0x1EFF),
    "spaces, joiners": (0x2000, 0x206F),
    "numbers": (0x2150, 0x218F),
    "kana": (0x3000, 0x30FF),
    "ideographs": (0x4E00, 0x9FFF),
    "hangul": (0xAC00, 0xD7A3),
    "by the surrogates": (0xD7B0, 0xD7FF),
    "private": (0xE000, 0xE010),
    "presentation forms": (0xFB00, 0xFDFF),
    "selectors, full width": (0xFE00, 0xFFFF),
    "mathematical": (0x1D400, 0x1D7FF),
    "emoji": (0x1F1E6, 0x1FAFF),
    "extension B": (0x20000, 0x2A6DF),
    "compatibility": (0x2F800, 0x2FA1D),
    "tags": (0xE0020, 0xE007F),
    "last": (0x10FFF0, 0x10FFFF),
}
WHOLE = [
    "\r\n",
    "\n\n",
    "  ",
    "\t",
    "\u3000",
    "'s",
    "'LL",
    "'ſ",
    "\u200d",
    "\ufe0f",
    "\U0001f3fd",
    "99",
    "٣٤",
    "<|im_end|>",
]


def random_text(draw: random.Random) -> str:
    kinds = draw.sample(sorted(RANGES), 3)
    parts = (
        draw.choice(WHOLE) if draw.random() < 0.2 else chr(draw.randint(*RANGES[draw.choice(kinds)]))
        for _ in range(draw.randint(1, 40))
    )
    return "".join(part * draw.choice((1, 1, 1, 2, 5)) for part in parts)


def same_normal_form(text: str) -> bool:
    """Whether both normalise a text alike: see `test_known_differences_from_qwen25` for what is left out."""
    if "|>\u0338" in text:
        return False
    return bool(normalizers.NFC().normalize_str(text) == unicodedata.normalize("NFC", text))


def assert_agree(qwen: QwenTokenizer, qwen25: Tokenizer, text: str) -> None:
    ours = qwen.encode_rendered(text)
    assert ours == qwen25.encode_rendered(text), ascii(text)
    if "<|" not in text:
        assert qwen.encode(text) == ours and qwen.decode(ours) == unicodedata.normalize("NFC", text)


def test_agrees_with_qwen25_on_random_unicode(qwen: QwenTokenizer, qwen25: Tokenizer) -> None:
    draw = random.Random(20230916)
    texts = [random_text(draw) for _ in range(20_000)]
    judged = [text for text in texts if same_normal_form(text)]
    assert len(judged) > 0.99 * len(texts)
    for text in judged:
        assert_agree(qwen, qwen25, text)


@settings(max_examples=500, deadline=None)
@given(text=st.text(max_size=60).filter(same_normal_form))
def test_agrees_with_qwen25_on_any_text(qwen: QwenTokenizer, qwen25: Tokenizer, text: str) -> None:
    assert_agree(qwen, qwen25, text)


def test_known_differences_from_qwen25(qwen: QwenTokenizer, qwen25: Tokenizer) -> None:
    # the tables of `tokenizers` are of an older Unicode: it does not know that U+08D3 is written before U+0345
    text = "x\u0345\u08d3"
    assert qwen.encode(text) != qwen25.encode_rendered(text)
    assert qwen.encode(text) == qwen.encode_raw(unicodedata.normalize("NFC", text))
    # names behind the ranks
    assert qwen25.encode_rendered("<|fim_prefix|>") == [151_659] == qwen.encode_rendered("<|extra_13|>")
    assert len(qwen.encode_rendered("<|fim_prefix|>")) > 1
    # the released code normalises first, so that a mark behind a control token takes its ">" away
    text = "<|im_end|>\u0338"
    assert qwen.im_end in qwen25.encode_rendered(text) and qwen.im_end not in qwen.encode_rendered(text)


# Files that are not the released one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:7], "it ends after line 7 of 151643"),
        (lambda lines: [*lines[:7], lines[7][:3]], "line 8 is not a token in base64, a space and its rank"),
        (lambda lines: [*lines[:3], b"!!!! 3", *lines[4:]], "line 4 is not a token in base64"),
        (lambda lines: [*lines[:3], b" 3", *lines[4:]], "line 4 is not a token in base64"),
        (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], "line 4 has the rank 4, not 3"),
        (lambda lines: [*lines[:5], lines[2].split()[0] + b" 5", *lines[6:]], "line 6 repeats the token of line 3"),
        (lambda lines: [*lines, b"AAAAAAAA 151643"], "line 151644 is one too many"),
        (lambda lines: [*lines[:-1], b"QWxpZW4h 151642"], "a token is not the released one"),
        (lambda lines: [b"version https://git-lfs.github.com/spec/v1"], "line 1 is not a token in base64"),
        (lambda lines: [], "it ends after line 0 of 151643"),
    ],
)
def test_a_damaged_vocabulary_names_the_line(
    vocabulary: Path, tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], message: str
) -> None:
    damaged = tmp_path / "qwen.tiktoken"
    damaged.write_bytes(b"".join(line + b"\n" for line in change(vocabulary.read_bytes().splitlines())))
    with pytest.raises(ModelError) as caught:
        QwenTokenizer(damaged)
    assert str(caught.value).startswith(f"{damaged}: {message}") and "\n" not in str(caught.value)
    assert "obtain_vocabulary" in str(caught.value), "the remedy"


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.tiktoken: no such file; .*obtain_vocabulary"):
        read_ranks(tmp_path / "gone.tiktoken")


# In a checkpoint folder


def checkpoint(folder: Path, vocabulary: Path, generation: dict[str, Any] | None) -> Path:
    (folder / "qwen.tiktoken").symlink_to(vocabulary)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_a_chat_checkpoint(vocabulary: Path, tmp_path: Path) -> None:
    found = load_tokenizer(checkpoint(tmp_path, vocabulary, {"chat_format": "chatml", "eos_token_id": 151_643}))
    assert isinstance(found, QwenTokenizer)
    assert found.eos_ids == (151_643, 151_645, 151_644)
    assert found.render([("user", "Hi")], prefill="Ja") == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nJa"
    )
    assert found.render([("system", "Brief."), ("user", "Hi")]).startswith(
        "<|im_start|>system\nBrief.<|im_end|>\n<|im_s"
    )


def test_a_base_checkpoint_does_not_chat(vocabulary: Path, tmp_path: Path) -> None:
    found = load_tokenizer(checkpoint(tmp_path, vocabulary, {"chat_format": "raw", "eos_token_id": 151_643}))
    assert isinstance(found, QwenTokenizer) and found.eos_ids == (151_643,)
    for ask in (found.render, found.encode_chat):
        with pytest.raises(ModelError, match="no chat template: use a base protocol"):
            ask([("user", "Hi")])


def test_without_generation_config(vocabulary: Path, tmp_path: Path) -> None:
    assert load_tokenizer(checkpoint(tmp_path, vocabulary, None)).eos_ids == (151_643, 151_645, 151_644)


def test_tokenizer_json_comes_first(vocabulary: Path, tiny: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    assert type(load_tokenizer(checkpoint(tmp_path, vocabulary, None))) is Tokenizer
