"""Shorten errors for log messages, and remove passwords from them."""

import re


def first_line(error: Exception) -> str:
    """Return the first line of an error's message without passwords, or the error's type if the message is empty."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return without_password(line).rstrip(".")


def without_password(text: str) -> str:
    """Remove user names and passwords from the URLs in a text."""
    return re.sub(r"//[^/\s]*@", "//", text)
