"""Token files: nothing lost, and an order of batches that is a function of (seed, step)."""

from __future__ import annotations

import collections
import json

import numpy as np
import pytest

from qwen_model import load_tokenizer
from qwen_train.errors import TrainError
from qwen_train.parallel import World
from qwen_train.tokens.order import BLOCK, Mixture, TokenBatches, permuted
from qwen_train.tokens.store import MANIFEST, open_tokens
from qwen_train.tokens.write import write_tokens
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
    with pytest.raises(TrainError, match="less than 1/1024"):
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
