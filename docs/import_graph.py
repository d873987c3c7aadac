"""Draw which file imports which into both READMEs, between the two marks: make graph.

Only the edges that no longer path implies are drawn.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
READMES = (ROOT / "README.md", ROOT / "README.ru.md")
MARKED = re.compile(r"(<!-- import graph -->\n).*?(<!-- end -->\n)", re.S)


def import_graph() -> dict[str, set[str]]:
    """Return, for each module of the project, the project's modules that it imports."""
    names = {path.stem for path in ROOT.glob("*.py")}
    return {name: _imports(ROOT / f"{name}.py") & names for name in sorted(names)}


def _imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the graph without the edges that a longer path implies."""
    below: dict[str, set[str]] = {}

    def reach(name: str) -> set[str]:
        if name not in below:
            below[name] = graph[name].union(*map(reach, graph[name]))
        return below[name]

    return {
        name: {other for other in others if not any(other in reach(via) for via in others - {other})}
        for name, others in graph.items()
    }


def mermaid(graph: dict[str, set[str]]) -> str:
    """Return the graph as a mermaid block."""
    edges = [f"    {name} --> {other}" for name, others in graph.items() for other in sorted(others)]
    return "\n".join(["```mermaid", "graph LR", *edges, "```", ""])


def main() -> None:
    """Write the drawing into both READMEs."""
    drawing = mermaid(reduced(import_graph()))
    for readme in READMES:
        readme.write_text(MARKED.sub(lambda mark: mark[1] + drawing + mark[2], readme.read_text()))


if __name__ == "__main__":
    main()
