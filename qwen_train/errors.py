"""What the user can mend."""

from __future__ import annotations


class TrainError(Exception):
    """The message is one line that names the file or field and the remedy."""
