"""The one error that is shown to the user without a stack trace."""


class UserError(Exception):
    """A mistake the user can mend: its message is shown alone, without a stack trace."""

    exit_code = 2
