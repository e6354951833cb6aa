"""What the site does with pages: equations become MathML, so that no script is loaded for them, and
links to code, which is not on the site, become names of files."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

CODE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([\w./-]+)\)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the text of a page."""
    return CODE.sub(lambda link: link[0] if link[2].endswith(".md") else f"`{link[2]}`", markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Called by mkdocs with the HTML of a page."""

    def equation(found: re.Match[str]) -> str:
        display = "inline" if found[2] == "(" else "block"
        return convert(html.unescape(found[3]), display=display)

    return EQUATION.sub(equation, content)
