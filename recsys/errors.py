"""The errors that this package raises on purpose.

    RecsysError
    ├── ConfigError        a setting is wrong; the message names file, key, rule and value (exit code 2)
    ├── DataError          data is missing or broken; the message names the command that makes it
    ├── ReleaseError       a release is missing, truncated, altered or mixed
    ├── RequestError       the caller's request is wrong (HTTP 422)
    └── DependencyError    something outside this process does not answer (HTTP 503)

A message names the subject, the rule, the offending value and the remedy, in one sentence.
"""

__all__ = ["ConfigError", "DataError", "DependencyError", "RecsysError", "ReleaseError", "RequestError"]


class RecsysError(Exception):
    """Base of all errors raised on purpose; the command line prints it as one sentence and exits with code 1."""


class ConfigError(RecsysError):
    """A settings file or an override breaks a rule."""


class DataError(RecsysError):
    """A table, a file or a catalogue is missing or cannot be used."""


class ReleaseError(RecsysError):
    """A release is missing, truncated, altered or made of parts that do not belong together."""


class RequestError(RecsysError):
    """A client's request breaks a rule of the interface."""


class DependencyError(RecsysError):
    """Redis, the network or another process does not answer as it should."""
