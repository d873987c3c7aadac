"""Tables that a phone, a keyboard and a screen reader can use: they scroll by themselves and have a name."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import streamlit as st


class Cell(NamedTuple):
    """What stands in a table.

    Attributes:
        words: as they are shown.
        note: smaller, below them.
        href: where a press on the words leads; "" is nowhere.
        heat: from 0 to 1, how strongly the cell is filled.
    """

    words: str
    note: str = ""
    href: str = ""
    heat: float = 0.0

    def html(self, tag: str = "td", scope: str = "") -> str:
        """Return the cell as HTML."""
        words = escape(self.words)
        if self.href.startswith(("http://", "https://")):
            words = f"<a href='{escape(self.href)}' target='_blank' rel='noreferrer'>{words}</a>"
        note = f"<small>{escape(self.note)}</small>" if self.note else ""
        style = f" style='--heat: {100 * self.heat:.0f}%'" if self.heat else ""
        return f"<{tag}{f' scope={scope!r}' if scope else ''}{style}>{words}{note}</{tag}>"


def table_ui(name: str, columns: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> None:
    """Draw a table; the first cell of a row names the row.

    Args:
        name: said by screen readers.
        columns: the headings.
        rows: cells, as many as columns; from outside too: they are shown as they are.
    """
    head = "".join(Cell(column).html("th", "col") for column in columns)
    body = "".join(f"<tr>{_row(row)}</tr>" for row in rows)
    st.html(
        f"<div class='table' role='region' tabindex='0' aria-label='{escape(name)}'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: Sequence[str | Cell]) -> str:
    first, *rest = (cell if isinstance(cell, Cell) else Cell(cell) for cell in row)
    return first.html("th", "row") + "".join(cell.html() for cell in rest)
