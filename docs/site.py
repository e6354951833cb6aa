"""Hooks of the documentation site: render equations as MathML, and links to code as file names.

MathML needs no script. Code is not part of the site.
"""

import html
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from latex2mathml.converter import convert

from training.cli.click_options import HELP_ALL
from training.cli.script import CONTEXT

CODE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([\w./-]+)\)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)
ROOT = Path(__file__).parent.parent
COPIED = {"project/contributing.md": "CONTRIBUTING.md", "project/changelog.md": "CHANGELOG.md"}
"""Pages whose text is a file at the top of the repository."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in copied and generated pages, and replace links to code by file names."""
    name = page.file.src_uri
    if name in COPIED:
        markdown = (ROOT / COPIED[name]).read_text(encoding="utf-8").replace("](docs/", "](../")
        markdown = markdown.replace("](LICENSE)", "](../../LICENSE)")
    if name == "reference/commands.md":
        markdown += "".join(map(_section, sorted(ROOT.glob("*.py"))))
    return CODE.sub(lambda link: link[0] if link[2].endswith(".md") else f"`{link[2]}`", markdown)


def _section(path: Path) -> str:
    """Return the full help of a script and its subcommands, as Markdown; empty for other files."""
    if path.stem == "setup":
        return ""
    sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
    main = import_module(path.stem).main
    commands = {path.stem: main}
    commands |= {
        f"{path.stem} {name}": each for name, each in getattr(main, "commands", {}).items()
    }
    text = ""
    for name, command in commands.items():
        context = click.Context(command, info_name=name, **CONTEXT, terminal_width=80)
        context.meta[HELP_ALL] = True
        level = "##" if command is main else "###"
        text += f"\n\n{level} {name}\n\n```\n{command.get_help(context)}\n```\n"
    return text


def on_page_content(content: str, **_: Any) -> str:
    """Render equations as MathML, in the HTML of a page."""

    def equation(found: re.Match[str]) -> str:
        display = "inline" if found[2] == "(" else "block"
        return convert(html.unescape(found[3]), display=display)

    return EQUATION.sub(equation, content)
