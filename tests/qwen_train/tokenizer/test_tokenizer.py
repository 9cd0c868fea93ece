"""Vocabularies that are trained and expanded, against the trainer of `tokenizers` and against training in one go.

Not covered: what a good size is.
"""

from __future__ import annotations

import base64
import json
import sysconfig
from itertools import accumulate
from pathlib import Path

import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_model import load_tokenizer
from qwen_model.catalogue import obtain_vocabulary
from qwen_model.config import ModelError
from qwen_model.download import DownloadError
from qwen_model.qwen_tokenizer import CONTROL, SPLIT, QwenTokenizer
from qwen_train.errors import TrainError
from qwen_train.tokenizer.train import expand, ranks_of, train
from qwen_train.tokenizer.vocabulary import read_tiktoken, write_vocabulary
from tests.commands import typed

MODULES = ("argparse", "ast", "difflib", "inspect", "pdb", "random", "tarfile", "typing")
TEXTS = [(Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text(encoding="utf-8") for name in MODULES]
CHINESE = [
    "天下之治方术者多矣，皆以其有为不可加矣！天下专研学术的人很多。" * 20,
    "古之所谓道术者，果恶乎在？无乎不在。天下" * 20,
]
SIZE = 1500


@pytest.fixture(scope="module")
def tokens() -> list[bytes]:
    return train(TEXTS, SIZE)


def encoding(tokens: list[bytes]) -> tiktoken.Encoding:
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return tiktoken.Encoding("made", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={})


def length(tokens: list[bytes], texts: list[str]) -> int:
    made = encoding(tokens)
    return sum(len(made.encode_ordinary(text)) for text in texts)


def test_compresses_as_the_reference_does(tokens: list[bytes]) -> None:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    reference = Tokenizer(models.BPE())
    pieces = [
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    reference.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    reference.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=SIZE, initial_alphabet=alphabet, show_progress=False)
    )
    theirs = sum(len(reference.encode(text).ids) for text in TEXTS)
    assert length(tokens, TEXTS) == pytest.approx(theirs, rel=0.002)


def test_the_order_of_merges_is_of_their_frequency(tokens: list[bytes]) -> None:
    """The first merge by counting: the commonest pair of bytes within pieces."""
    counts: dict[bytes, int] = {}
    for text in TEXTS:
        for piece in regex.findall(SPLIT, text):
            data = piece.encode()
            for place in range(len(data) - 1):
                counts[data[place : place + 2]] = counts.get(data[place : place + 2], 0) + 1
    assert counts[tokens[256]] == max(counts.values())


def test_no_token_has_two_digits_or_crosses_words(tokens: list[bytes]) -> None:
    assert set(tokens[:256]) == {bytes([value]) for value in range(256)}
    assert len(set(tokens)) == SIZE
    for token in tokens[256:]:
        text = token.decode("utf-8", "ignore")
        assert not regex.search(rb"\d\d", token) and (
            len(regex.findall(SPLIT, text)) == 1 or "\ufffd" in text or not text
        )


def test_the_written_folder_is_a_tokenizer(tokens: list[bytes], tmp_path: Path) -> None:
    write_vocabulary(tmp_path, tokens)
    made = load_tokenizer(tmp_path)
    assert isinstance(made, QwenTokenizer) and made.size == SIZE + len(CONTROL) and made.end_of_text == SIZE
    text = "def f(x2024):  # 天下\n    return 'Café'<|im_end|>"
    assert made.decode(made.encode(text)) == text and max(made.encode(text)) < SIZE
    assert made.encode_rendered("<|im_end|>") == [SIZE + 2]
    assert [made.token_bytes(token) for token in made.encode("2024")] == [b"2", b"0", b"2", b"4"]
    assert made.encode(text) == encoding(tokens).encode_ordinary(text)


def test_a_changed_file_is_refused(tokens: list[bytes], tmp_path: Path) -> None:
    path = write_vocabulary(tmp_path, tokens)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ModelError, match="is not the file whose sha256"):
        load_tokenizer(tmp_path)


def test_expanding_is_training_in_two_halves(tokens: list[bytes]) -> None:
    made = expand(tokens[:900], TEXTS, SIZE)
    assert made.tokens[:900] == tokens[:900] and (made.kept, made.dropped) == (900, 0)
    assert len(set(made.tokens) & set(tokens)) > 0.99 * SIZE  # pairs that are equally common may come in another order
    assert length(made.tokens, TEXTS) == pytest.approx(length(tokens, TEXTS), rel=0.001)


@pytest.fixture(scope="module")
def expanded(tokens: list[bytes]) -> list[bytes]:
    return expand(tokens, CHINESE, SIZE + 60).tokens


def test_expanding_appends_what_the_new_texts_need(tokens: list[bytes], expanded: list[bytes]) -> None:
    assert expanded[:SIZE] == tokens and "天下".encode() in expanded[SIZE:]
    assert length(expanded, CHINESE) < 0.5 * length(tokens, CHINESE)
    assert length(expanded, TEXTS) <= length(tokens, TEXTS)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("天下之治方术者古所谓道ab '\n12"), max_size=30))
