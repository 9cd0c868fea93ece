"""The steps one by one: normal form, rules, masks, languages, HTML, scores, test items, mixing."""

from __future__ import annotations

import gzip
import json
import math
import random
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_train.data import html, pipeline, scores
from qwen_train.data.config import DataConfig, Decontaminate, Perplexity, Quality
from qwen_train.data.language import language
from qwen_train.data.normalise import key, normalise
from qwen_train.data.pii import KINDS, mask
from qwen_train.data.pipeline import run
from qwen_train.data.rules import RULES, Facts, broken
from qwen_train.errors import TrainError
from qwen_train.tokenizer import vocabulary
from tests.qwen_train.data.corpora import prose, rows_of, write_jsonl

BENCH = Path(__file__).parents[4] / "shared" / "bench"


@given(st.text(max_size=80))
def test_the_normal_form(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once and unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(character) == "Cs" for character in once) and "\r" not in once
    assert all(line == line.rstrip() for line in once.split("\n"))


def test_what_is_kept_and_what_goes() -> None:
    assert normalise("\ufeffCafe\u0301 \t\r\n\r\n\r\n\r\n\r\n    x\u200b = 1\x00\r") == "Café\n\n\n    x = 1"
    assert normalise("e\u200b\u0301") == "é"
    assert key("Same  TEXT，１２") == key("same text,12\n") != key("same text,13")
    assert key("a+b") != key("a-b")  # signs tell programs apart


ENGLISH = """We would say that the boat and all of the people with it have to be home before the evening bell
rings, since the tide turns early at this time of the year and nobody wants to sleep on the stones
again. Last spring two brothers came back so late that their mother had already asked the harbour
master for a lamp, and she has not forgotten it."""


@pytest.mark.parametrize(
    ("rule", "kind", "text", "measured"),
    [
        ("few words", "text", "the end of and", 4),
        ("few code words", "code", "x = 1", 2),
        ("short words", "text", "a b the of " * 40, 1.75),
        ("long words", "text", "incomprehensibilities unconstitutionally of the " * 40, (21 + 18 + 2 + 3) / 4),
        ("few letters", "text", "the of 12 34 " * 40, 0.5),
        ("symbols", "text", "the # of word " * 40, 1 / 3),
        ("bullets", "text", "\n".join(f"- the {n} of" for n in range(40)), 1),
        ("ellipses", "text", "\n".join(f"the {n} of..." for n in range(40)), 1),
        ("few stop words", "text", "alpha beta gamma delta " * 30, 0),
        ("repeated lines", "text", "the same line of\n" * 40, 39 / 40),
        ("repeated paragraphs", "text", "the same of\n\n" * 40, 1 - 2 / 41),
        ("repeated words", "text", "one two three the of six seven eight nine ten " * 10, 0.9),
        ("one pair of words", "text", "the of " * 40, 2 * 40 / 80),
        ("placeholder", "text", "the of Lorem ipsum " + "word " * 60, 1),
        ("long line", "code", "x" * 2000 + " word" * 20, 2100),
        ("long lines", "code", ("y " * 75 + "\n") * 5, 149),
        ("few plain characters", "code", "((((((((((a b c d e f g h i j k l))))))))))" + "(" * 100, 12 / 143),
        ("generated", "code", "# This file is auto-generated. Do not edit.\n" + "word " * 20, 1),
    ],
)
def test_each_rule_drops_what_it_names(rule: str, kind: str, text: str, measured: float) -> None:
    found = dict(entry.split(": ") for entry in broken(Facts(text, "en"), kind, {}))
    assert float(found[rule]) == pytest.approx(measured, rel=0.01), found
    assert rule not in dict(entry.split(": ") for entry in broken(Facts(text, "en"), kind, {rule: None}))


