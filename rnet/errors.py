"""Errors a user can cause: each names the value, the place and the remedy, and is shown without a traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LONGEST = 2000
"""Characters of a message; of a longer one, which shows what somebody wrote, the middle is left out."""


class UserError(ValueError):
    """Something the user can put right. The command line prints the message, one line, and exits with status 2."""

    def __init__(self, message: object) -> None:
        super().__init__(one_line(str(message)))


def one_line(text: str) -> str:
    """A message without line ends and other control characters, which names of files and of tensors may hold."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"
    text = re.sub(r"\s*[\n\r]+\s*", " ", text)
    return "".join(c if c.isprintable() or "\ud800" <= c <= "\udfff" else repr(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """What an error says, in one line for a message of ours; its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unknown_name(place: str, value: object, valid: Iterable[str], *, remedy: str = "") -> UserError:
    """Returns the error for a name that does not exist: nearest valid names first, then all of them if they are few."""
    names = sorted(str(name) for name in valid)
    close = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    if len(names) <= 24:
        hint += f" Choose one of {', '.join(names)}." if hint else f"; choose one of {', '.join(names)}."
    return UserError(f"{place}={value!r} does not exist{hint}{' ' + remedy if remedy else ''}")
