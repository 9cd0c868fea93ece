"""JSON that others wrote: rows of data, answers of servers, what model-written code hands back."""

from __future__ import annotations

import json
import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
_PERHAPS = re.compile("[\ud800-\udfff]|" + r"\\u[dD][89a-fA-F]")


def parse(content: str | bytes) -> Any:
    """The value. Half a surrogate pair, as a cut emoji leaves it, is U+FFFD: no file could be written with it.

    Raises ValueError for what is not JSON, RecursionError for what is nested too deeply.
    """
    if isinstance(content, bytes):
        content = content.decode(json.detect_encoding(content), "surrogatepass")
    value = json.loads(content)
    if _PERHAPS.search(content):
        value = json.loads(_SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)))
    return value
