"""Texts of a user's within Markdown and LaTeX: they stand as they are, whatever they hold."""

from __future__ import annotations

import re

from models.errors import one_line, printable_text

_MARKDOWN = re.compile(r"([\\|`*_~<>\[\]#&$!])|^(\s*)([+=-]|\d+[.)])(?=[\s=-]|$)")
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$",
    "Δ": r"$\Delta$", "−": r"$-$", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "\N{REPLACEMENT CHARACTER}": "?", **{char: f"\\{char}" for char in "&%$#_{}"},
}  # fmt: skip


def escape_markdown(text: str) -> str:
    """A text as part of a heading, a paragraph or a cell of a table."""
    return _MARKDOWN.sub(_escape_match, one_line(text))


def _escape_match(match: re.Match[str]) -> str:
    """A character with a backslash before it; of what would begin a list at least the last one."""
    if match[1]:
        return f"\\{match[1]}"
    return f"{match[2]}{match[3][:-1]}\\{match[3][-1]}"


def markdown_code(text: str, *, in_table: bool = False) -> str:
    """A text as a code span, fenced by more backticks than it holds in a row."""
    code = " ".join(printable_text(text).splitlines()) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", code)), default=0))
    space = " " if code[0] == "`" or code[-1] == "`" else ""
    # In tables a bar ends the cell even within a code span, unless a backslash is before it.
    return f"{fence}{space}{code.replace('|', chr(92) + '|') if in_table else code}{space}{fence}"


def escape_latex(text: str) -> str:
    """A text in LaTeX's text mode."""
    return "".join(_LATEX.get(char, char) for char in one_line(text))
