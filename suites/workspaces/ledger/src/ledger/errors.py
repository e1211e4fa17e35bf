"""What a user can do something about."""


class LedgerError(Exception):
    """Ends the program with its text on standard error and exit code 1."""
