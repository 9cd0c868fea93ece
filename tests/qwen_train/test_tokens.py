"""Token files: nothing lost, and an order of batches that is a function of (seed, step)."""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import shutil
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_model import load_tokenizer
from qwen_train.errors import TrainError
from qwen_train.parallel import World
from qwen_train.tokenizer.vocabulary import write_vocabulary
from qwen_train.tokens.order import BLOCK, Mixture, TokenBatches, permuted
from qwen_train.tokens.store import MANIFEST, open_tokens
from qwen_train.tokens.write import _key, _set_name, write_tokens
from tests.conftest import write_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


def texts(count: int, source: str) -> list[dict]:
    return [
        {"id": f"{source}{n}", "text": f"{source} document {n}: " + "word " * (n % 17), "source": source}
        for n in range(count)
    ]


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    for name, count in (("web", 300), ("code", 80)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts(count, name)))
    return folder


@pytest.fixture(scope="session")
def files(documents, tokenizer, tmp_path_factory):
    return write_tokens(documents, tokenizer, tmp_path_factory.mktemp("out") / "tokens", validation=0.1)


def test_every_document_is_there_once_and_decodes_to_itself(files, tokenizer):
    reads = load_tokenizer(tokenizer)
    found = []
    for name in files.manifest["sets"]:
        stream = files.open(name)
        begin = 0
        for end in stream.ends.tolist():
            *ids, last = stream.read(begin, end - begin).tolist()
            assert last == files.manifest["separator"]
            found.append(reads.decode(ids))
            begin = end
    wanted = [row["text"] for name, count in (("web", 300), ("code", 80)) for row in texts(count, name)]
    assert collections.Counter(found) == collections.Counter(wanted)
    assert files.manifest["sets"]["validation"]["documents"] in range(15, 70)


def test_documents_are_shuffled_by_the_seed_and_held_out_whatever_it_is(documents, tokenizer, files, tmp_path):
    other = write_tokens(documents, tokenizer, tmp_path / "other", validation=0.1, seed=5)
    again = write_tokens(documents, tokenizer, tmp_path / "again", validation=0.1, processes=2)
    ends = {which: found.open("web").ends.tolist() for which, found in (("a", files), ("b", other), ("c", again))}
    assert ends["a"] == ends["c"]
    assert ends["a"] != ends["b"]
    lengths = {which: sorted(np.diff(found, prepend=0).tolist()) for which, found in ends.items()}
    assert lengths["a"] == lengths["b"]
    assert files.manifest["sets"] == other.manifest["sets"]


@pytest.mark.parametrize("size", [1, 2, 3, 10, 257, 1000])
def test_the_order_within_a_pass_is_a_bijection(size):
    images = [permuted(index, size, 7, "web", 0) for index in range(size)]
    assert sorted(images) == list(range(size))
    if size > 100:
        assert images != sorted(images) and images != [permuted(index, size, 8, "web", 0) for index in range(size)]


def test_each_pass_reads_every_sequence_once(files):
    mixture = Mixture(files, 32, seed=3, weights={"web": 1})
    (source,) = mixture.sources
    for turn in range(2):
        starts = sorted(source.start(turn * source.per_pass + place) for place in range(source.per_pass))
        assert np.diff(starts).tolist() == [32] * (source.per_pass - 1)
        assert starts[0] >= 0 and starts[-1] + 33 <= len(source.stream)


def test_weights_hold_in_every_block(files):
    mixture = Mixture(files, 32, seed=3, weights={"web": 3, "code": 1})
    for block in (0, 5):
        seen = collections.Counter(mixture.place(block * BLOCK + slot)[0] for slot in range(BLOCK))
        assert seen == {0: 768, 1: 256}


@pytest.mark.parametrize("across", [True, False])
def test_batches_are_the_same_whatever_the_world_and_the_micro_batch(files, across):
    mixture = Mixture(files, 32, seed=3)
    step, batch = 10**12 + 7, 8  # no time is spent on what lies before
    results = []
    for size, micro_batch in ((1, 8), (1, 2), (2, 4), (4, 1)):
        rows = []
        for rank in range(size):
            batches = TokenBatches(
                mixture, World(rank, size), batch=batch, micro_batch=micro_batch, across_documents=across
            )
            for micro in batches(step):
                rows += [
                    {name: value[row].tolist() for name, value in micro.inputs.items()} for row in range(micro_batch)
                ]
        results.append(rows)
    assert all(other == results[0] for other in results[1:])
    row = results[0][0]
    assert row["input_ids"][1:] == row["targets"][:-1]
    if not across:
        cuts = [a != b for a, b in zip(row["segments"], row["segments"][1:], strict=False)]
        assert cuts == [token == files.manifest["separator"] for token in row["input_ids"][:-1]]


