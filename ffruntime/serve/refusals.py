"""What is answered instead of a result: a status, a code of `docs/serve.md`, and a line that names no path."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..core.errors import (
    BackendError,
    BundleError,
    FFError,
    ImageError,
    MissingExtra,
    StateError,
    StorageError,
    UsageError,
    printable,
)
from .shapes import ErrorBody, Fault

PATH = re.compile(r"(?<![\w<.])(?:~|[A-Za-z]:)?(?:[\\/][^\s'\":;,/\\]+){2,}[\\/]?")  # as they stand in messages


class Refused(Exception):
    """A request that is not served."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})

    @property
    def body(self) -> ErrorBody:
        return ErrorBody(Fault(self.code, self.message))


def busy(message: str, seconds: int = 1, code: str = "busy") -> Refused:
    """503: try again in so many seconds."""
    return Refused(503, code, message, {"Retry-After": str(seconds)})


STATUS: dict[type[BaseException], tuple[int, str]] = {
    ImageError: (422, "picture"),
    UsageError: (422, "usage"),
    StateError: (409, "state"),
    StorageError: (507, "storage"),
    BundleError: (500, "model"),
    BackendError: (500, "model"),
    MissingExtra: (503, "camera"),
    MemoryError: (413, "large"),
}


def refusal(error: BaseException, private: Mapping[str, str]) -> Refused:
    """What is answered where work ended with an error; `private`: paths, and what stands in their place."""
    if isinstance(error, Refused):
        return error
    for kind, (status, code) in STATUS.items():
        if isinstance(error, kind):
            text = str(error) or "not enough memory"
            return Refused(status, code, public(text, private))
    return Refused(500, "internal", "something went wrong here" if not isinstance(error, FFError) else str(error))


def public(message: str, private: Mapping[str, str]) -> str:
    """A message as one line in which no path of the device stands."""
    for path in sorted(private, key=len, reverse=True):
        message = message.replace(path, private[path])
    return printable(PATH.sub("…", message))
