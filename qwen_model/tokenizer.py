"""The checkpoint's own tokenizer (`tokenizer.json`) and chat template, without loading transformers."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from qwen_model.config import ModelError, read_json

if TYPE_CHECKING:
    import jinja2


class Tokenizer:
    """Text to token ids and back, and conversations to text."""

    size: int
    """Ids there are, control tokens included; a model's embedding may have more rows."""

    def __init__(self, folder: Path) -> None:
        """Read `tokenizer.json`, `tokenizer_config.json` and `generation_config.json` of a checkpoint folder.

        Raises ModelError where a file is missing or damaged.
        """
        import tokenizers

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{folder}: no tokenizer.json; save the tokenizer with `save_pretrained` into this folder")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception for a damaged file
            raise ModelError(f"{path}: not a tokenizer ({error}); fetch the checkpoint again") from error
        self.size = self._tokenizer.get_vocab_size()
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._special_names = tuple(token.content for token in added if token.special)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.config = read_json(folder / "tokenizer_config.json")
        separate = folder / "chat_template.jinja"
        self.chat_template = (
            separate.read_text(encoding="utf-8") if separate.is_file() else _template(self.config.get("chat_template"))
        )
        self.eos_ids = self._end_ids(folder)

    def _end_ids(self, folder: Path) -> tuple[int, ...]:
        """Tokens that end a text: of generation_config.json, else config.json, else the tokenizer's end token."""
        for name in ("generation_config.json", "config.json"):
            ids = read_json(folder / name).get("eos_token_id")
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (int(ids),)
        ending = self._special("eos_token")
        found = self._tokenizer.token_to_id(ending) if ending else None
        if found is None:
            raise ModelError(f"{folder}: no eos_token_id in generation_config.json or config.json; add it")
        return (int(found),)

    def _special(self, name: str) -> str:
        value = self.config.get(name) or ""
        return str(value.get("content", "")) if isinstance(value, dict) else str(value)

    def encode(self, text: str) -> list[int]:
        """Token ids of a raw text; a begin token is added only where the checkpoint's tokenizer does so by itself."""
        return list(self._tokenizer.encode(text).ids)

    def encode_rendered(self, text: str) -> list[int]:
        """Token ids of a text that a chat template rendered: control tokens are read, none is added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def begin(self) -> tuple[str, int]:
        """The token before a text that has nothing before it, by name and id: the tokenizer's begin token, else its end
        token, as lm-evaluation-harness chooses. Raises ModelError where it has neither."""
        name = self._special("bos_token") or self._special("eos_token")
        ids = self.encode_rendered(name) if name else []
        if len(ids) != 1:
            raise ModelError("tokenizer_config.json: neither bos_token nor eos_token is a token; add one")
        return name, ids[0]

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of a context and of what follows it, encoded together and then parted, as lm-evaluation-harness does.

        Blanks at the context's end are the continuation's; a text of no other context stands behind `begin`'s token.
        """
        name, begin = self.begin()
        bare = context.rstrip()
        continuation, context = context[len(bare) :] + continuation, bare
        if not context:
            ids = self.encode_rendered(continuation)
            return ([begin], ids) if ids[:1] != [begin] else (ids[:1], ids[1:])
        # what already begins so is not begun twice
        encode = self.encode_rendered if context.startswith(name) else self.encode
        before = encode(context)
        return before, encode(context + continuation)[len(before) :]

    def encode_chat(self, messages: Sequence[tuple[str, str]], prefill: str = "") -> list[int]:
        """Token ids of `render`: what the model reads of a conversation, up to the beginning of its answer.

        A control token that somebody wrote into a message stays the letters that it is.
        """
        written = [*(content for _, content in messages), prefill]
        forged = sorted(
            (name for name in self._special_names if any(name in text for text in written)), key=len, reverse=True
        )
        if not forged:
            return self.encode_rendered(self.render(messages, prefill))
        # a stand-in of the private use area for each, so that the template's own control tokens can be told from them
        stand_ins = {chr(0xF0000 + place): name for place, name in enumerate(forged)}

        def masked(text: str) -> str:
            for stand_in, name in stand_ins.items():
                text = text.replace(name, stand_in)
            return text

        rendered = self.render([(role, masked(content)) for role, content in messages], masked(prefill))
        ids: list[int] = []
        for piece in re.split(f"([{''.join(stand_ins)}])", rendered):
            ids += self.encode_letters(stand_ins[piece]) if piece in stand_ins else self.encode_rendered(piece)
        return ids

    def encode_letters(self, text: str) -> list[int]:
        """Ids of a text in which no control token is read."""
        self._tokenizer.encode_special_tokens = True
        try:
            return self.encode_rendered(text)
        finally:
            self._tokenizer.encode_special_tokens = False

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens left out. Bytes that are no UTF-8 become U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def render(self, messages: Sequence[tuple[str, str]], prefill: str = "") -> str:
        """The text of a conversation by the checkpoint's chat template, ready for the assistant's answer.

        `prefill` is how that answer begins. Raises ModelError where the checkpoint has no template or it refuses.
        """
        if self.chat_template is None:
            raise ModelError("this checkpoint has no chat template: use a base protocol (a task without -chat)")
        import jinja2

        try:
            text = _compile(self.chat_template).render(
                messages=[{"role": role, "content": content} for role, content in messages],
                add_generation_prompt=True,
                bos_token=self._special("bos_token"),
                eos_token=self._special("eos_token"),
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise ModelError(f"the checkpoint's chat template failed: {error}") from error
        return text + prefill


def _template(found: object) -> str | None:
    """A checkpoint's chat template: of a list of named ones that which is called "default"."""
    if isinstance(found, list):
        named = (one for one in found if isinstance(one, dict) and one.get("name") == "default")
        found = next(named, {}).get("template")
    return found if isinstance(found, str) else None


@functools.lru_cache(maxsize=4)  # a model's own is rendered for every sample
def _compile(template: str) -> jinja2.Template:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def fail(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = fail
    environment.globals["strftime_now"] = lambda style: datetime.now().strftime(style)
    return environment.from_string(template)


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text up to the first place where a stop string begins, and whether there is one."""
    places = [place for each in stop if (place := text.find(each)) >= 0]
    return text[: min(places, default=len(text))], bool(places)