def test_what_was_encoded_is_merged_further_never_otherwise(
    tokens: list[bytes], expanded: list[bytes], text: str
) -> None:
    old, new = encoding(tokens), encoding(expanded)
    ends = [
        set(accumulate(len(made.decode_single_token_bytes(token)) for token in made.encode_ordinary(text)))
        for made in (old, new)
    ]
    assert ends[1] <= ends[0]


def test_tokens_of_several_digits_go_and_the_rest_keeps_its_order(tokens: list[bytes]) -> None:
    base = [*tokens[:300], b"20", b"2024", *tokens[300:320], b" v10", *tokens[320:340]]
    made = expand(base, CHINESE, 345)
    assert (made.kept, made.dropped) == (340, 3) and made.tokens[:340] == tokens[:340]


def test_the_released_vocabulary_can_be_expanded(tmp_path: Path) -> None:
    try:
        released = read_tiktoken(obtain_vocabulary())
    except DownloadError as error:
        pytest.skip(f"no qwen.tiktoken: {error}")
    made = expand(released, CHINESE, len(released) + 5)
    assert made.tokens[: len(released)] == released and made.dropped == 0
    write_vocabulary(tmp_path, made.tokens)
    assert len(load_tokenizer(tmp_path).encode(CHINESE[0])) < len(QwenTokenizer(obtain_vocabulary()).encode(CHINESE[0]))


def test_a_size_without_merges_is_refused() -> None:
    for size in (257, 464):
        with pytest.raises(TrainError, match=f"--vocab-size: {size} ids; the bytes and control tokens alone are 464"):
            ranks_of(size, "--vocab-size")
    assert ranks_of(465, "--vocab-size") == 257 and len(train(TEXTS[:1], 257)) == 257


def test_too_little_text_is_said(tokens: list[bytes]) -> None:
    with pytest.raises(TrainError, match=r"only 2.. of 5,000 tokens"):
        train(["tiny tiny"], 5000)
    with pytest.raises(TrainError, match=r"the texts give only .* of 5,000 tokens"):
        expand(tokens, CHINESE, 5000)
    with pytest.raises(TrainError, match="has 1,500 tokens already"):
        expand(tokens, CHINESE, 1500)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"!!! 0\n", ":1: not a new token"),
        (b"YQ== 0\nYQ== 1\n", ":2: not a new token"),
        (b"YQ== 0\n", "no token for the byte 0"),
        (b"", "no token for the byte 0"),
    ],
)
def test_a_damaged_base_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "base.tiktoken").write_bytes(content)
    with pytest.raises(ModelError, match=said):
        read_tiktoken(tmp_path / "base.tiktoken")


def test_ranks_need_not_be_in_the_order_of_lines(tmp_path: Path) -> None:
    lines = [f"{base64.b64encode(bytes([value])).decode()} {255 - value}\n" for value in range(256)]
    (tmp_path / "base.tiktoken").write_text("".join(lines))
    assert read_tiktoken(tmp_path / "base.tiktoken") == [bytes([value]) for value in reversed(range(256))]


def test_a_vocabulary_is_expanded_and_measured_by_the_commands(tokens: list[bytes], tmp_path: Path) -> None:
    """One token of two digits is left out, 40 are learnt; what the report counts is what the tokenizer gives."""
    try:
        obtain_vocabulary()  # the report has its row
    except DownloadError as error:
        pytest.skip(f"no qwen.tiktoken: {error}")
    base = write_vocabulary(tmp_path / "base", [*tokens[:300], b"20", *tokens[300:900]])
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "zh.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in CHINESE))
    arguments = ("--corpus", tmp_path / "texts", "--base", base, "--vocab-size", 940 + len(CONTROL))
    done = typed("qwen-train", "tokenizer", "expand", *arguments, "--out", tmp_path / "made")
    assert done.returncode == 0, done.stderr
    written = tmp_path / "made" / "qwen.tiktoken"
    assert done.stdout == f"900 tokens kept, 1 of several digits left out, 40 new: {written}\n"
    made = read_tiktoken(written)
    assert made[:900] == tokens[:900] and len(made) == 940 and "天下".encode() in made[900:]
    arguments = ("--tokenizer", tmp_path / "made", "--texts", tmp_path / "texts", "--baseline", "made")
    done = typed("qwen-train", "tokenizer", "report", *arguments, "--out", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "report" / "tokenizers.json").read_text(encoding="utf-8"))["rows"]
    found = {row["tokenizer"]: row for row in rows if row["text"] == "zh"}
    assert {"made", "qwen", "cl100k-like"} <= set(found) and found["made"]["ratio"] == 1
    assert found["made"]["tokens"] == length(made, CHINESE)
    assert found["made"]["bytes"] == sum(len(text.encode()) for text in CHINESE)


def test_a_mistake_in_a_command_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    done = typed(
        "qwen-train", "tokenizer", "expand", "--corpus", tmp_path, "--vocab-size", 400, "--out", tmp_path / "o"
    )
    assert done.returncode == 2 and done.stderr.startswith("qwen-train: --vocab-size: 400 ids; ")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "o").exists()
