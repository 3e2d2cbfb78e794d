"""The one exception that the user's own mistakes raise: a sentence, shown without a traceback."""


class UserError(ValueError):
    """Something the user can put right: the message says what was given, what is allowed and what to do."""
