"""Build of the wheel: all packages below one name, ``inflationary_flows``.

In the repository ``training``, ``torch_utils`` and ``dnnlib`` are top-level packages and import
each other by these names, which other distributions also use. An installed copy is the same code
with the prefix added to these imports. An editable copy is the repository itself.
"""

import ast
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

NAME = "inflationary_flows"
PACKAGES = ("dnnlib", "torch_utils", "training")
EDITABLE = "editable_wheel" in sys.argv


def below(source: str) -> str:
    r"""Return the source of a module with imports of the packages prefixed by the one name.

    Example:
        >>> below("from training.names import TOY\n")
        'from inflationary_flows.training.names import TOY\n'
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        at = getattr(node, "lineno", 0) - 1
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            if str(node.module).partition(".")[0] in PACKAGES:
                lines[at] = lines[at].replace("from ", f"from {NAME}.", 1)
        elif isinstance(node, ast.Import):
            ours = [item for item in node.names if item.name.partition(".")[0] in PACKAGES]
            if ours and (len(node.names) > 1 or "." in ours[0].name):
                raise ValueError(f"line {at + 1}: import one package, or from a module")
            if ours:
                lines[at] = lines[at].replace("import ", f"from {NAME} import ", 1)
    return "".join(lines)


class Below(build_py):  # type: ignore[misc]
    """Build command that copies modules, with prefixed imports unless the copy is editable."""

    def find_package_modules(self, package, package_dir):  # type: ignore[no-untyped-def]
        """Return the modules of a package, without this file."""
        modules = super().find_package_modules(package, package_dir)
        return [module for module in modules if Path(module[-1]).name != Path(__file__).name]

    def build_module(self, module, module_file, package):  # type: ignore[no-untyped-def]
        """Copy a module, and prefix its imports unless the copy is editable."""
        outfile, copied = super().build_module(module, module_file, package)
        if not self.editable_mode:
            path = Path(outfile)
            path.write_text(below(path.read_text("utf-8")), "utf-8")
        return outfile, copied


if __name__ == "__main__":
    if EDITABLE:
        layout = {"packages": find_packages(include=[f"{name}*" for name in (NAME, *PACKAGES)])}
    else:
        own = find_packages(include=[f"{name}*" for name in PACKAGES])
        layout = {
            "packages": [NAME, *(f"{NAME}.{name}" for name in own), f"{NAME}.scripts"],
            "package_dir": {
                **{f"{NAME}.{name}": name.replace(".", "/") for name in own},
                f"{NAME}.scripts": ".",
            },
        }
    setup(cmdclass={"build_py": Below}, **layout)
