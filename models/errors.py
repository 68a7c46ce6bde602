"""The one kind of error that a user sees: a sentence, without a traceback."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable

# What moves a terminal's cursor, colours, links or title: whole sequences, as ECMA-48 has them.
_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\)|[ -/]*[0-~])", re.DOTALL)
# Control characters but tab and line feed, unpaired surrogates, marks that override the direction of text.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(ValueError):
    """Input that cannot be worked with. The message is one sentence: what was wrong with which value, what would do."""


def unknown_name(kind: str, name: str, names: Iterable[str]) -> UserError:
    """An error for a name that is not known, with the closest names that are."""
    choices = sorted(names)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(choices[:40])}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


def first_line(error: BaseException) -> str:
    """The first line of an error's own text without colours, or its kind if it has none."""
    return (printable_text(str(error)).strip() or type(error).__name__).splitlines()[0]


def one_line(text: str) -> str:
    """The text on one line, without what a terminal would obey."""
    return " ".join(printable_text(text).split())


def printable_text(text: str) -> str:
    """The text without terminal sequences; what else no terminal and no page should be sent becomes U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", _SEQUENCES.sub("", text))


def commonest_reason(reasons: Iterable[str]) -> str:
    """The reason that is given most often; of several such, the one that came first."""
    return Counter(reasons).most_common(1)[0][0]
