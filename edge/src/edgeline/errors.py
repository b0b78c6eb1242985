"""The errors edgeline raises on purpose.

Each message stands alone: what happened, what was expected, what to do. The command line prints it
without a stack trace and leaves with the class's `exit_code`; a program can tell the cases apart by
class. Whatever else escapes from edgeline is a bug in it.
"""


class EdgelineError(Exception):
    """Base of every error that edgeline raises on purpose."""

    exit_code = 3


class ImageError(EdgelineError):
    """One image cannot be read. Other images are not affected."""

    exit_code = 1


class ContractError(EdgelineError):
    """A preprocessing contract is malformed, or asks for something this edgeline cannot do."""


class ModelError(EdgelineError):
    """A model cannot be loaded, does not fit its contract, or gave unusable numbers."""


class RegistryError(EdgelineError):
    """A registry cannot be used, or was asked for something it cannot do."""


class NotFoundError(RegistryError):
    """The registry is fine and does not hold what was asked for."""


class IntegrityError(RegistryError):
    """The registry's content is not what its digests, sizes or format promise."""

    exit_code = 4


class TrustError(RegistryError):
    """What the registry holds is not what the keys of its trusted root have signed."""

    exit_code = 4


class ExpiredError(TrustError):
    """The signatures are genuine and too old to be acted on."""


class UnreachableError(RegistryError):
    """The registry does not answer, or not in time. Trying again later may help."""

    exit_code = 5


class ConflictError(RegistryError):
    """Somebody else changed the registry meanwhile, and went on doing so at every retry."""

    exit_code = 5


class DeviceError(EdgelineError):
    """This device cannot keep or run a release: its disk, its memory or its state is in the way."""


class RejectedError(DeviceError):
    """The release was tried here and failed. It is left alone until its channel moves."""
