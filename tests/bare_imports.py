"""Run every import statement of the programs named and of what they import, those inside functions too.

    python tests/bare_imports.py train.py evaluate.py    # in the folder that holds them

Run by an environment's own Python. Prints one line for each import that fails.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

Import = ast.Import | ast.ImportFrom


def import_statements(path: Path) -> list[Import]:
    """Return the import statements of a file, wherever they stand in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, Import)]


def names(statement: Import) -> list[str]:
    """Return the dotted names that may be modules: of "from a import b" both a and a.b."""
    plain = [alias.name for alias in statement.names]
    if isinstance(statement, ast.Import):
        return plain
    return [str(statement.module), *(f"{statement.module}.{name}" for name in plain)]


def files(statement: Import) -> list[Path]:
    """Return the files of the present folder that a statement imports."""
    stems = [Path(*name.split(".")) for name in names(statement)]
    paths = [path for stem in stems for path in (stem.with_suffix(".py"), stem / "__init__.py")]
    return [path for path in paths if path.is_file()]


def reached(programs: list[Path]) -> list[Path]:
    """Return programs and every file of the present folder that they import, directly or not."""
    found, waiting = [], list(programs)
    while waiting:
        path = waiting.pop(0)
        if path not in found:
            found.append(path)
            waiting += [file for statement in import_statements(path) for file in files(statement)]
    return found


def failures(path: Path) -> list[str]:
    """Return one line for each import of a file that this environment cannot do."""
    found = []
    for statement in import_statements(path):
        try:
            exec(ast.unparse(statement), {})
        except ImportError as error:
            found.append(f"{path}, line {statement.lineno}: {ast.unparse(statement)}: {error}")
    return found


def main() -> None:
    """Print what cannot be imported."""
    sys.path[0] = str(Path.cwd())  # the programs' folder instead of this file's
    for path in reached([Path(name) for name in sys.argv[1:]]):
        sys.stdout.writelines(f"{line}\n" for line in failures(path))


if __name__ == "__main__":
    main()
