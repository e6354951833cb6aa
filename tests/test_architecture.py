"""The shape of the house: who imports whom, what is declared, what is never written."""

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import yaml

from inflationary_flows.__main__ import scripts
from training.names import EXTRAS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("dnnlib", "torch_utils", "training")
FRONT = "inflationary_flows"
SETTINGS, CLI, MODELS = "training.settings", "training.cli", "training.models"
SUBJECTS = "training.subjects"
KINDS = {"TOY", "TABLE", "IMAGES"}
NOUNS = {"ToyFlow", "TableFlow", "ImageFlow", "ToyTraining", "TableTraining", "ImageTraining"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SCRIPTS = scripts()
PATHS = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LIBRARY = {module_name(path): path for path in PATHS}
MODULES = {**LIBRARY, **SCRIPTS}
MODULES |= {module_name(path): path for path in (ROOT / FRONT).glob("*.py")}
BESIDE = [path for room in ("benchmarks", "experiments") for path in (ROOT / room).glob("*.py")]
OURS = {**MODULES, **{module_name(path): path for path in BESIDE}}


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(path):
    return list(ast.walk(tree(path)))


@cache
def imported_names(path):
    """All that a file imports, anywhere in it, as dotted names."""
    got = []
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in nodes(path):
        if isinstance(node, ast.Import):
            got += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                # What is imported from a package may be a module of its own.
                whole = f"{base}.{alias.name}"
                got.append(whole if whole in OURS else base)
    return got


@cache
def imports(name):
    return {other for other in imported_names(OURS[name]) if other in OURS} - {name}


def within(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


# For each room, from the bottom up, the only ones of ours that it may import beside itself.
GROUND = ("dnnlib", "torch_utils", "training.names")
BELOW = {
    "dnnlib": (),
    "torch_utils": ("dnnlib",),
    "training.names": (),
    "training.data": GROUND,
    "training.networks": GROUND,
    "training.flow": GROUND,
    "training.measure": (*GROUND, "training.flow"),
    "training.inference": (*GROUND, "training.flow", "training.measure"),
    "training.trained": (*GROUND, "training.flow", "training.networks"),
    SETTINGS: ("dnnlib", "training.names", "training.recipes"),
    "training": GROUND,
}


def test_dependencies_are_found_and_point_downward_only():
    assert {"torch_utils.snapshots", "toy_train"} <= set(OURS)
    assert "dnnlib.errors" in imports("training.flow.pfode")
    upward = {
        f"{name} imports {other}"
        for package, below in BELOW.items()
        for name in OURS
        if within(name, package)
        for other in imports(name)
        if not within(other, package, *below)
    }
    assert not upward


def test_only_scripts_import_the_command_line_and_only_it_imports_click():
    """The library can be used without a command line: the direction of calls is downward."""
    for name, path in OURS.items():
        if name in SCRIPTS or within(name, CLI, FRONT) or path in BESIDE:
            continue
        assert "click" not in {imported.split(".")[0] for imported in imported_names(path)}, name
        assert not any(within(other, CLI) for other in imports(name)), name


def test_only_public_nouns_and_commands_build_settings():
    """Everything below takes plain values."""
    for name in LIBRARY:
        if name != "training" and not within(name, SETTINGS, CLI, MODELS):
            assert not any(within(other, SETTINGS, CLI) for other in imports(name)), name


def test_the_library_makes_no_temporary_folder():
    users = {name for name, path in LIBRARY.items() if "tempfile" in imported_names(path)}
    assert not {name for name in users if within(name, MODELS)}


def asks_for_kind(node):
    """Whether an expression compares the kind of data, or looks at the class of a subject."""
    if isinstance(node, ast.Compare):
        return any(isinstance(side, ast.Name) and side.id in KINDS for side in node.comparators)
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
        return any(isinstance(part, ast.Name) and part.id in NOUNS for part in ast.walk(node))
    return False


def test_nobody_asks_for_the_kind_of_data_but_subjects_and_who_opens_a_file():
    """They look at a file to open it, and nobody asks again what it was."""
    for name, path in LIBRARY.items():
        if within(name, SUBJECTS):
            continue
        tests = (node.test for node in nodes(path) if isinstance(node, ast.Assert))
        asserted = {part for test in tests for part in ast.walk(test)}
        asked = [ast.unparse(node) for node in nodes(path) if asks_for_kind(node)]
        known = [ast.unparse(node) for node in asserted if asks_for_kind(node)]
        assert sorted(asked) == sorted(known), name
    sniffers = re.compile(r"(?<!def )\b(holds_table|is_table)\(")
    lookers = {name for name, path in LIBRARY.items() if sniffers.search(path.read_text("utf-8"))}
    files = {f"training.files.{name}" for name in ("about", "records")}
    assert lookers == files | {f"{CLI}.dataset_tool", f"{SUBJECTS}.images"}


def test_scripts_name_functions_that_take_their_settings():
    for call in (node for path in SCRIPTS.values() for node in nodes(path)):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "runs":
            module, function = call.args[0].value.split(".")
            body = tree(LIBRARY[f"{CLI}.{module}"]).body
            (made,) = (one for one in body if getattr(one, "name", "") == function)
            named, taken = map(ast.unparse, (call.args[1], made.args.args[0].annotation))
            assert named.split(".")[-1] in taken.replace(".", " ").split()


def test_scripts_are_imported_by_nobody_and_there_are_no_circles():
    assert not [name for name in OURS if imports(name) & set(SCRIPTS)]
    finished = set()

    def visit(name, path):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in finished:
            for other in imports(name):
                visit(other, (*path, name))
            finished.add(name)

    for name in OURS:
        visit(name, ())


def test_both_lists_of_dependencies_are_one():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    extras = PROJECT["optional-dependencies"]
    for_all = re.findall(r"\w+", extras["all"][0].partition("[")[2])
    assert sorted(pip) == sorted(sum((extras[name] for name in for_all), PROJECT["dependencies"]))
    for package, extra in EXTRAS.items():
        assert package.replace("_", "-") in " ".join(extras[extra])
    assert f"python{PROJECT['requires-python']}" in environment["dependencies"]


def test_what_the_library_imports_is_declared():
    extras = PROJECT["optional-dependencies"]
    entries = sum((extras[name] for name in extras if name != "dev"), PROJECT["dependencies"])
    declared = {re.split(r"[<>=\[]", entry)[0] for entry in entries}
    known_as = {"PIL": "pillow", "sklearn": "scikit-learn", "torch_fidelity": "torch-fidelity"}
    for name, path in MODULES.items():
        for top in {imported.split(".")[0] for imported in imported_names(path)}:
            if top not in sys.stdlib_module_names and top not in {*PACKAGES, FRONT, *SCRIPTS}:
                assert known_as.get(top, top) in declared, f"{name} imports {top}"


def may_run_code(call):
    """Whether a call opens a file in a way that can run what is in it."""
    values = {word.arg: ast.unparse(word.value) for word in call.keywords}
    called = ast.unparse(call.func)
    return (
        values.get("weights_only", "True") != "True"
        or values.get("allow_pickle", "False") != "False"
        or called.endswith(("pickle.load", "pickle.loads"))
        or (called == "torch.load" and "weights_only" not in values)
    )


def test_no_file_can_be_opened_in_a_way_that_runs_code():
    assert not {
        f"{path}:{node.lineno}"
        for path in OURS.values()
        for node in nodes(path)
        if isinstance(node, ast.Call) and may_run_code(node)
    }


def test_every_module_has_a_docstring():
    assert not {name for name, path in OURS.items() if not ast.get_docstring(tree(path))}
