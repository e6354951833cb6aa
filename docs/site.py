"""Hooks of the documentation site: render equations as MathML, and links to code as file names.

MathML needs no script. Code is not part of the site.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

CODE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([\w./-]+)\)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links to code by file names, in the text of a page."""
    return CODE.sub(lambda link: link[0] if link[2].endswith(".md") else f"`{link[2]}`", markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Render equations as MathML, in the HTML of a page."""

    def equation(found: re.Match[str]) -> str:
        display = "inline" if found[2] == "(" else "block"
        return convert(html.unescape(found[3]), display=display)

    return EQUATION.sub(equation, content)
