"""The first Qwen's tokenizer, from `qwen.tiktoken` (report, section 2.2), and vocabularies of yours in that format.

Byte-level BPE of 151,643 ranks: cl100k_base without its tokens of several digits, then 52,487 added ones, many of them
Chinese; every digit is a token of its own. Behind the ranks are 208 control tokens, which Qwen2.5 names otherwise.
A folder with another vocabulary (`qwen-train tokenizer`) says so in its tokenizer_config.json, by the file's sha256.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

from qwen_model import chatml
from qwen_model.catalogue import VOCABULARY
from qwen_model.config import ModelError, read_json
from qwen_model.tokenizer import Tokenizer

FILE = VOCABULARY.hub_file
RANKS = 151_643
"""The released file's."""
SETTINGS, OWN = "tokenizer_config.json", "vocabulary_sha256"
"""Where a folder with another vocabulary has that file's hash."""
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""cl100k_base's pattern with one digit where that takes up to three."""

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{n}|>" for n in range(205)))
"""From id 151643 up."""

_BLANKS = 999_999
"""Blanks in a row that tiktoken's pattern matcher dies of (a panic, no exception that could be caught)."""


class QwenTokenizer(Tokenizer):
    """Text to ids and back. A text is normalised to NFC first, as the released `tokenize` does, except in `encode_raw`.

    `size` counts the ids, control tokens included; embeddings have more rows.
    """

    def __init__(self, vocabulary: Path, checkpoint: Path | None = None) -> None:
        """Read a `qwen.tiktoken`: the released one, or the one that `checkpoint` says it has.

        `checkpoint` is a folder whose generation_config.json tells what ends a text, and whether the model chats (its
        `chat_format` is "raw" where it does not); without one it does. Raises ModelError that names the first bad line.
        """
        import tiktoken

        own = read_json(checkpoint / SETTINGS).get(OWN) if checkpoint else None
        ranks = read_ranks(vocabulary, own or VOCABULARY.sha256)
        self.ranks = len(ranks)
        """Ids of bytes; the control tokens follow."""
        self.size = self.ranks + len(CONTROL)
        self.end_of_text, self.im_start, self.im_end = range(self.ranks, self.ranks + 3)
        self._control = dict(zip(CONTROL, range(self.ranks, self.size), strict=True))
        self._encoding = tiktoken.Encoding("qwen", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens=self._control)
        self.config = {}
        settings = read_json(checkpoint / "generation_config.json") if checkpoint else {}
        chats = settings.get("chat_format") != "raw"
        self.chat_template = chatml.TEMPLATE if chats else None
        ends = settings.get("eos_token_id", self.end_of_text)
        # the released chat stops at <|im_start|> too, and its generation_config.json names neither
        self.eos_ids = (*(ends if isinstance(ends, list) else [ends]), *((self.im_end, self.im_start) if chats else ()))

    def encode(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """Ids of a text. Control tokens are read only where `allowed_special` names them: a user cannot forge one.

        A lone surrogate becomes U+FFFD. Raises ModelError for a name that is no control token, and for a million blanks
        in a row.
        """
        unknown = sorted(set(allowed_special) - self._control.keys())
        if unknown:
            raise ModelError(f"allowed_special: {unknown[0]!r} is no control token of Qwen's; see docs/tokenizer.md")
        _refuse_blanks(text)
        text = unicodedata.normalize("NFC", text)
        return self._encoding.encode(text, allowed_special=set(allowed_special), disallowed_special=())

    def begin(self) -> tuple[str, int]:
        """The token before a text that has nothing before it."""
        return CONTROL[0], self.end_of_text

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of a text in which every control token is read: never with a user's words in it (see `encode_chat`)."""
        return self.encode(text, allowed_special=CONTROL)

    def encode_letters(self, text: str) -> list[int]:
        """Ids of a text in which no control token is read."""
        return self.encode(text)

    def encode_raw(self, text: str) -> list[int]:
        """Ids without normalisation or control tokens, as the released base scripts of GSM8K and HumanEval encode."""
        _refuse_blanks(text)
        return self._encoding.encode_ordinary(text)

    def encode_chat(self, messages: Sequence[tuple[str, str]], prefill: str = "") -> list[int]:
        """Ids that ask for the assistant's next turn, begun with `prefill`; nothing in them forges a control token.

        Raises ModelError for an unknown role, or if the checkpoint does not chat.
        """
        if self.chat_template is None:
            raise ModelError("this checkpoint has no chat template: use a base protocol (a task without -chat)")
        return chatml.encode_prompt(self, messages, prefill)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without control tokens and unused rows. Bytes that are no UTF-8 become U+FFFD."""
        return self._encoding.decode([token for token in ids if token < self.ranks], errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id below `ranks`."""
        return self._encoding.decode_single_token_bytes(token)


def read_ranks(vocabulary: Path, sha256: str = VOCABULARY.sha256) -> dict[bytes, int]:
    """Bytes to rank of the file with this hash. Raises ModelError that names a line unlike the released."""
    if not vocabulary.is_file():
        raise ModelError(f"{vocabulary}: no such file; `qwen_model.catalogue.obtain_vocabulary()` fetches it")
    data = vocabulary.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        if sha256 != VOCABULARY.sha256:
            raise ModelError(f"{vocabulary}: is not the file whose sha256 {SETTINGS} has; copy both anew")
        raise ModelError(
            f"{vocabulary}: {_fault(data)}; put the file of {VOCABULARY.hub_repo} in its place"
            f" (`qwen_model.catalogue.obtain_vocabulary()` fetches it), or beside a vocabulary of yours its {SETTINGS}"
        )
    return {base64.b64decode(line.split(b" ")[0]): rank for rank, line in enumerate(data.splitlines())}


def _fault(data: bytes) -> str:
    """What is wrong with a file that is not the released one."""
    first: dict[bytes, int] = {}
    lines = data.splitlines()
    for number, line in enumerate(lines, start=1):
        token, _, rank = line.partition(b" ")
        try:
            content = base64.b64decode(token, validate=True)
        except binascii.Error:
            content = b""
        if not content or not rank.isdigit():
            return f"line {number} is not a token in base64, a space and its rank"
        if rank != b"%d" % (number - 1):
            return f"line {number} has the rank {rank[:20].decode()}, not {number - 1}"
        if content in first:
            return f"line {number} repeats the token of line {first[content]}"
        first[content] = number
    if len(lines) < RANKS:
        return f"it ends after line {len(lines)} of {RANKS}"
    if len(lines) > RANKS:
        return f"line {RANKS + 1} is one too many"
    return "a token is not the released one (its sha256 differs, though every line is whole)"


def _refuse_blanks(text: str) -> None:
    if len(text) >= _BLANKS and re.search(rf"[^\S\r\n]{{{_BLANKS}}}", text):
        raise ModelError(f"text with {_BLANKS:,} blanks in a row, more than tiktoken can split; shorten the run")
