"""What a report's page says, read from its HTML by a parser of its own."""

import json
from base64 import b64decode
from html.parser import HTMLParser
from typing import Any

VOID = frozenset({"meta", "link", "path", "rect", "circle"})


class Document(HTMLParser):
    """A page taken apart. `elements`: name, attributes and the text right in it, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {[one[0] for one in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made: tuple[str, dict[str, str | None], list[str]] = (tag, dict(attrs), [])
        self.elements.append(made)
        if tag not in VOID:
            self._open.append(made)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        closed = self._open.pop()
        assert closed[0] == tag, f"</{tag}> ends <{closed[0]}>"

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1][2].append(data)

    def named(self, name: str) -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of the elements of a name."""
        return [(attributes, "".join(text)) for tag, attributes, text in self.elements if tag == name]

    @property
    def text(self) -> str:
        """All that a person reads, in order of the elements."""
        return " ".join("".join(text) for tag, _, text in self.elements if tag not in {"style", "script", "svg"})

    @property
    def data(self) -> list[dict[str, Any]]:
        """The embedded data of each incident."""
        links = [attributes for attributes, _ in self.named("a") if "download" in attributes]
        return [json.loads(b64decode(str(one["href"]).partition(";base64,")[2])) for one in links]
