"""The limits of the server, and the checks of the texts in a request."""

from collections.abc import Sequence
from dataclasses import dataclass

from imdbcls.printable import is_unicode


@dataclass(frozen=True)
class Limits:
    """The limits of the server. A request that exceeds a limit is refused, and its texts are not shortened to fit.

    - `texts`, `characters`: number of texts in a request, and of characters in a text.
    - `queue`, `explanations`: number of texts, and of explanations, that wait for the models.
    - `seconds`: time limit of a request, including the time to receive it.
    - `batch`: number of texts in a batch.
    - `wait_ms`: how long the first text of a batch waits for further texts, in milliseconds.
    """

    texts: int = 64
    characters: int = 20_000
    queue: int = 256
    explanations: int = 8
    seconds: float = 60
    batch: int = 32
    wait_ms: float = 4

    @property
    def body_bytes(self) -> int:
        """The maximum size of a request in bytes: two bytes for each allowed character, and at least 64 KiB."""
        return max(2 * self.texts * self.characters, 1 << 16)


class BadTextError(ValueError):
    """A text that cannot be classified. The message is one sentence and does not contain the text."""


def require_texts(texts: Sequence[str], limits: Limits) -> None:
    """Raise BadTextError if there are no texts or too many, or if a text is empty, too long or invalid Unicode."""
    if not 1 <= len(texts) <= limits.texts:
        raise BadTextError(f"The request has {len(texts):,} texts: send 1 to {limits.texts:,} texts.")
    for number, text in enumerate(texts, start=1):
        name = "The text" if len(texts) == 1 else f"Text {number}"
        if not text.strip():
            raise BadTextError(f"{name} is empty: send at least one character that is not white space.")
        if len(text) > limits.characters:
            raise BadTextError(
                f"{name} has {len(text):,} characters, and the limit is {limits.characters:,}: shorten it."
            )
        if not is_unicode(text):
            raise BadTextError(f"{name} contains a surrogate (half of a character such as an emoji): remove it.")
