"""Draw which wing imports which into both READMEs, between the two marks: make graph.

A node is a wing (a folder of code) or a file of the root. Edges that a longer path implies are left out.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
WINGS = (
    "detection", "photosets", "evaluation", "training", "tracking", "serving", "page", "cameras", "sweeping",
    "archives",
)  # fmt: skip
READMES = (ROOT / "README.md", ROOT / "README.ru.md")
MARKED = re.compile(r"(<!-- import graph -->\n).*?(<!-- end -->\n)", re.S)


def code() -> dict[str, Path]:
    """Return every module of the product, by its dotted name."""
    paths = [*ROOT.glob("*.py"), *(path for wing in WINGS for path in (ROOT / wing).glob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(paths)}


def imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports, wherever in it: of `from a import b` both a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def import_graph() -> dict[str, set[str]]:
    """Return, for each wing and each file of the root, the others that it imports."""
    modules = code()
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        node = name.partition(".")[0]
        found = {other.partition(".")[0] for other in imports(path) if other in modules}
        graph[node] = graph.get(node, set()) | found - {node}
    return graph


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
    """Return the graph as a mermaid block; wings are boxes with round corners."""
    shapes = [f"    {name}({name}/)" for name in WINGS if name in graph]
    edges = [f"    {name} --> {other}" for name, others in graph.items() for other in sorted(others)]
    return "\n".join(["```mermaid", "graph LR", *shapes, *edges, "```", ""])


def main() -> None:
    """Write the drawing into both READMEs."""
    drawing = mermaid(reduced(import_graph()))
    for readme in READMES:
        readme.write_text(MARKED.sub(lambda mark: mark[1] + drawing + mark[2], readme.read_text()))


if __name__ == "__main__":
    main()
