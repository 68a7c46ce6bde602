"""The one kind of error that a user sees: a sentence, without a traceback."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class UserError(ValueError):
    """Input that cannot be worked with. The message is one sentence: what was wrong with which value, what would do."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error for a name that is not known, with the closest names that are."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(choices[:40])}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


def first_line(error: BaseException) -> str:
    """The first line of an error's own text without colours, or its kind if it has none."""
    return (_COLOUR.sub("", str(error)).strip() or type(error).__name__).splitlines()[0]


def commonest_reason(reasons: Iterable[str]) -> str:
    """The reason that is given most often; of several such, the one that came first."""
    return Counter(reasons).most_common(1)[0][0]
