"""The report's context extension as settings: dynamic NTK, LogN scaling and windows by layer (section 2.3).

All three act at inference only and can be laid over any checkpoint. T is the length that the model was trained at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

NTK = Literal["off", "released", "exact"]
Windows = tuple[int | None, ...]
"""A window per layer, lowest first: a token reads itself and the window - 1 tokens before it. None reads everything."""


@dataclass(frozen=True, kw_only=True)
class WindowSchedule:
    """Windows that rise with depth, as bands of layers from the lowest up.

    `bands` holds (layers, width) pairs. With `relative` they are (share of all layers, width in trained lengths), else
    (number of layers, width in tokens). The last band takes all layers that are left; a width of None is no window.
    """

    bands: tuple[tuple[float, float | None], ...]
    relative: bool = False

    def __post_init__(self) -> None:
        if not self.bands or any(not isinstance(band, tuple) or len(band) != 2 for band in self.bands):
            raise ValueError(f"bands: {self.bands!r} are no pairs of layers and width")
        for size, width in self.bands:
            if self.relative and not (0 < size <= 1 and (width is None or width > 0)):
                raise ValueError(f"bands: {(size, width)} is no share of all layers, and width in trained lengths")
            if not self.relative and not (_whole(size) and (width is None or _whole(width))):
                raise ValueError(f"bands: {(size, width)} is no number of layers and of tokens; or say relative=True")

    @staticmethod
    def report() -> WindowSchedule:
        """The report's principle, short below and long above. It publishes no widths; these are ours: T in the lower
        half of the layers, 4 T in the next quarter, no window in the last."""
        return WindowSchedule(bands=((0.5, 1), (0.25, 4), (0.25, None)), relative=True)

    @staticmethod
    def reversed() -> WindowSchedule:
        """The widths of `report` upside down, long below and short above: to ask whether their order matters."""
        return WindowSchedule(bands=WindowSchedule.report().bands[::-1], relative=True)

    @staticmethod
    def maintainers() -> WindowSchedule:
        """The example of a maintainer (QwenLM/Qwen issue 422): four layers of 2,048, four of 4,096, then 8,192."""
        return WindowSchedule(bands=((4, 2048), (4, 4096), (1, 8192)))

    def windows(self, layers: int, train_length: int) -> Windows:
        """The window of each of `layers` layers."""
        out: list[int | None] = []
        through = 0.0
        for number, (size, width) in enumerate(self.bands):
            through += size * layers if self.relative else size
            end = layers if number == len(self.bands) - 1 else min(layers, round(through))
            tokens = None if width is None else int(width * train_length if self.relative else width)
            out.extend([tokens] * (end - len(out)))
        return tuple(out)


@dataclass(frozen=True, kw_only=True)
class LongContext:
    """What is laid over a model. Dynamic NTK and LogN leave texts of up to T tokens as they are, to the last bit.

    `dynamic_ntk`: "released" fixes a text's rotary base when its prompt is read, as the released code does; "exact"
    reads the text again whenever it outgrows its base while being written, so that every token follows from one forward
    pass over the whole text. `logn`: queries beyond T are scaled by log(position) / log(T), positions counted from 1.
    `window`: a schedule, or one window per layer. `window_alpha`: each layer takes the rotary base that fits what its
    window can reach (the maintainers' reason for windows by layer). `train_length`: T; None takes the checkpoint's.
    """

    dynamic_ntk: NTK = "off"
    logn: bool = False
    window: WindowSchedule | Windows | None = None
    window_alpha: bool = False
    train_length: int | None = None

    def __post_init__(self) -> None:
        if self.dynamic_ntk not in get_args(NTK):
            raise ValueError(f"dynamic_ntk: {self.dynamic_ntk!r} is not one of {', '.join(get_args(NTK))}")
        for name in ("logn", "window_alpha"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: {getattr(self, name)!r} is neither True nor False")
        if self.train_length is not None and not (_whole(self.train_length) and 2 <= self.train_length < 2**40):
            raise ValueError(f"train_length: {self.train_length!r} is no trained length; give 2 tokens or more")
        if self.window is not None and not isinstance(self.window, WindowSchedule):
            if isinstance(self.window, str) or not isinstance(self.window, Sequence):
                raise ValueError(
                    f"window: {self.window!r} is no WindowSchedule and no list with a width for each layer"
                )
            object.__setattr__(self, "window", tuple(self.window))

    def windows(self, layers: int, train_length: int) -> Windows:
        """The window of each layer, where `train_length` is the T in force. Raises ValueError for a list that does not
        fit the model."""
        if self.window is None:
            return (None,) * layers
        window = self.window
        found = window.windows(layers, train_length) if isinstance(window, WindowSchedule) else window
        return checked_windows(found, layers)


def checked_windows(windows: Sequence[int | None], layers: int) -> Windows:
    """`windows` if there is one per layer and each is None or positive, else ValueError."""
    if len(windows) != layers:
        raise ValueError(f"window: {len(windows)} windows for {layers} layers; give one per layer, lowest first")
    bad = [width for width in windows if width is not None and not _whole(width)]
    if bad:
        raise ValueError(f"window: {bad[0]!r} is no width; give a number of tokens of 1 or more, or None for no window")
    return tuple(windows)


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def ntk_bucket(length: int, train_length: int) -> int:
    """The step b of dynamic NTK for a text of `length` tokens: the smallest b with length <= T * 2^b.

    The rotary base is multiplied by alpha^(d / (d - 2)), alpha = 2^(b + 1) - 1: 1 up to T, 3 up to 2 T, 7 up to 4 T.
    """
    return max(-(-length // train_length) - 1, 0).bit_length()


def ntk_alpha(bucket: int) -> int:
    """alpha of a step."""
    return (2 << bucket) - 1
