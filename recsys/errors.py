"""Every error this package raises on purpose.

    RecsysError
    ├── ConfigError        a setting is wrong; the message carries file, key, rule and value
    ├── DataError          data is missing or broken; the message says which command makes it
    ├── ReleaseError       a release is missing, truncated, altered or mixed
    ├── RequestError       the caller's request is wrong (HTTP 422)
    └── DependencyError    something outside this process does not answer (HTTP 503)

A message names the subject, the rule, the offending value and the remedy, in one sentence.
"""

__all__ = ["ConfigError", "DataError", "DependencyError", "RecsysError", "ReleaseError", "RequestError"]


class RecsysError(Exception):
    """Base of every error raised on purpose; the command line prints it as one sentence and exits 1."""


class ConfigError(RecsysError):
    """A configuration file or an override breaks a rule."""


class DataError(RecsysError):
    """A table, a file or a catalogue is missing or cannot be used."""


class ReleaseError(RecsysError):
    """A release is missing, truncated, altered or made of parts that do not belong together."""


class RequestError(RecsysError):
    """A request from outside breaks a rule of the interface."""


class DependencyError(RecsysError):
    """Redis, the network or another process does not answer as it should."""
