"""What a user is meant to read, and what the training loop has to tell apart."""


class TitansError(Exception):
    """Something the user can mend: one line that says what is wrong, where, and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


class NonFiniteError(ValueError):
    """NaN or infinite numbers where a memory would keep them for ever."""
