"""The exception for mistakes that the user can fix. Commands print its message without a traceback."""

from imdbcls.printable import printable_line


class UserError(ValueError):
    """A mistake that the user can fix. The message states what was given, what is allowed and what to do.

    Each argument describes one mistake and becomes one line. Line ends become spaces and control characters are
    escaped, so that a name from a file cannot add a line or control a terminal.
    """

    def __init__(self, *sentences: str) -> None:
        super().__init__("\n".join(printable_line(str(sentence)) for sentence in sentences))
