"""How many tokens tokenizers need for the same texts, per language and for code (the report's Figure 3, section 2.2).

Texts are the same everyday paragraph in the figure's languages (ours, in `texts/`), or a folder of yours; code is a
fixed list of modules of the running interpreter's standard library.
"""

from __future__ import annotations

import json
import platform
import sysconfig
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.records import as_csv, write_atomic
from qwen_model.catalogue import CATALOGUE, available, obtain_vocabulary
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
from qwen_model.progress import Meter
from qwen_model.qwen_tokenizer import SPLIT, QwenTokenizer, read_ranks
from qwen_model.tokenizer import Tokenizer
from tasks.api import TaskError
from tasks.documents import lines, text_of

TEXTS = Path(__file__).with_name("texts")
ORDER = ("th", "he", "ar", "ko", "vi", "zh", "ja", "tr", "id", "pl", "ru", "nl", "pt", "it", "de", "es", "fr", "en")
"""Of Figure 3, hardest for its tokenizers first; other names follow, code is last."""

CODE = "code"
MODULES = (
    *("argparse", "ast", "calendar", "configparser", "csv", "difflib", "dis", "functools", "heapq", "inspect"),
    *("pdb", "pickle", "random", "shutil", "statistics", "subprocess", "tarfile", "textwrap", "tokenize", "typing"),
)
OURS, CL100K = "qwen", "cl100k-like"
CL100K_RANKS = 99_156
TOGETHER = 6
"""Tokenizers in one table, which then fits 120 columns."""
QUIET_BYTES = 20_000_000
"""Up to so many bytes to encode, a few seconds' work, no progress is shown."""


@dataclass(frozen=True)
class Codec:
    """A tokenizer as it is measured: no token is added, and `what` says what exactly it is."""

    name: str
    what: str
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Text:
    """Documents of one language, each encoded by itself."""

    label: str
    source: str
    documents: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes as UTF-8."""
        return sum(len(document.encode()) for document in self.documents)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One tokenizer on one text."""

    text: str
    tokenizer: str
    bytes: int
    tokens: int
    bytes_per_token: float
    ratio: float
    """Tokens relative to the baseline's on the same text: lower is better."""
    gives_back: str
    """exact; nfc (the text, composed); lossy."""
    by_document: tuple[int, ...]
    """Tokens of each document."""


def codecs(asked: Sequence[str]) -> list[Codec]:
    """Ours, the cl100k-like one, those of catalogue models that are here, and the `asked` names or folders.

    Raises ModelError or DownloadError for one that cannot be had.
    """
    vocabulary = obtain_vocabulary()
    found = [_codec(OURS, "the first Qwen's, 151,643 ranks", QwenTokenizer(vocabulary)), _cl100k_like(vocabulary)]
    here = [name for name in sorted(CATALOGUE) if available(name)]
    for place in dict.fromkeys((*here, *asked)):
        folder = Path(place).expanduser()
        tokenizer = load_tokenizer(folder if folder.is_dir() else find_checkpoint(place))
        taken = any(codec.name == folder.name for codec in found)
        what = "of the catalogue's model" if place in CATALOGUE else f"of {place}"
        found.append(_codec(place if taken else folder.name, what, tokenizer))
    return found


def _codec(name: str, what: str, tokenizer: Tokenizer) -> Codec:
    # of others' tokenizers this is the reading that adds no begin token
    encode = tokenizer.encode if isinstance(tokenizer, QwenTokenizer) else tokenizer.encode_rendered
    return Codec(name, what, encode, tokenizer.decode)


def _cl100k_like(vocabulary: Path) -> Codec:
    import tiktoken

    ranks = {token: rank for token, rank in read_ranks(vocabulary).items() if rank < CL100K_RANKS}
    encoding = tiktoken.Encoding(CL100K, pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={})
    what = "cl100k_base without its 1,100 tokens of several digits (Qwen's first 99,156 ranks), digits single"
    return Codec(CL100K, what, encoding.encode_ordinary, lambda ids: encoding.decode(list(ids)))


def texts(folder: Path | None) -> list[Text]:
    """The texts of a folder (LANGUAGE.txt, or LANGUAGE.jsonl with `text`), else our own; then code.

    A file named code.txt or code.jsonl takes the place of the standard library. Raises TaskError.
    """
    place = folder or TEXTS
    if not place.is_dir():
        raise TaskError(f"--texts {place}: no such folder; name one with files such as en.txt or zh.jsonl")
    found: dict[str, Text] = {}
    for path in sorted(path for path in place.iterdir() if path.suffix in (".txt", ".jsonl")):
        if path.stem in found:
            raise TaskError(f"{path}: a second file named {path.stem}; join the two")
        documents = (text_of(path),) if path.suffix == ".txt" else tuple(text for _, text, _ in lines(path))
        if not any(document.strip() for document in documents):
            raise TaskError(f"{path}: holds no text; remove it")
        found[path.stem] = Text(path.stem, f"files of {folder}" if folder else "one paragraph of ours", documents)
    if not found:
        raise TaskError(f"--texts {place}: no .txt or .jsonl file; put files such as en.txt or zh.jsonl there")
    code = found.pop(CODE, None) or _standard_library()
    places = {label: place for place, label in enumerate(ORDER)}
    return [*sorted(found.values(), key=lambda text: (places.get(text.label, len(ORDER)), text.label)), code]


