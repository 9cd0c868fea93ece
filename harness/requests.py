"""What a task asked of a model: in print, and as a short digest, since a stored reply answers exactly one request."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict

from harness.records import canonical
from tasks.api import Decoding, Prompt


def as_text(prompt: Prompt) -> str:
    """A prompt to read where no checkpoint renders it: a conversation turn by turn, each under its role."""
    if isinstance(prompt, str):
        return prompt
    turns = [*prompt.messages, *([("assistant", prompt.prefill)] if prompt.prefill else [])]
    return "\n\n".join(f"[{role}]\n{text}" for role, text in turns)


def generate_digest(prompt: Prompt, decoding: Decoding) -> str:
    """Sixteen hex digits of a request to generate."""
    return _digest([_plain(prompt), asdict(decoding)])


def score_digest(prompt: Prompt, continuations: Sequence[str], window: int | None) -> str:
    """Sixteen hex digits of a request to score."""
    return _digest([_plain(prompt), list(continuations), window])


def loglikelihood_digest(context: str, continuation: str) -> str:
    """Sixteen hex digits of a request for a continuation's log-likelihood."""
    return _digest([context, continuation])


def rolling_digest(text: str, length: int | None, stride: int | None, begin: bool) -> str:
    """Sixteen hex digits of a request for the losses of a whole text."""
    return _digest([text, length, stride, begin])


def _plain(prompt: Prompt) -> object:
    return prompt if isinstance(prompt, str) else asdict(prompt)


def _digest(request: object) -> str:
    return hashlib.sha256(canonical(request).encode(errors="surrogatepass")).hexdigest()[:16]
