"""Text of the program at random, for somebody who reads it for the first time.

    python benchmarks/reading_sample.py --seed=1
    python benchmarks/reading_sample.py --seed=1 --control

It prints docstrings of public names, error messages and help texts, each with its place. The
reader marks every sentence that needs a second reading. How many a reader marks in texts that are
thought good, the control tells: docstrings and errors of scikit-learn, and help texts of pip.
"""

import argparse
import ast
import random
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
PACKAGES = ("dnnlib", "torch_utils", "training")
DOCUMENTED = (ast.ClassDef, ast.FunctionDef)


Code = list[tuple[str, ast.Module]]
"""Path and syntax tree of each file."""
LONGEST = 1500
"""Letters of a docstring of the control, whose lists of parameters are long."""


def trees(root: Path, paths: Iterable[Path]) -> Code:
    """Return the syntax trees of files, with their paths below a folder."""
    return [
        (path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(paths)
    ]


def own_code() -> Code:
    """Return the code of the packages and of the scripts."""
    packages = (path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    return trees(ROOT, [*ROOT.glob("*.py"), *packages])


def control_code() -> Code:
    """Return the code of scikit-learn, without its tests and copies of other projects."""
    folder = Path(import_module("sklearn").__path__[0])
    paths = (each for each in folder.rglob("*.py") if not {"tests", "externals"} & {*each.parts})
    return trees(folder.parent, paths)


def signature(node: ast.ClassDef | ast.FunctionDef) -> str:
    """Return the line that a reader meets above a docstring."""
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}({', '.join(map(ast.unparse, node.bases))}):"
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){result}:"


def docstrings(code: Code) -> Iterator[str]:
    """Yield the docstrings of public classes and functions, each below its signature.

    Methods also have the first sentence of their class, as a page of documentation shows them.
    """
    for path, tree in code:
        for parent in ast.walk(tree):
            heading = ""
            if isinstance(parent, ast.ClassDef):
                summary = (ast.get_docstring(parent) or "").split("\n\n")[0]
                heading = f"class {parent.name}: {summary}\n"
            for node in ast.iter_child_nodes(parent):
                if isinstance(node, DOCUMENTED) and not node.name.startswith("_"):
                    text = ast.get_docstring(node)
                    if text:
                        yield f"{path}\n{heading}{signature(node)}\n{text}"


def messages(code: Code) -> Iterator[str]:
    """Yield the texts of errors, with expressions in braces."""
    for path, tree in code:
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
                continue
            for argument in node.exc.args:
                if isinstance(argument, ast.JoinedStr):
                    text = "".join(
                        str(part.value)
                        if isinstance(part, ast.Constant)
                        else f"{{{ast.unparse(getattr(part, 'value', part))}}}"
                        for part in argument.values
                    )
                elif isinstance(argument, ast.Constant):
                    text = str(argument.value)
                else:
                    continue
                if " " in text:
                    yield f"{path}:{node.lineno}\n{text}"


def helps() -> Iterator[str]:
    """Yield the help texts of commands and options."""
    sys.path.insert(0, str(ROOT))
    for path in sorted(ROOT.glob("*.py")):
        if path.stem == "setup":
            continue
        main = import_module(path.stem).main
        for name, command in {"": main, **getattr(main, "commands", {})}.items():
            yield f"{path.stem} {name}\n{command.help}"
            for param in command.params:
                if isinstance(param, click.Option) and param.help:
                    value = "" if param.is_flag else param.make_metavar(click.Context(command))
                    yield f"{path.stem} {name} {param.opts[-1]} {value}\n{param.help}"


def control_helps() -> Iterator[str]:
    """Yield the help texts of the options of pip."""
    commands = import_module("pip._internal.commands")
    for name in commands.commands_dict:
        parser = commands.create_command(name).parser
        for group in (parser, *parser.option_groups):
            for option in group.option_list:
                if option.help and option.help != "SUPPRESSHELP":
                    value = option.metavar or ""
                    yield f"pip {name} {option.get_opt_string()} {value}\n{option.help}"


def main() -> None:
    """Print the sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=12, help="texts of each kind (default: 12)")
    parser.add_argument("--control", action="store_true", help="texts of scikit-learn and pip")
    options = parser.parse_args()
    drawing = random.Random(options.seed)
    code = control_code() if options.control else own_code()
    longest = LONGEST if options.control else None
    kinds = {
        "Docstring": {text[:longest] for text in docstrings(code)},
        "Error message": {*messages(code)},
        "Help": {*(control_helps() if options.control else helps())},
    }
    for kind, texts in kinds.items():
        for number, text in enumerate(drawing.sample(sorted(texts), options.count), 1):
            print(f"--- {kind} {number}: {text}\n")


if __name__ == "__main__":
    main()
