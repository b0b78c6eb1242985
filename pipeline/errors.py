"""The errors that are shown to the user without a stack trace."""


class UserError(Exception):
    """A mistake the user can mend: its message is shown alone, without a stack trace."""

    exit_code = 2


class TrainingError(Exception):
    """Training can't go on, for the reason that the message gives; it is shown alone, too."""

    exit_code = 1