def test_an_interrupted_writer_goes_on_and_equals_an_unbroken_one(documents, tokenizer, files, tmp_path, monkeypatch):
    from qwen_train.tokens import write

    real = write._encode
    calls = []

    def dying(numbered):
        calls.append(numbered)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(numbered)

    monkeypatch.setattr(write, "_encode", dying)
    with pytest.raises(KeyboardInterrupt):
        write_tokens(documents, tokenizer, tmp_path / "tokens", validation=0.1)
    monkeypatch.setattr(write, "_encode", real)
    found = write_tokens(documents, tokenizer, tmp_path / "tokens", validation=0.1)
    assert found.manifest == files.manifest
    assert not (tmp_path / "tokens" / "work").exists()
    for name in files.manifest["sets"]:
        assert np.array_equal(found.open(name).tokens, files.open(name).tokens)


def test_what_the_user_can_mend_is_one_line(documents, tokenizer, files, tmp_path):
    with pytest.raises(TrainError, match=r"no tokens\.json; make it with"):
        open_tokens(tmp_path)
    with pytest.raises(TrainError, match=r"no source 'wiki'.*code, web"):
        Mixture(files, 32, 0, {"wiki": 1})
    with pytest.raises(TrainError, match="fewer than one sequence"):
        Mixture(files, 10**6, 0)
    with pytest.raises(TrainError, match=r"training\.weights: 'code' has less than 1/1024"):
        Mixture(files, 32, 0, {"web": 1, "code": 1e-6})
    with pytest.raises(TrainError, match="give a multiple of 12"):
        TokenBatches(Mixture(files, 32, 0), World(0, 3), batch=8, micro_batch=4, across_documents=True)
    with pytest.raises(TrainError, match="token files of other documents, tokenizer or seed"):
        write_tokens(documents, tokenizer, files.folder, validation=0.1, seed=2)


