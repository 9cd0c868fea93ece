"""`--long-context`: a context extension written as text, laid over the model of a run, and part of its spec."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from qwen_model.long_context import LongContext, Windows, WindowSchedule
from tasks.api import TaskError

if TYPE_CHECKING:
    from qwen_model.decoder import Decoder
    from qwen_model.prefill import CausalLM

EXAMPLE = "dynamic_ntk=exact,logn=on,window=report"


def parse(text: str) -> LongContext:
    """Settings of `KEY=VALUE,...`; keys left out are off. Raises TaskError that names the key."""
    found: dict[str, str] = {}
    for item in text.split(","):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or key not in VALUES:
            raise TaskError(f"--long-context: {item!r} is not KEY=VALUE with {', '.join(VALUES)}, such as {EXAMPLE}")
        if key in found:
            raise TaskError(f"--long-context: {key} is named twice; name it once")
        found[key] = value
    return from_words(found, "--long-context")


def from_words(words: Mapping[str, str], option: str) -> LongContext:
    """Settings of keys of VALUES; those left out are off. Raises TaskError that names the option and the key."""
    try:
        return LongContext(**{key: VALUES[key](key, value) for key, value in words.items()})
    except ValueError as error:
        raise TaskError(f"{option}: {error}") from error


def _switch(key: str, value: str) -> bool:
    if value not in ("on", "off"):
        raise ValueError(f"{key} is {value!r}; give on or off")
    return value == "on"


def _number(key: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise ValueError(f"{key} is {value!r}; give a number of tokens")
    return int(value)


def _window(key: str, value: str) -> WindowSchedule | None:
    if value == "none":
        return None
    if value == "report":
        return WindowSchedule.report()
    if value == "reversed":
        return WindowSchedule.reversed()
    if value == "maintainers":
        return WindowSchedule.maintainers()
    if not value.isdigit():
        raise ValueError(f"window is {value!r}; give none, report, reversed, maintainers or a number of tokens")
    return WindowSchedule(bands=((1, _number(key, value)),))


def _text(key: str, value: str) -> str:
    return value  # LongContext names the values that it takes


VALUES: Mapping[str, Callable[[str, str], Any]] = {
    "dynamic_ntk": _text,
    "logn": _switch,
    "window": _window,
    "window_alpha": _switch,
    "train_length": _number,
}
"""How each key's value is read."""


def windows(settings: LongContext, layers: int, train_length: int, option: str) -> Windows:
    """The window of each layer. Raises TaskError, naming the option, where they do not fit the model."""
    asked = settings.window
    if isinstance(asked, WindowSchedule) and not asked.relative:
        named = sum(size for size, _ in asked.bands)
        if named > layers:
            raise TaskError(f"{option}: window: its bands are of {named:g} layers or more, and the model has {layers}")
    try:
        return settings.windows(layers, train_length)
    except ValueError as error:
        raise TaskError(f"{option}: {error}") from error


@contextmanager
def laid_over(model: CausalLM, settings: LongContext | None) -> Iterator[None]:
    """The model under these settings; None leaves it as it is. Raises TaskError where they do not fit it."""
    if settings is None:
        yield
        return
    layers, train_length = len(model.cache_shape.windows), settings.train_length or model.train_length
    windows(settings, layers, train_length, "--long-context")
    with cast("Decoder", model).long_context(settings):
        yield