def test_every_rule_is_tested_and_prose_breaks_none() -> None:
    assert broken(Facts(ENGLISH, "en"), "text", {}) == []
    assert broken(Facts("天地玄黄宇宙洪荒，" * 2 + prose(2), "zh"), "text", {}) == []
    assert {rule.name for rule in RULES} == {
        *("few words", "few code words", "many words", "short words", "long words", "few letters", "symbols"),
        *("bullets", "ellipses", "few stop words", "repeated lines", "repeated paragraphs", "repeated words"),
        *("one pair of words", "placeholder", "long line", "long lines", "few plain characters", "generated"),
    }


@pytest.mark.parametrize(
    ("kind", "yes", "no"),
    [
        ("email", "write to jo.smith+x@mail.example.org.", "@decorator and user@host and a@b"),
        ("card", "card 4111 1111 1111 1111,", "number 4111 1111 1111 1112 and 0000 0000 0000 0000"),
        ("ip", "from 8.8.8.8:", "version 1.2.3.4.5, 127.0.0.1, 192.168.1.1, 999.1.1.1"),
        ("phone", "call +86 139 1234 5678 now", "in 2023-2024, 12345678"),
        ("phone", "手机 13912345678。", "23912345678"),
        ("id", "身份证 11010519491231002X，", "110105194912310021"),
        ("key", "AKIA" + "ABCDEFGHIJKLMNOP ", "AKIA and ghp_short"),
    ],
)
def test_masks(kind: str, yes: str, no: str) -> None:
    masked, found = mask(yes, [kind])
    assert found == Counter({kind: 1}) and f"<{kind}>" in masked and len(masked) < len(yes)
    assert mask(no, KINDS) == (no, Counter())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The quick brown fox jumps over the lazy dog, and everyone in the village was glad of it.", "en"),
        ("天下专研学术的人很多，都认为自己的学问达到了顶峰。古代所谓的道术，究竟存在于哪里呢？", "zh"),
        ("Der schnelle braune Fuchs springt über den faulen Hund, und alle freuten sich darüber.", "de"),
        ("", "und"),
    ],
)
def test_languages(text: str, code: str) -> None:
    assert language(text) == code


def test_html() -> None:
    page = f"<!DOCTYPE html><html><body><nav>Home About</nav><article><p>{prose(3)}</p></article></body></html>"
    assert html.is_html("\n " + page) and not html.is_html("a <html> in words") and not html.is_html("")
    assert normalise(html.extract(page)).split() == prose(3).split()
    assert html.extract("<html></html>") == "" and html.extract("<html") == ""


def test_rows_of_html_are_extracted_and_pages_without_text_dropped(tmp_path: Path) -> None:
    corpus = write_jsonl(
        tmp_path / "web.jsonl",
        [
            {"id": "page", "text": f"<html><body><article><p>{prose(1)}</p></article></body></html>"},
            {"id": "none", "text": "<html><body></body></html>"},
        ],
    )
    run(DataConfig(), [corpus], tmp_path / "out")
    assert {row["id"]: row["fate"] for row in rows_of(tmp_path / "out", "fates")} == {"page": "kept", "none": "html"}


def test_the_quality_classifier_learns_a_difference(tmp_path: Path) -> None:
    draw = random.Random(0)
    calm, loud = ["calm", "measured", "reasoned", "careful"], ["win", "click", "free", "prize"]
    texts = {
        name: [" ".join(prose(seed).split() + draw.choices(words, k=15)) for seed in range(first, first + 40)]
        for name, words, first in (("good", calm, 0), ("bad", loud, 100))
    }
    for name, side in texts.items():
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": text} for text in side])
    fresh = [
        {"id": f"{name}{n}", "text": " ".join([prose(900 + n), *words * 3])}
        for n in range(5)
        for name, words in (("good", calm), ("bad", loud))
    ]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", fresh)
    config = DataConfig(quality=Quality(good=tmp_path / "good.jsonl", bad=tmp_path / "bad.jsonl"))
    whole = run(config, [corpus], tmp_path / "out")
    fates = {row["id"]: row["fate"] for row in rows_of(tmp_path / "out", "fates")}
    assert all(fate == ("kept" if name.startswith("good") else "quality") for name, fate in fates.items())
    assert whole["quality"]["held_out_auc"] > 0.95
    write_jsonl(tmp_path / "few.jsonl", [{"text": text} for text in texts["good"][:3]])
    with pytest.raises(TrainError, match="3 examples; give at least 10"):
        scores.train_quality(Quality(good=tmp_path / "few.jsonl", bad=tmp_path / "bad.jsonl"), "text", tmp_path)


