"""ChatML as token ids, with loss masks (report, section 3.1 and appendix A.1.1).

    <|im_start|>system\\nBe brief.<|im_end|>\\n<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n

The role, the newline after it and the content are tokenised apart, as the first Qwen was trained. Encoding the finished
text at once gives other ids where a content begins with white space. No control token is read in a content: what a user
writes cannot end their turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from qwen_model.config import ModelError

ROLES = ("system", "user", "assistant")
DEFAULT_SYSTEM = "You are a helpful assistant."
NEWLINE = "\n"

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The same format as a chat template, for people to read: ids come from `encode_prompt`."""

Messages = Sequence[tuple[str, str]]
"""Pairs of (role, content)."""

Mask = Literal["report", "released"]
"""Which tokens carry loss.

`report`: "system and user inputs masked": the assistant's contents and the `<|im_end|>` behind each, nothing else. The
newline that joins two turns is put there by whoever renders the conversation, never written by the model: no target.

`released`: as finetune.py of the released code. The control tokens and the newline after `<|im_end|>` are targets in
every turn, system and user ones too; the role and its newline in none; the content in the assistant's alone. That code
changes the conversation first: it drops a leading turn that is not the user's and puts the default system turn there.
"""


class ChatTokenizer(Protocol):
    """What ChatML needs of a tokenizer: the ids of two control tokens, and `encode`, which reads none in a text."""

    im_start: int
    im_end: int

    def encode(self, text: str, /) -> list[int]:
        """Token ids of a text."""


@dataclass(frozen=True)
class Example:
    """A conversation to train on. Both lists have one entry per token."""

    ids: list[int]
    is_target: list[bool]
    """Whether loss is taken for predicting this very token (so the logits one position earlier are judged)."""


def encode_prompt(tokenizer: ChatTokenizer, messages: Messages, prefill: str = "") -> list[int]:
    """Ids that ask for the assistant's next turn, which begins with `prefill`; as the released make_context.

    The default system turn is put first where `messages` has none. Raises ModelError for an unknown role.
    """
    newline = tokenizer.encode(NEWLINE)
    ids: list[int] = []
    for role, content in _with_system(messages):
        ids += [token for part in _turn(tokenizer, role, content) for token in part] + newline
    return [*ids, tokenizer.im_start, *tokenizer.encode("assistant"), *newline, *tokenizer.encode(prefill)]


def encode_example(tokenizer: ChatTokenizer, messages: Messages, mask: Mask) -> Example:
    """Ids and targets of a whole conversation. `mask` chooses the targets: see `Mask`.

    Turns are joined by a newline; `released` puts one behind the last turn too. The default system turn is put first
    where `messages` has none. Raises ModelError for an unknown role, or if no turn is the assistant's.
    """
    if mask not in get_args(Mask):
        raise ValueError(f"mask: {mask!r} is not one of {', '.join(get_args(Mask))}")
    if mask == "released":
        if messages and messages[0][0] != "user":
            messages = messages[1:]
        messages = [("system", DEFAULT_SYSTEM), *messages]
    if not any(role == "assistant" for role, _ in messages):
        raise ModelError("a conversation without an assistant's turn has nothing to learn; add the answer")
    newline = tokenizer.encode(NEWLINE)
    released = mask == "released"
    ids: list[int] = []
    is_target: list[bool] = []
    for role, content in _with_system(messages):
        answer = role == "assistant"
        head, role_line, body, end = _turn(tokenizer, role, content)
        for part, judged in (
            (head, released),
            (role_line, False),
            (body, answer),
            (end, answer or released),
            (newline, released),
        ):
            ids += part
            is_target += [judged] * len(part)
    last = len(ids) if released else len(ids) - len(newline)
    return Example(ids[:last], is_target[:last])


def _with_system(messages: Messages) -> Messages:
    return messages if messages and messages[0][0] == "system" else [("system", DEFAULT_SYSTEM), *messages]


def _turn(tokenizer: ChatTokenizer, role: str, content: str) -> tuple[list[int], list[int], list[int], list[int]]:
    """<|im_start|>; the role and its newline; the content; <|im_end|>."""
    if role not in ROLES:
        raise ModelError(f"role {role!r} is not one of {', '.join(ROLES)}; rename it")
    role_line = tokenizer.encode(role) + tokenizer.encode(NEWLINE)
    return [tokenizer.im_start], role_line, tokenizer.encode(content), [tokenizer.im_end]
