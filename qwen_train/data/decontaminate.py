"""Documents that share a 13-gram with a test item, found by the code of `harness contamination`.

The report removes such instruction data (section 2.1, after Brown et al. 2020, appendix C); of the rest it is silent.
"""

from __future__ import annotations

from pathlib import Path

from harness.contamination import Index, N, Words
from harness.overlap import items
from qwen_train.data.config import Decontaminate
from qwen_train.data.files import new_lines, read_lines

FILE = "test-items.jsonl.zst"


def write_items(wanted: Decontaminate, work: Path) -> None:
    """Put the items' texts where every process finds them. Raises TaskError for an unknown task."""
    with new_lines(work / FILE) as out:
        for item in items(wanted.tasks, wanted.data_dir, ()):
            out.write({"name": f"{item.task} {item.id}", "text": item.text})


class TestItems:
    """The items' 13-grams (items of 8 to 12 words: the whole text)."""

    __test__ = False  # no test of pytest's

    def __init__(self, work: Path, *, everywhere: bool) -> None:
        rows = list(read_lines(work / FILE))
        self._names = [row["name"] for row in rows]
        self._index = Index([row["text"] for row in rows], N)
        self._everywhere = everywhere

    def first(self, words: Words, *, instruction: bool) -> str | None:
        """The first item of which a gram stands in the text, and the gram; None if none does, or none is looked for."""
        if not (instruction or self._everywhere):
            return None
        gram = next(self._index.find(words), None)
        if gram is None:
            return None
        return f"{self._names[gram.items[0][0]]}: {' '.join(words.gram(gram.first, gram.size))}"