def _standard_library() -> Text:
    folder = Path(sysconfig.get_path("stdlib"))
    missing = [name for name in MODULES if not (folder / f"{name}.py").is_file()]
    if missing:
        raise TaskError(
            f"{folder}: no {missing[0]}.py; use a Python with its library's source, or give --texts code.txt"
        )
    sources = tuple((folder / f"{name}.py").read_text(encoding="utf-8") for name in MODULES)
    return Text(CODE, f"{len(MODULES)} modules of Python {platform.python_version()}'s standard library", sources)


def measure(texts: Sequence[Text], codecs: Sequence[Codec], baseline: str) -> list[Row]:
    """Every tokenizer on every text, in their order. Raises TaskError if `baseline` is none of them."""
    names = [codec.name for codec in codecs]
    if baseline not in names:
        raise TaskError(f"--baseline {baseline}: not among the tokenizers {', '.join(names)}; add it with --tokenizer")
    work = sum(text.size for text in texts) * len(codecs)
    rows = []
    with Meter("encoding", work) if work > QUIET_BYTES else nullcontext() as meter:
        for text in texts:
            counts = {}
            for codec in codecs:  # ours comes first: it refuses what tiktoken would die of
                encoded = [codec.encode(document) for document in text.documents]
                back = _gives_back(text.documents, [codec.decode(ids) for ids in encoded])
                counts[codec.name] = (tuple(map(len, encoded)), back)
                if meter:
                    meter.finish_part(text.size)
            rows += [
                Row(
                    text=text.label,
                    tokenizer=name,
                    bytes=text.size,
                    tokens=sum(tokens),
                    bytes_per_token=text.size / sum(tokens),
                    ratio=sum(tokens) / sum(counts[baseline][0]),
                    gives_back=back,
                    by_document=tokens,
                )
                for name, (tokens, back) in counts.items()
            ]
    return rows


def _gives_back(documents: Sequence[str], decoded: Sequence[str]) -> str:
    if list(decoded) == list(documents):
        return "exact"
    composed = [unicodedata.normalize("NFC", document) for document in documents]
    return "nfc" if list(decoded) == composed else "lossy"


def tables(rows: Sequence[Row]) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Header and lines for a terminal: per text, each tokenizer's bytes per token and, behind it, the ratio."""
    names = list(dict.fromkeys(row.tokenizer for row in rows))
    for block in (names[first : first + TOGETHER] for first in range(0, len(names), TOGETHER)):
        lines: dict[str, list[str]] = {}
        for row in rows:
            line = lines.setdefault(row.text, [row.text, f"{row.bytes:,}"])
            if row.tokenizer in block:
                mark = {"exact": "", "nfc": " n", "lossy": " !"}[row.gives_back]
                line.append(f"{row.bytes_per_token:.2f} ({row.ratio:.2f}){mark}")
        yield ["text", "bytes", *("\n".join(textwrap.wrap(name, 14)) for name in block)], list(lines.values())


def notes(texts: Sequence[Text], codecs: Sequence[Codec], baseline: str, rows: Sequence[Row]) -> list[str]:
    """What the table shows, and of what: one line each."""
    found = [
        f"bytes per token (tokens relative to {baseline}'s: lower is better)",
        f"texts: {texts[0].source}; {CODE}: {texts[-1].source}",
    ]
    found += [f"{codec.name}: {codec.what}" for codec in codecs]
    if any(row.gives_back == "nfc" for row in rows):
        found.append("n: gives the text back in composed form (NFC)")
    lossy = any(row.gives_back == "lossy" for row in rows)
    found.append("!: lossy, does not give the text back" if lossy else "every tokenizer gives every text back")
    return found


def write(folder: Path, texts: Sequence[Text], codecs: Sequence[Codec], baseline: str, rows: Sequence[Row]) -> None:
    """tokenizers.csv (one line per text and tokenizer), documents.csv (and document), tokenizers.json (the first, with
    what was measured)."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = [{name: value for name, value in asdict(row).items() if name != "by_document"} for row in rows]
    write_atomic(folder / "tokenizers.csv", as_csv(plain))
    by_document = [
        {"text": row.text, "document": number, "tokenizer": row.tokenizer, "tokens": tokens}
        for row in rows
        for number, tokens in enumerate(row.by_document, start=1)
    ]
    write_atomic(folder / "documents.csv", as_csv(by_document))
    whole = {
        "baseline": baseline,
        "tokenizers": {codec.name: codec.what for codec in codecs},
        "texts": {text.label: text.source for text in texts},
        "rows": plain,
    }
    write_atomic(folder / "tokenizers.json", json.dumps(whole, ensure_ascii=False, indent=1) + "\n")
