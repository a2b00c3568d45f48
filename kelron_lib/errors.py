"""The one error a user is meant to see."""


class KelronError(Exception):
    """One line that says what is wrong and what to do; the command line prints it and exits with `exit_code`."""

    exit_code = 2

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: IPython asks for these lines in place of the traceback."""
        return [f"{type(self).__name__}: {self}"]


class RunFailed(KelronError):
    """The input could be used and the run went wrong; the line says by what."""

    exit_code = 1


class ProcessFailed(KelronError):
    """A training process crashed; the line says which and by what."""

    exit_code = 1
