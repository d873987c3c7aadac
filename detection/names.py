"""The names that people read: of classes in English and Russian, of shares and scores, and of files."""

from __future__ import annotations

from collections.abc import Sequence

LANGUAGES = {"en": "English", "ru": "Русский"}

CLASS_TEXTS = {
    "pistol": {"en": "pistol", "ru": "пистолет"},
    "knife": {"en": "knife", "ru": "нож"},
    "billete": {"en": "banknote", "ru": "банкнота"},
    "monedero": {"en": "wallet", "ru": "кошелёк"},
    "smartphone": {"en": "smartphone", "ru": "смартфон"},
    "tarjeta": {"en": "bank card", "ru": "банковская карта"},
}

DECIMAL_POINT = {"en": ".", "ru": ","}
PERCENT = {"en": "{}%", "ru": "{}\N{NO-BREAK SPACE}%"}


def percent(fraction: float, language: str) -> str:
    """Return a fraction in whole percent; only 1 itself is 100: no model is certain."""
    whole = 100 if fraction == 1 else min(99, round(fraction * 100))
    return PERCENT[language].format(whole)


def score_text(score: float, language: str) -> str:
    """Return a score with two digits after the point, or comma; only 1 itself is 1.00."""
    return f"{score if score == 1 else min(0.99, score):.2f}".replace(".", DECIMAL_POINT[language])


def class_name(label: str, language: str) -> str:
    """Return the name people use for a class, or the class's own name where nobody gave one."""
    return CLASS_TEXTS.get(label, {}).get(language, label)


def closest_language(locale: str | None) -> str:
    """Return the language of LANGUAGES that suits a browser's locale ("ru-RU"), English by default."""
    language = (locale or "").replace("_", "-").split("-")[0].lower()
    return language if language in LANGUAGES else "en"


def printable(name: str) -> str:
    """Return a file's name as it can be shown, written and sent: bytes that are no UTF-8 come out escaped."""
    return name.encode(errors="backslashreplace").decode()


def first_few(things: Sequence[str], most: int = 5) -> str:
    """Join the first few things, and say how many more there are."""
    more = f" and {len(things) - most} more" if len(things) > most else ""
    return ", ".join(things[:most]) + more
