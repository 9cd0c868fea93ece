"""The engine behind `harness run`: backends, batching, sandbox, run store, statistics, command line.

`from harness import evaluate` is what `harness run` calls. Importing this package imports nothing heavy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.evaluation import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    if name != "evaluate":
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    from harness.evaluation import evaluate

    return evaluate
