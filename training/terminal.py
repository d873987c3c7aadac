"""What a training tells the person at the terminal, beside its progress bar."""

from __future__ import annotations

from rich.console import Console

console = Console(stderr=True, soft_wrap=True, markup=False, emoji=False)


def say(sentence: str) -> None:
    """Tell the person at the terminal something, beside the progress bar."""
    console.print(sentence, highlight=False)
