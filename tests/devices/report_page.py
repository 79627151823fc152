"""A report as a browser would see it."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Page(HTMLParser):
    """What a browser would see: tags, attributes that load something, table rows, text outside scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.rows: list[list[str]] = []
        self.styles = ""
        self.text = ""
        self._raw = ""
        self._in_cell = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for key, value in attrs if key in {"src", "href", "srcset", "data", "action"}]
        self.styles += "".join(value or "" for key, value in attrs if key == "style")
        self._raw = tag if tag in {"script", "style"} else ""
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""
        if tag in {"td", "th"}:
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._raw == "style":
            self.styles += data
        if self._raw:
            return
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data

    def row(self, *beginning: str) -> list[str]:
        """The one table row that begins with these cells."""
        [found] = [row for row in self.rows if row[: len(beginning)] == list(beginning)]
        return [" ".join(cell.split()) for cell in found]

    def cards(self, *beginning: str) -> list[list[str]]:
        """All table rows that begin with these cells."""
        cleaned = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        return [row for row in cleaned if row[: len(beginning)] == list(beginning)]

    def plots(self) -> list[tuple[list[dict[str, Any]], dict[str, Any]]]:
        """Data and layout of every plot, in their order on the page."""
        found = []
        for call in re.finditer(r'Plotly\.newPlot\(\s*"[0-9a-f-]{36}",\s*', self.source):
            data, end = json.JSONDecoder().raw_decode(self.source, call.end())
            layout, _ = json.JSONDecoder().raw_decode(self.source, self.source.index("{", end))
            found.append((data, layout))
        return found

    def captions(self) -> list[str]:
        """What stands in the plots beside axes: the names of what they show."""
        notes = [note["text"] for _, layout in self.plots() for note in layout.get("annotations", [])]
        return [html.unescape(note).replace("<br>", " ") for note in notes]
