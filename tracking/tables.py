"""Versions, history and comparisons as tables for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tracking.comparison import Comparison, as_number, as_time, what_it_is
from tracking.versions import RegisteredVersion

LIST_COLUMNS = {
    "map": "val/map",
    "map_50": "val/map_50",
    "look-\nalike\nalarms": "val/lookalike_alarm_rate",
    "image\nrecall": "operating_point.image_recall",
    "false\nalarms\n/1000": "operating_point.false_alarms_per_1000",
}


def _table(*titles: str, **options: Any) -> Table:
    """Return an empty table that stays readable in 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", **options)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def versions_table(versions: Sequence[RegisteredVersion]) -> Table:
    """Return all versions as a table, one row each. Numbers are those of the validation split."""
    table = _table(caption="measured on each version's own validation split")
    table.add_column("no.", justify="right", no_wrap=True, style="bold")
    table.add_column("alias", style="bold", no_wrap=True)
    for title in LIST_COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("registered", no_wrap=True)
    for found in versions:
        numbers = [as_number(found.measured(key)) for key in LIST_COLUMNS.values()]
        table.add_row(found.version, "\n".join(found.aliases), *numbers, as_time(found.created_at)[:10])
    return table


def version_table(found: RegisteredVersion) -> Table:
    """Return all that was recorded of a version."""
    table = _table("recorded", "", title=f"{found} ({', '.join(found.aliases) or 'no alias'})")
    table.add_row("registered", as_time(found.created_at))
    table.add_row("run", found.run_id)
    for key, value in sorted(found.tags.items()):
        if value:
            table.add_row(key, value)
    return table


def history_table(history: Sequence[Mapping[str, str]]) -> Table:
    """Return every change of the champion, oldest first."""
    table = _table(title="champions so far")
    for title in ("when", "who", "version", "why"):
        table.add_column(title, no_wrap=title == "when", overflow="fold")
    for change in history:
        what = f"{change['version']} ({change['action']})"
        overruled = f"overruled: {change['against']}" if change["against"] else ""
        reasons = "; ".join(filter(None, (change["why"], overruled)))
        table.add_row(change["when"].removesuffix("+00:00"), change["who"], what, reasons)
    return table


def comparison_table(compared: Comparison) -> Table:
    """Return the comparison for the terminal, the best values in bold."""
    table = _table()
    table.add_column("", no_wrap=True)
    for head in compared.heads:
        table.add_column("\n".join(head), overflow="fold")
    for rows in (compared.facts, compared.measured, compared.parameters):
        for title, cells in rows:
            table.add_row(title, *(Text(cell.text, "bold" if cell.best else "") for cell in cells))
        table.add_section()
    if compared.left_out:
        table.caption = f"parameters that differ besides: {compared.left_out}; --parameters 100 shows them"
    return table


def comparison_markdown(compared: Comparison) -> str:
    """Return what decides in the comparison as a Markdown table, the best values in bold."""
    measured = []
    for key, cells in compared.measured:
        split, _, word = key.partition("/")
        if what_it_is(word):
            measured.append((f"{split}: {what_it_is(word)}", cells))
    facts = [row for row in compared.facts if row[0] not in ("started", "status")]
    rows = [
        ["", *(_escaped(name) for name, _ in compared.heads)],
        ["---", *("---:" for _ in compared.heads)],
        *(
            [title, *(f"**{cell.text}**" if cell.best else _escaped(cell.text) for cell in cells)]
            for title, cells in (*measured, *facts)
        ),
        *([f"`{name}`", *(_escaped(cell.text) for cell in cells)] for name, cells in compared.parameters),
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if compared.left_out:
        lines += ["", f"Parameters that differ besides: {compared.left_out}."]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
