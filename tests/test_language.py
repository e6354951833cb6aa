"""Plain English in code and documentation: words that we avoid are counted, and only get fewer."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OPENING = re.compile(r"(Of|That of|Those|That|What|So many|So few|Such|As|Whose|Whether it)\b")
COMMENT = re.compile(r"(?:^| ) *(# .+)$", re.MULTILINE)
AVOIDED = re.compile(
    r"\b(laws?(?! of (large|total))|tells?|told|telling|dear(er|est)?|so (many|few)|truths?|worth"
    r"|(was|were|is|are) (not )?seen|holes?|(of|by|to|for|in) wh(ich|ose|om)|melted)\b"
    r"|\bsuch\b(?=[.;,)])",
    re.IGNORECASE,
)
"""Words that docs/glossary.md has better ones for; options and keys of files may keep them."""
ROOMS = {
    "dnnlib": (0, 0),
    "torch_utils": (2, 0),
    "training": (2, 0),
    "training/cli": (0, 0),
    "training/data": (5, 0),
    "training/files": (22, 0),
    "training/flow": (11, 0),
    "training/inference": (11, 0),
    "training/learning": (0, 0),
    "training/measure": (4, 0),
    "training/trained": (3, 0),
    "training/models": (33, 0),
    "training/networks": (1, 0),
    "training/settings": (6, 0),
    "training/paper": (3, 0),
    "training/pictures": (2, 0),
    "training/report": (1, 0),
    "training/subjects": (14, 0),
    "scripts": (0, 0),
}
"""By room, the largest numbers of avoided words and of docstrings that open in an avoided way."""
DOCS = 1.0
"""Largest number of avoided words per 1,000 words of documentation."""


def files_of(room):
    if room == "scripts":
        return sorted(ROOT.glob("*.py"))
    every = (ROOT / room).glob("*.py") if room == "training" else (ROOT / room).rglob("*.py")
    return sorted(every)


def prose_of(path):
    """Yields whether it is a docstring, and the text, of all prose of a file of Python."""
    code = path.read_text(encoding="utf-8")
    tree = ast.parse(code)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.add(id(node.value))
    for node in ast.walk(tree):
        text = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and (id(node) in docstrings or " " in text):
            yield id(node) in docstrings, text.strip()
    for comment in COMMENT.findall(code):
        yield False, comment


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_has_more_avoided_words_than_before(room):
    words, openings = [], []
    for path in files_of(room):
        for is_docstring, text in prose_of(path):
            words += [f"{path.name}: {found[0]}" for found in AVOIDED.finditer(text)]
            if is_docstring and OPENING.match(text):
                openings.append(f"{path.name}: {text.splitlines()[0]}")
    most_words, most_openings = ROOMS[room]
    assert len(words) <= most_words, words
    assert len(openings) <= most_openings, openings


def test_every_room_is_counted():
    rooms = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("training/*/*.py")}
    assert rooms <= set(ROOMS)


def test_the_documentation_has_few_avoided_words():
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    found = [match[0] for match in AVOIDED.finditer(text)]
    assert 1000 * len(found) / len(text.split()) <= DOCS, found
