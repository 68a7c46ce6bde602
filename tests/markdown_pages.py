"""The pages that people read, taken apart: commands, code, links, and what stands in code spans."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

import run_search

ROOT = Path(run_search.__file__).resolve().parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results" / "README.md", *ROOT.glob("docs/*.md")])
PROGRAM = "python run_search.py"


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    line: int
    kind: str
    """What stands behind its fence: `sh`, `text`, `text exact`, `python`."""
    text: str

    @property
    def file(self) -> str | None:
        """The file that the block shows: its first line is a comment with the name."""
        match = re.match(r"# (\S+\.py)\n", self.text)
        return match[1] if match else None


@dataclass(frozen=True)
class Command:
    """A command of this program, as it is shown."""

    page: Path
    line: int
    arguments: tuple[str, ...]
    output: Block | None = None
    """The block behind it."""

    def __str__(self) -> str:
        return f"{page_name(self.page)}:{self.line}: {shlex.join(self.arguments)}"


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def page_tokens(page: Path) -> tuple[Token, ...]:
    return tuple(MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")))


def page_blocks(page: Path) -> list[Block]:
    return [
        Block(page, token.map[0] + 1, token.info.strip(), token.content)
        for token in page_tokens(page)
        if token.type == "fence" and token.map is not None
    ]


def page_commands(page: Path) -> list[Command]:
    """Every command of a fenced block; the last of a block has the output block that follows, if one does."""
    blocks = page_blocks(page)
    commands: list[Command] = []
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        lines = block.text.replace("\\\n", " ").splitlines()
        shown = [line for line in lines if line.startswith(PROGRAM) and block.kind != "text"]
        shown_commands = [Command(page, block.line, tuple(shlex.split(line, comments=True)[2:])) for line in shown]
        if shown_commands and following is not None and following.kind.startswith("text"):
            shown_commands[-1] = replace(shown_commands[-1], output=following)
        commands += shown_commands
    return commands


def code_spans(page: Path) -> list[str]:
    """What stands between backquotes in running text and tables."""
    inline = [child for token in page_tokens(page) for child in token.children or ()]
    return [" ".join(child.content.split()) for child in inline if child.type == "code_inline"]


def page_links(page: Path) -> list[str]:
    """Targets of links and pictures."""
    inline = [child for token in page_tokens(page) for child in token.children or ()]
    targets = [child.attrGet("href") or child.attrGet("src") for child in inline]
    return [str(target) for target in targets if target]


def page_anchors(page: Path) -> set[str]:
    """What a link can name behind `#`, as GitHub makes it of headings."""
    tokens = page_tokens(page)
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
