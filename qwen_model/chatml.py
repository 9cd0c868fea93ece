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
from qwen_model.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant", "observation")
DEFAULT_SYSTEM = "You are a helpful assistant."
NEWLINE = "\n"

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The same format as a chat template, for people to read: ids come from `encode_prompt`."""

Messages = Sequence[tuple[str, str]]
"""Pairs of (role, content).

An `observation` is what a tool answered. As in the released ReAct format it stands inside the assistant's turn, between
"\\nObservation: " and "\\nThought:", and what the assistant says next goes on behind it.
"""

Mask = Literal["report", "released"]
"""Which tokens carry loss.

`report`: "system and user inputs masked": the assistant's contents and the `<|im_end|>` behind each, nothing else. The
newline that joins two turns is put there by whoever renders the conversation, never written by the model: no target.
Nor is a tool's answer, up to the "Thought:" behind it; "\\nObservation:", at which the model stops, is one.

`released`: as finetune.py of the released code. The control tokens and the newline after `<|im_end|>` are targets in
every turn, system and user ones too; the role and its newline in none; the content in the assistant's alone. That code
changes the conversation first: it drops a leading turn that is not the user's and puts the default system turn there.
"""


class ChatTokenizer(Protocol):
    """What ChatML needs of a tokenizer: the ids of two control tokens, and `encode`, which reads none in a text."""

    @property
    def im_start(self) -> int: ...
    @property
    def im_end(self) -> int: ...
    def encode(self, text: str, /) -> list[int]:
        """Token ids of a text."""
        ...


class _Letters:
    """Any tokenizer, as ChatML needs it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.encode = tokenizer.encode_letters
        self.im_start, self.im_end = (_one(tokenizer, name) for name in ("<|im_start|>", "<|im_end|>"))


def chat_tokenizer(tokenizer: Tokenizer) -> ChatTokenizer:
    """What ChatML needs, of any tokenizer that has its control tokens; ModelError for one that has not."""
    return _Letters(tokenizer)


def _one(tokenizer: Tokenizer, name: str) -> int:
    ids = tokenizer.encode_rendered(name)
    if len(ids) != 1:
        raise ModelError(f"the tokenizer has no token {name}, which ChatML needs; add it as a special token")
    return ids[0]


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
    for role, pieces in _turns(messages):
        ids += [tokenizer.im_start, *_role_line(tokenizer, role)]
        ids += [*tokenizer.encode(_text(pieces)), tokenizer.im_end, *newline]
    return [*ids, tokenizer.im_start, *tokenizer.encode("assistant"), *newline, *tokenizer.encode(prefill)]


def encode_example(tokenizer: ChatTokenizer, messages: Messages, mask: Mask) -> Example:
    """Ids and targets of a whole conversation. `mask` chooses the targets: see `Mask`.

    Turns are joined by a newline; `released` puts one behind the last turn too. The default system turn is put first
    where `messages` has none. Raises ModelError for an unknown role, or if no turn is the assistant's.
    """
    if mask not in get_args(Mask):
        raise ValueError(f"mask: {mask!r} is not one of {', '.join(get_args(Mask))}")
    released = mask == "released"
    if released:
        if messages and messages[0][0] != "user":
            messages = messages[1:]
        messages = [("system", DEFAULT_SYSTEM), *messages]
    if not any(role == "assistant" for role, _ in messages):
        raise ModelError("a conversation without an assistant's turn has nothing to learn; add the answer")
    newline = tokenizer.encode(NEWLINE)
    ids: list[int] = []
    is_target: list[bool] = []
    for role, pieces in _turns(messages):
        answer = role == "assistant"
        contents = [(_text(pieces), answer)] if released else pieces
        for part, judged in (
            ([tokenizer.im_start], released),
            (_role_line(tokenizer, role), False),
            *((tokenizer.encode(text), judged) for text, judged in contents),
            ([tokenizer.im_end], answer or released),
            (newline, released),
        ):
            ids += part
            is_target += [judged] * len(part)
    last = len(ids) if released else len(ids) - len(newline)
    return Example(ids[:last], is_target[:last])


Pieces = list[tuple[str, bool]]
"""A turn's content in order, and whether the model wrote it."""


def _turns(messages: Messages) -> list[tuple[str, Pieces]]:
    """The turns of a conversation, the system's first; observations within the assistant's."""
    turns: list[tuple[str, Pieces]] = []
    if not messages or messages[0][0] != "system":
        turns.append(("system", [(DEFAULT_SYSTEM, False)]))
    before = ""
    for role, content in messages:
        if role not in ROLES:
            raise ModelError(f"role {role!r} is not one of {', '.join(ROLES)}; rename it")
        if role == "observation":
            if before != "assistant":
                raise ModelError("an observation does not stand behind an assistant's turn; put the call before it")
            turns[-1][1].extend([("\nObservation:", True), (f" {content}\nThought:", False)])
        elif before == "observation" and role == "assistant":
            turns[-1][1].append((content, True))
        else:
            turns.append((role, [(content, role == "assistant")]))
        before = role
    return turns


def _text(pieces: Pieces) -> str:
    return "".join(text for text, _ in pieces)


def _role_line(tokenizer: ChatTokenizer, role: str) -> list[int]:
    return tokenizer.encode(role) + tokenizer.encode(NEWLINE)
