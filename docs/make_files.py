"""Write files.md, the page of every file and key, from the modules that define the formats.

python docs/make_files.py
"""

import ast
import re
import sys
from importlib import import_module
from math import isfinite
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from training.files import formats  # noqa: E402
from training.files.declared import LARGEST, NUMBER, Key, ResultFile  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "files.md"
MODULES = (
    "training/trained/network.py",
    "training/data/sources/writer.py",
    *(f"training/files/{name}.py" for name in formats.MODULES),
)
"""In the order of the page."""
DECLARED = r"\n{} = (ResultFile|replace)\((\n? *\w+,)?\s*(kind|name)="
HEAD = """# Files

Every file that the scripts write, by the module that writes and reads it; `make docs` makes this
page of their docstrings and of the arrays that they declare. A star marks arrays that not every
file has; a shape of 1 is a single value; values are numbers unless another kind is stated. In names
of files, `{stem}` stands for the data and the schedule. All files are written to a temporary name,
flushed and renamed: a file is whole or absent. Existing results are kept unless `--overwrite` is
given. Arrays open with `numpy.load(path)`; none needs pickle. Results contain their kind in an
entry `format`, such as "inflationary-flows trajectory 1", and

    python info.py FILE...

says what is in a network file, in results, in the folder of a run, or in a set of images. Pictures
and reports are on [a page of their own](../howto/pictures.md).
"""


def section_of(module: str) -> str:
    """Return the section of a module: its docstring, and the arrays of the files it declares.

    The first line of the docstring has a heading, a colon, and the start of the text.
    """
    code = (ROOT / module).read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(code))
    assert text is not None, module
    heading, _, rest = text.replace("``", "`").partition(": ")
    values = vars(import_module(module.removesuffix(".py").replace("/", ".")))
    declared = {name: value for name, value in values.items() if isinstance(value, ResultFile)}
    # Imported ones, and other readings of the same file, are not listed again.
    own = [value for name, value in declared.items() if re.search(DECLARED.format(name), code)]
    parts = [f"## {heading}", f"{rest[:1].upper()}{rest[1:]}", *map(table_of, own)]
    return "\n\n".join([*parts, f"In `{module}`.\n"])


def table_of(file: ResultFile) -> str:
    """Return a table of the arrays of a file; a star marks those that not every file has."""
    rows = [
        f"| `{name}`{'*' * key.optional} | {','.join(key.axes.split()) or '1'} | "
        f"{key.meaning}{values_of(key)} |"
        for name, key in file.keys.items()
    ]
    head = "| array | shape | contents |\n| --- | --- | --- |"
    named = f"`{file.name}`" if file.name[0] == "{" else file.name
    return f"Arrays of {named}, for {file.sizes}:\n\n" + "\n".join([head, *rows])


def values_of(key: Key) -> str:
    """Return the kind of the values of an array if not numbers, and their limits, in brackets."""
    low = f"from {key.low:g}" * isfinite(key.low)
    high = f"to {key.high:g}" * isfinite(key.high)
    limits = [low, high] if key.high < LARGEST or low == "from 0" else []
    kind = "" if key.kind.words == NUMBER.words else key.kind.words
    words = [kind, *limits, "increasing" * key.increasing, "distinct" * key.distinct]
    joined = ", ".join(filter(None, words))
    return f" ({joined})" if joined else ""


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *map(section_of, MODULES)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
