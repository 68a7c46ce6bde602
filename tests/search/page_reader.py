"""A page as another reader than the browser understands it."""

from __future__ import annotations

import html.parser
from collections import Counter


class Reader(html.parser.HTMLParser):
    """Another reading of a page than the browser's: elements, attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.data: dict[str, str] = {}  # id of a JSON script -> its text
        self.points: Counter[str] = Counter()  # id of a figure -> drawn points
        self._open: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        named = dict(attrs)
        self._open.append((tag, named.get("id") or ""))
        if "point" in (named.get("class") or "").split():
            self.points[next(name for tag, name in reversed(self._open) if name.endswith(("-plot", "-plot-0")))] += 1

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        tag, name = self._open[-1] if self._open else ("", "")
        if tag == "script" and name:
            self.data[name] = data
        elif tag not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)
