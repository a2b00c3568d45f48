"""The one error a user is meant to see."""


class KelronError(Exception):
    """One line that says what is wrong and what to do; the command line prints it and exits with code 2."""
