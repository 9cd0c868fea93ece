"""What the user can mend."""


class TrainError(Exception):
    """One line that names the file or field and the remedy."""
