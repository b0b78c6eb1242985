"""The errors that are shown to the user without a stack trace."""


class UserError(Exception):
    """A mistake the user can mend: its message is shown alone, without a stack trace."""

    exit_code = 2

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows."""
        return [str(self)]


class RunFailed(UserError):  # noqa: N818 - names what happened
    """A run ended before its verdict, for the reason that the message gives.

    Attributes:
        exit_code: of the command that runs it.
    """

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class TrainingError(Exception):
    """Training can't go on, for the reason that the message gives; it is shown alone, too."""

    exit_code = 1