def test_the_classifier_learns_the_text_of_pages_as_it_will_judge_it(tmp_path: Path) -> None:
    """Good pages and bad ones in plain words: tags are no sign of goodness."""
    sides = {"good": ("calm", 0, "<html><body><p class='x'>{}</p></body></html>"), "bad": ("click", 100, "{}")}
    for name, (word, first, frame) in sides.items():
        texts = [frame.format(f"{prose(first + n)} {word} {word}") for n in range(20)]
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": text} for text in [*texts, "<html><body></body></html>"]])
    wanted = Quality(good=tmp_path / "good.jsonl", bad=tmp_path / "bad.jsonl")
    facts = scores.train_quality(wanted, "text", tmp_path)
    assert (facts["good"], facts["bad"]) == (20, 20)  # the pages without text are none
    learnt = scores.Scores(DataConfig(quality=wanted), tmp_path)
    plain = prose(500)
    assert learnt.quality(f"{plain} html body p class x") == pytest.approx(learnt.quality(plain), abs=0.02)
    assert learnt.quality(f"{plain} calm calm") > 0.5 > learnt.quality(f"{plain} click click")


def test_a_damaged_file_of_examples_is_named(tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", [{"text": prose(n)} for n in range(20)])
    (tmp_path / "bad.jsonl.gz").write_bytes(gzip.compress(good.read_bytes())[:-20])
    with pytest.raises(TrainError, match=r"quality: .*bad\.jsonl\.gz: damaged or unreadable"):
        scores.train_quality(Quality(good=good, bad=tmp_path / "bad.jsonl.gz"), "text", tmp_path)


def test_a_vocabulary_is_learnt_from_the_text_of_pages(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        f"<html><body><nav>menu menu</nav><article><p>{prose(1)}</p></article></body></html>"
    )
    (text,) = vocabulary.texts([tmp_path])
    assert text.split() == prose(1).split()


def test_the_perplexity_is_the_models(tiny: Path, tmp_path: Path) -> None:
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    text = "def make_checkpoint(folder: Path) -> Path:\n    return folder"
    ids = torch.tensor([Tokenizer.from_file(str(tiny / "tokenizer.json")).encode(text).ids[:20]])
    loss = AutoModelForCausalLM.from_pretrained(tiny)(ids, labels=ids).loss.item()
    made = scores.Scores(DataConfig(perplexity=Perplexity(model=str(tiny), most=1.5, tokens=20)), tmp_path)
    dropped = made.dropped(text)
    assert dropped and dropped[0] == "perplexity" and float(dropped[1][0]) == pytest.approx(math.exp(loss), rel=1e-3)
    assert made.dropped("") is None


def test_after_a_run_threads_are_as_before_and_no_model_stays(tiny: Path, tmp_path: Path) -> None:
    import torch

    corpus = write_jsonl(tmp_path / "a.jsonl", [{"text": prose(n)} for n in range(3)])
    torch.set_num_threads(2)  # the fixture of all tests here puts it back
    run(DataConfig(perplexity=Perplexity(model=str(tiny), most=1e9, tokens=20)), [corpus], tmp_path / "out", 1)
    assert torch.get_num_threads() == 2 and pipeline._MINE == []


def test_instructions_with_test_items_are_removed(tmp_path: Path) -> None:
    """As `harness contamination` finds them; other documents only when asked."""
    items = [prose(500 + n, 30) for n in range(3)]
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    write_jsonl(
        tmp_path / "data" / "gsm8k" / "test.jsonl", [{"question": item, "answer": "It is 3.\n#### 3"} for item in items]
    )
    write_jsonl(tmp_path / "data" / "gsm8k" / "train.jsonl", [{"question": "?", "answer": "#### 3"}])
    leak = " ".join(items[1].split()[5:25])
    rows = [
        {"id": "clean", "instruction": "Say it.", "output": "It."},
        {"id": "leak", "instruction": leak, "output": "3"},
    ]
    instructions = write_jsonl(tmp_path / "sft.jsonl", rows)
    with instructions.open("a") as file:
        file.write(json.dumps({"id": "odd", "question": "?"}) + "\n")
    corpus = write_jsonl(
        tmp_path / "web.jsonl", [{"id": "web", "text": prose(1) + " " + leak}, {"id": "w", "text": prose(2)}]
    )
    for everywhere in (False, True):
        wanted = Decontaminate(tasks=("gsm8k",), data_dir=tmp_path / "data", all_documents=everywhere)
        out = tmp_path / f"out{everywhere}"
        run(DataConfig(instructions=(instructions,), decontaminate=wanted), [corpus], out)
        fates = {row["id"]: row for row in rows_of(out, "fates")}
        assert fates["leak"]["fate"] == "test item" and fates["leak"]["why"][0].startswith("gsm8k ")
        assert fates["clean"]["fate"] == fates["w"]["fate"] == "kept"
        assert fates["web"]["fate"] == ("test item" if everywhere else "kept")
        assert [row["why"] for row in rows_of(out, "quarantine")] == [
            "neither 'text', nor `messages`, nor `instruction` with `output`"
        ]


def test_chosen_sources_are_repeated(tmp_path: Path) -> None:
    rows = [{"id": f"b{n}", "text": prose(n, 60), "source": "books"} for n in range(60)]
    rows += [{"id": f"w{n}", "text": prose(100 + n, 60), "source": "web"} for n in range(60)]
    whole = run(
        DataConfig(repeat={"books": 2.5, "web": 0}), [write_jsonl(tmp_path / "a.jsonl", rows)], tmp_path / "out"
    )
    copies = Counter(row["id"] for row in rows_of(tmp_path / "out", "documents"))
    assert set(copies.values()) == {2, 3} and not any(name.startswith("w") for name in copies)
    assert sum(copies.values()) == pytest.approx(150, abs=15) and whole["sources"]["books"]["written"] == sum(
        copies.values()
    )


def test_masks_languages_and_samples_reach_the_files(tmp_path: Path) -> None:
    rows = [
        {"id": "mail", "text": ENGLISH + " jo@example.org"},
        {"id": "de", "text": "Der Hund und die Katze sind im Haus. " * 20},
    ]
    config = DataConfig(languages=("en", "zh"), rules={"repeated words": None, "one pair of words": None})
    whole = run(config, [write_jsonl(tmp_path / "a.jsonl", rows)], tmp_path / "out")
    fates = {row["id"]: row for row in rows_of(tmp_path / "out", "fates")}
    assert fates["de"]["fate"] == "language" and fates["de"]["why"] == ["de"]
    assert fates["mail"]["masked"] == whole["masked"] == {"email": 1}
    assert "<email>" in rows_of(tmp_path / "out", "documents")[0]["text"]
    assert whole["samples"]["language"][0]["begins"].startswith("Der Hund")


@pytest.mark.skipif(not BENCH.is_dir(), reason="no ../shared/bench here")
@pytest.mark.slow
def test_real_documents_in_two_languages(tmp_path: Path) -> None:
    whole = run(DataConfig(), [BENCH / "pretrain" / "zh_manpages.jsonl"], tmp_path / "out")
    assert whole["documents"] == 703 and whole["written"]["documents"] > 400
    assert whole["languages"]["zh"] > 300
