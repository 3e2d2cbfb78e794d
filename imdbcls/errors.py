"""The one exception that the user's own mistakes raise: a sentence, shown without a traceback."""

from imdbcls.printable import printable_line


class UserError(ValueError):
    """Something the user can put right: the message says what was given, what is allowed and what to do.

    Several mistakes are several arguments, and a line each. Line ends and control characters inside of one are escaped:
    a name from a file cannot add a line, or reach a terminal.
    """

    def __init__(self, *sentences: str) -> None:
        super().__init__("\n".join(printable_line(str(sentence)) for sentence in sentences))