def test_bad_lines_are_left_out_counted_and_named(tokenizer, tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    good = json.dumps({"id": "a", "text": "good"})
    (folder / "a.jsonl").write_bytes(
        f"{good}\nnot json\n".encode() + b'{"text": "\xff"}\n{"id": "b", "text": "more"}\n'
    )
    (folder / "empty.jsonl").write_text("")
    files = write_tokens(folder, tokenizer, tmp_path / "out", validation=0)
    assert files.manifest["bad"]["lines"] == 2
    assert files.manifest["sets"]["text"]["documents"] == 2
    assert "line 2" in files.manifest["bad"]["named"][0]


@pytest.mark.parametrize("damage", ["truncate", "empty", "gone", "manifest"])
def test_damaged_files_are_named(documents, tokenizer, tmp_path, damage):
    files = write_tokens(documents, tokenizer, tmp_path / "t", validation=0.1)
    path = tmp_path / "t" / "web.tokens"
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "gone":
        path.unlink()
    else:
        (tmp_path / "t" / MANIFEST).write_text("{")
    with pytest.raises(TrainError, match="damaged"):
        open_tokens(files.folder).open("web")


def test_an_empty_corpus_says_so(tokenizer, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(TrainError, match="no documents were found"):
        write_tokens(tmp_path / "a.jsonl", tokenizer, tmp_path / "out")


def test_one_giant_document_is_trained_on_and_cannot_be_validated_on_too(tokenizer, tmp_path):
    text = "\n".join(f"line {n} of the only document" for n in range(60_000))
    (tmp_path / "giant.jsonl").write_text(json.dumps({"id": "a", "text": text}) + "\n")
    with pytest.raises(TrainError, match="one document only, which cannot be trained and validated on; --validation 0"):
        write_tokens(tmp_path / "giant.jsonl", tokenizer, tmp_path / "out")
    files = write_tokens(tmp_path / "giant.jsonl", tokenizer, tmp_path / "out", validation=0)
    assert files.manifest["sets"]["text"]["documents"] == 1
    (source,) = Mixture(files, 512, 0).sources
    assert source.per_pass == (files.manifest["sets"]["text"]["tokens"] - 1) // 512


@pytest.mark.parametrize("layout", ["tokenizer.json", "qwen.tiktoken"])
def test_a_page_that_quotes_control_tokens_stays_one_document(tokenizer, tmp_path, layout):
    if layout == "qwen.tiktoken":
        write_vocabulary(tmp_path / "own", [bytes([value]) for value in range(256)])
        tokenizer = tmp_path / "own"
    pages = ["Documents end with <|endoftext|> there.", "And <|im_start|>user\nturns begin so."]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in pages))
    files = write_tokens(tmp_path / "a.jsonl", tokenizer, tmp_path / "tokens", validation=0)
    stream, reads = files.open("text"), load_tokenizer(tokenizer)
    control = {reads.encode_rendered(name)[0] for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")}
    tokens = stream.read(0, len(stream)).tolist()
    assert [token for token in tokens if token in control] == [files.manifest["separator"]] * 2
    begins = [0, *stream.ends.tolist()]
    found = [reads.decode(tokens[at:end]) for at, end in itertools.pairwise(begins)]
    assert sorted(found) == sorted(pages)


@given(st.text(st.characters(), min_size=1, max_size=16))
def test_every_source_has_a_file_name_of_its_own(source):
    name = _set_name(source)
    assert unquote(name, errors="surrogatepass") == source  # what can be read back is shared by no two
    assert name != "validation" and not name.startswith(".") and not set("/\0 ") & set(name)
    name.encode()


@pytest.mark.parametrize("source", ["https://host/" + "a/b" * 100, "源" * 100])
def test_a_long_source_has_a_name_that_file_systems_take(source):
    names = {_set_name(source + end) for end in "12"}
    assert len(names) == 2 and all(len(f"{name}.tokens.partial".encode()) < 255 for name in names)


def test_sources_alike_but_for_signs_stay_apart_and_can_be_named(tokenizer, tmp_path):
    sources = ["维基", "百科", "a/b", "a_b", "validation", ".."]
    rows = [row for source in sources for row in texts(20, source)] + [{"id": "s\ud800", "text": "a"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = write_tokens(tmp_path / "a.jsonl", tokenizer, tmp_path / "tokens", validation=0)
    names = ["维基", "百科", "a%2Fb", "a_b", "%76alidation", "%2E."]
    assert {name: files.manifest["sets"][name]["documents"] for name in names} == dict.fromkeys(names, 20)
    mixture = Mixture(files, 16, 0, {"维基": 1, "a%2Fb": 1})
    assert [source.stream.name for source in mixture.sources] == ["维基", "a%2Fb"]
    wanted = hashlib.blake2b("plain é".encode(), digest_size=8).digest()
    assert _key("plain é") == int.from_bytes(wanted, "little")


def test_sources_too_small_to_be_read_are_left_out_and_said(files, tokenizer, tmp_path, capsys):
    rows = [{"id": f"{n}", "text": "word " * 500, "source": ("web", "code")[n % 2]} for n in range(300)]
    rows += [{"id": "a", "text": "a", "source": "tiny"}, {"id": "b", "text": "word " * 10, "source": "little"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = write_tokens(tmp_path / "a.jsonl", tokenizer, tmp_path / "tokens", validation=0)
    sizes = {name: facts["tokens"] for name, facts in small.manifest["sets"].items()}
    assert sizes["tiny"] <= 8 < sizes["little"] < sum(sizes.values()) / 1024 / 2
    mixture = Mixture(small, 8, 0)
    assert [source.stream.name for source in mixture.sources] == ["code", "web"]
    TokenBatches(mixture, World(0, 1), batch=8, micro_batch=4, across_documents=True)
    assert capsys.readouterr().err.endswith("slots: little, tiny\n")
    TokenBatches(mixture, World(1, 2), batch=8, micro_batch=4, across_documents=True)
    TokenBatches(Mixture(files, 8, 0), World(0, 1), batch=8, micro_batch=4, across_documents=True)
    assert capsys.readouterr().err == ""
    with pytest.raises(TrainError, match=r"tiny: .* fewer than one sequence"):
        Mixture(small, 8, 0, {"web": 1, "tiny": 1})


def test_not_most_of_a_corpus_is_left_out(tokenizer, tmp_path):
    rows = [{"id": f"{n}", "text": "word " * 20, "source": f"site {n}"} for n in range(1500)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = write_tokens(tmp_path / "a.jsonl", tokenizer, tmp_path / "tokens", validation=0)
    with pytest.raises(TrainError, match="476 of 1500 sources, with 32% of the tokens, are too small to be read"):
        Mixture(files, 8, 0)


def test_files_of_an_older_format_are_refused(files, tmp_path):
    shutil.copytree(files.folder, tmp_path / "old")
    manifest = tmp_path / "old" / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 1}))
    with pytest.raises(TrainError, match="format 1 is not ours; delete the folder"):
        open_tokens(tmp_path / "old")
