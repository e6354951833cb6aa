"""The page: it asks nothing of anybody, and takes names for names."""

import base64
import hashlib
import html as escaping
import re
from html.parser import HTMLParser
from pathlib import Path

from tests.training.report.conftest import NASTY

LOADING = {"src", "srcset", "data", "action", "formaction", "background", "poster"}


class Tags(HTMLParser):
    """What a browser finds in a page: its elements, scripts and the policy."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.scripts: list[str] = []
        self.policy = ""
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loads += [f"{tag} {name}" for name in given if name in LOADING or name[:2] == "on"]
        if tag == "link" or not (given.get("href") or "#").startswith("#"):
            self.loads.append(f"{tag} {given.get('href')}")
        self.inside = tag == "script" and given.get("type") != "application/json"
        if self.inside:
            self.scripts.append("")
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[-1] += data


def test_nothing_is_loaded_and_only_its_own_scripts_may_run(html: str) -> None:
    tags = Tags(html)
    assert not tags.loads
    digests = {
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in tags.scripts
    }
    rules = dict(rule.strip().split(" ", 1) for rule in tags.policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules["script-src"].split()) == digests
    assert "unsafe-eval" not in tags.policy
    assert "connect-src" not in rules


def test_names_of_files_are_text(html: str, everything: Path) -> None:
    assert NASTY.split("/")[0] not in html.replace(escaping.escape(everything.name), "")
    assert f"<h1>{escaping.escape(everything.name)}</h1>" in html


def test_every_picture_has_words(html: str) -> None:
    plots = re.findall(r'<div class="plot"[^>]*aria-label="([^"]*)"', html)
    cells = re.findall(r'<(?:div|button)[^>]*class="cell[^>]*aria-label="([^"]*)"', html)
    assert len(plots) > 20
    assert len(cells) > 30
    assert min(map(len, plots)) > 20
    assert all(cells)
