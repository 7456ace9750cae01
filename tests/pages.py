"""Reads a page as a browser would: tags must close in order, and nothing may be fetched."""

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "link", "input", "line", "path", "polyline"}


class Page(HTMLParser):
    """Checks that tags close in order, and collects them with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(path: Path) -> tuple[str, Page]:
    """The text of a page and its tags."""
    text, page = path.read_text(encoding="utf-8"), Page()
    page.feed(text)
    assert page.open == []
    return text, page


def fetches(page: Page) -> list[str]:
    """What a browser would fetch or run."""
    wanted = [str(attributes.get(name)) for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    outside = [address for address in wanted if not address.startswith(("data:", "#"))]
    return outside + [tag for tag, _ in page.tags if tag in {"script", "link", "iframe"}]
