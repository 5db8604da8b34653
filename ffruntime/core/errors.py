"""Everything that can go wrong, and the exit code that says so.

    FFError                 1   anything below, and nothing more precise
     ├─ MissingExtra        1   a package that an optional part needs is not installed
     ├─ UsageError          2   an unknown name, option or combination
     ├─ BundleError         3   a model bundle that is missing, damaged or too new
     ├─ ImageError          4   an image that cannot be read or holds no figure
     ├─ DataError           5   a data set that is missing or damaged
     ├─ BackendError        6   an engine or device that was asked for is not what would run
     ├─ ParityError         7   a backend that does not reproduce the golden vectors
     ├─ StorageError        8   a file that could not be written (full disk, no permission)
     ├─ StateError          9   learned state that is damaged, of another bundle, or in use
     ├─ UpdateRefused      10   an update that would have cost more on held-back images than is tolerated
     ├─ NotSure            11   an answer that is not sure, where only sure ones were asked for
     └─ Contradicted       12   an example that looks like another class to the model, very probably

An interrupted command (Ctrl-C) exits with 130. Every message is one line: what, where, what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# What a terminal obeys, or shows elsewhere than where it stands: control characters, line ends, marks of direction.
OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

MANY = 100  # names in a message
LONG = 200  # characters of one


def printable(text: str) -> str:
    """The text as one line that a terminal only shows: what it would obey is escaped, as JSON does that."""
    return OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class FFError(Exception):
    """Base of every error that a user can meet; `exit_code` is what the command line returns."""

    exit_code = 1


class MissingExtra(FFError):
    """An optional dependency is not installed; the message names the exact `pip install`, or says what else helps
    where pip cannot."""

    def __init__(self, module: str, extra: str, instead: str | None = None) -> None:
        remedy = f": pip install 'ffedge[{extra}]'"
        super().__init__(f"{module} is not installed{instead or remedy}")


class UsageError(FFError):
    """A name or option that does not exist."""

    exit_code = 2


class BundleError(FFError):
    """A bundle that cannot be trusted."""

    exit_code = 3


class ImageError(FFError):
    """An image that cannot be classified."""

    exit_code = 4


class DataError(FFError):
    """A data set that cannot be used."""

    exit_code = 5


class BackendError(FFError):
    """A backend that is not there, or not the one that would run."""

    exit_code = 6


class ParityError(FFError):
    """A backend that computes something else than the trainer did."""

    exit_code = 7


class StorageError(FFError):
    """Something could not be written; what was saved before is still there."""

    exit_code = 8


class StateError(FFError):
    """What a device has learned cannot be used, or not now; `ffruntime reset` begins anew."""

    exit_code = 9


class UpdateRefused(FFError):
    """What was learned is not used: it would cost too much elsewhere. The examples are kept."""

    exit_code = 10


class NotSure(FFError):
    """An answer is not sure, and `--only-sure` asked for none but sure ones."""

    exit_code = 11


class Contradicted(FFError):
    """An example was not taken: to the model it looks like another class, very probably. `--yes` teaches it."""

    exit_code = 12


def listed(names: Sequence[str]) -> str:
    """Names for a message, which stays short whatever they are: the first of many, the beginnings of long ones."""
    more = f" and {len(names) - MANY:,} more" if len(names) > MANY else ""
    return ", ".join(map(shortened, names[:MANY])) + more


def shortened(name: str) -> str:
    """A name for a message; of a long one, its beginning."""
    return name if len(name) <= LONG else f"{name[:LONG]}…"


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """A `UsageError` that lists the names there are, and the one that was probably meant."""
    import difflib

    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return UsageError(f"unknown {what} '{shortened(name)}': {hint}known: {listed(names)}")
