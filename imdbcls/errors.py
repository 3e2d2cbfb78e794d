"""The one exception that the user's own mistakes raise: a sentence, shown without a traceback."""

from imdbcls.printable import printable_line


class UserError(ValueError):
    """Something that the user can fix: the message states what was given, what is allowed and what to do.

    Each mistake is one argument and one line. Line ends and control characters inside a sentence are escaped: a name
    from a file cannot add a line or control a terminal.
    """

    def __init__(self, *sentences: str) -> None:
        super().__init__("\n".join(printable_line(str(sentence)) for sentence in sentences))
