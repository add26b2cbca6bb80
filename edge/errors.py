"""One tree of errors; each says what to do about it and whether trying again can help.

`reason` is a short slug of `[a-z_]` that ends up in verdicts, metrics and the log; `hint` is a sentence for
a person; `exit_code` follows sysexits.h, as README lists.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of all errors that edge raises on purpose."""

    exit_code = 70
    retryable = False
    reason = "internal"

    def __init__(
        self, message: str, *, hint: str = "", reason: str | None = None, retryable: bool | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if reason is not None:
            self.reason = reason
        if retryable is not None:
            self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross process borders (decode workers), so they must survive pickling."""
        return _rebuild, (type(self), self.message, self.hint, self.reason, self.retryable)


def _rebuild(kind: type[EdgeError], message: str, hint: str, reason: str, retryable: bool) -> EdgeError:
    return kind(message, hint=hint, reason=reason, retryable=retryable)


class UsageError(EdgeError):
    """The command line asks for something that makes no sense."""

    exit_code = 64
    reason = "usage"


class DataError(EdgeError):
    """A frame, manifest or other input is bad; trying again will not help."""

    exit_code = 65
    reason = "unreadable"


class IncompleteError(DataError):
    """The bytes of a frame are not all there (yet): the format's own end is missing."""

    retryable = True
    reason = "truncated"


class BundleError(DataError):
    """An engine bundle or calibration is missing, damaged, or does not belong to the other."""

    reason = "bundle_refused"


class MissingInputError(EdgeError):
    """A file or folder that was named is not there."""

    exit_code = 66
    reason = "missing_input"


class UnavailableError(EdgeError):
    """A device, library, broker or port that is needed cannot be had now."""

    exit_code = 69
    retryable = True
    reason = "unavailable"


class EngineLostError(UnavailableError):
    """An engine no longer gives its golden answers: the process must start afresh."""

    retryable = False
    reason = "engine_lost"


class CannotWriteError(EdgeError):
    """A result cannot be written where it should go."""

    exit_code = 73
    retryable = True
    reason = "cannot_write"


class TryAgainError(EdgeError):
    """Nothing is wrong, but it cannot be done right now (another instance runs, a drain timed out)."""

    exit_code = 75
    retryable = True
    reason = "try_again"


class ConfigError(EdgeError):
    """The configuration is wrong; the message names file, line, key and value."""

    exit_code = 78
    reason = "configuration"
