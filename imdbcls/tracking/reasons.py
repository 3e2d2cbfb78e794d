"""Shorten an error to a reason that fits into a message. Messages are also logged, so passwords are removed."""

import re


def first_line(error: Exception) -> str:
    """Return the first line of an error's message without passwords; the error's type if there is no message."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return without_password(line).rstrip(".")


def without_password(text: str) -> str:
    """Return a text without the user names and passwords that its URLs may contain."""
    return re.sub(r"//[^/\s]*@", "//", text)
