"""What a task asked of a model, as a short digest: a stored reply is the answer to exactly one request."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict

from harness.records import canonical
from tasks.api import Decoding, Prompt


def generate_digest(prompt: Prompt, decoding: Decoding) -> str:
    """Sixteen hex digits of a request to generate."""
    return _digest([_plain(prompt), asdict(decoding)])


def score_digest(prompt: Prompt, continuations: Sequence[str], window: int | None) -> str:
    """Sixteen hex digits of a request to score."""
    return _digest([_plain(prompt), list(continuations), window])


def _plain(prompt: Prompt) -> object:
    return prompt if isinstance(prompt, str) else asdict(prompt)


def _digest(request: object) -> str:
    return hashlib.sha256(canonical(request).encode(errors="surrogatepass")).hexdigest()[:16]
