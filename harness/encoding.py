"""Texts to tokens as tasks ask for it, for every backend that knows its model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from harness.backend import Encoded
from qwen_model.scoring import Continuation
from qwen_model.tokenizer import Tokenizer
from tasks.api import Chat, Prompt, TaskError


class Encoding:
    """A tokenizer, and the length that its model was trained to read. What repeats is encoded once."""

    def __init__(self, tokenizer: Tokenizer, train_length: int) -> None:
        self.tokenizer, self.train_length = tokenizer, train_length
        self._pieces: dict[str, list[int]] = {}
        self._text: tuple[str, bool, Sequence[int]] = "", False, ()

    def prompt(self, prompt: Prompt) -> Encoded:
        """A conversation by the checkpoint's own template, a text as it is."""
        if isinstance(prompt, Chat):
            text = self.tokenizer.render(prompt.messages, prompt.prefill)
            return Encoded(prompt, text, tuple(self.tokenizer.encode_chat(prompt.messages, prompt.prefill)))
        return Encoded(prompt, prompt, tuple(self.tokenizer.encode(prompt)))

    def continuations(self, prompt: Encoded, pieces: Sequence[str], window: int | None) -> list[Continuation]:
        """Each piece, encoded by itself, behind the prompt: the last `window - 1` tokens of one above `window`. A
        prompt of no token is the begin token."""
        ids = prompt.ids or (self.tokenizer.begin()[1],)
        if window is not None and len(ids) > window:
            ids = ids[-(window - 1) :]
        for piece in pieces:
            if piece not in self._pieces:
                self._pieces[piece] = self.tokenizer.encode_rendered(piece)
        return [Continuation(ids, tuple(self._pieces[piece])) for piece in pieces]

    def pair(self, context: str, continuation: str) -> tuple[Continuation, int]:
        """A continuation behind what the trained length leaves of its context, and the whole context's tokens.

        Raises TaskError where it is itself too long, or no token.
        """
        before, after = self.tokenizer.encode_pair(context, continuation)
        room = self.train_length + 1 - len(after)
        if not after or room < 1:
            raise TaskError(
                f"a continuation of {len(after)} tokens ({continuation[:40]!r} ...) cannot be scored by a model of "
                f"{self.train_length}; leave the sample out"
            )
        return Continuation(tuple(before[-room:]), tuple(after)), len(before)

    def text(self, text: str, begin: bool) -> Sequence[int]:
        """A text's tokens, behind the begin token if asked for. The same object while the same text is asked for: the
        lengths of one text come one after another."""
        if self._text[:2] != (text, begin):
            prefix = [self.tokenizer.begin()[1]] if begin else []
            self._text = text, begin, prefix + self.tokenizer.encode(text)
        return self._text[2]
