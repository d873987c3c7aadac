"""The names that people give objects in their data -> the classes of a model.

A rule is text such as "pistol=handgun,gun knife=blade -other": what is called handgun or gun is a pistol,
what is called blade a knife, and what is called other is left out. Case, spaces, hyphens and underscores make
no difference. Without a rule, names mean themselves; the English names of the six classes are known too.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from detection.detections import CLASS_NAMES
from detection.names import CLASS_TEXTS
from photosets.layout import DatasetError

EXAMPLE = '--classes "pistol=handgun,gun knife=blade -other"'


class UnusableRule(DatasetError):
    """The rule for class names is none, or contradicts itself."""


class UnknownName(ValueError):
    """A file names objects that are none of the classes; the message is those names, quoted.

    Attributes:
        names: as the file writes them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = sorted(set(names))
        super().__init__(", ".join(map(repr, self.names)))


def plain(name: str) -> str:
    """Return what is left of a name without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name.casefold())


@dataclass(frozen=True, slots=True)
class ClassRule:
    """What each name in the data means.

    Attributes:
        class_names: of the model, background first.
        given: plain name -> class, as the rule says; None where such objects are left out.
        known: plain name -> class, without any rule.
    """

    class_names: tuple[str, ...]
    given: Mapping[str, str | None]
    known: Mapping[str, str]

    def meaning(self, name: str) -> str | None:
        """Return the class of objects called name; None where they are left out.

        Raises:
            UnknownName: nothing says what it means.
        """
        short = plain(name)
        if short in self.given:
            return self.given[short]
        if name in self.class_names[1:]:
            return name
        if short in self.known:
            return self.known[short]
        raise UnknownName([name])

    def unknown(self, names: Iterable[str]) -> set[str]:
        """Return those of names of which nothing says what they mean."""
        return {
            name
            for name in names
            if plain(name) not in self.given
            and name not in self.class_names[1:]
            and plain(name) not in self.known
        }

    def meanings(self, names: Sequence[str]) -> list[str | None]:
        """Return the class of each name.

        Raises:
            UnknownName: nothing says what some of them mean; the message lists all of those.
        """
        if unknown := self.unknown(names):
            raise UnknownName(unknown)
        return [self.meaning(name) for name in names]


def class_rule(text: str = "", class_names: Sequence[str] = CLASS_NAMES) -> ClassRule:
    """Return the rule that text says, for a model of class_names, background first.

    Raises:
        UnusableRule: text is no rule, names a class that the model lacks, or says two things of one name.
    """
    known = {plain(name): name for name in class_names[1:]}
    for name in class_names[1:]:
        known.setdefault(plain(CLASS_TEXTS.get(name, {}).get("en", name)), name)
    given: dict[str, str | None] = {}
    for names, meaning in _clauses(text, known, class_names):
        for name in names:
            short = plain(name)
            if not short or given.get(short, meaning) != meaning:
                raise UnusableRule(
                    f"--classes: expected one meaning for each name, got {name!r} with "
                    f"{'none' if not short else 'two'} in {text!r}"
                )
            given[short] = meaning
    return ClassRule(tuple(class_names), given, known)


def _clauses(
    text: str, known: Mapping[str, str], class_names: Sequence[str]
) -> list[tuple[list[str], str | None]]:
    """Split a rule into names and what they mean."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UnusableRule(f"--classes: {error} in {text!r}; write it as in {EXAMPLE}") from error
    clauses: list[tuple[list[str], str | None]] = []
    for word in words:
        if word.startswith("-"):
            clauses.append((word[1:].split(","), None))
            continue
        target, equals, names = word.partition("=")
        if not equals:
            raise UnusableRule(
                f"--classes: expected CLASS=NAME,NAME or -NAME, got {word!r}: write it as in {EXAMPLE}"
            )
        if plain(target) not in known:
            raise UnusableRule(
                f"--classes: expected one of {', '.join(class_names[1:])} before =, got {target!r}"
            )
        clauses.append((names.split(","), known[plain(target)]))
    return clauses


def unknown_message(unknown: Mapping[str, int], first: str, class_names: Sequence[str]) -> str:
    """Say which names nothing is known of, and the flag that would map them.

    Args:
        unknown: name -> of how many pictures.
        first: the first file that has one.
        class_names: background first.
    """
    names = ", ".join(f"{name!r} ({count})" for name, count in sorted(unknown.items()))
    words = [_word(name) for name in sorted(unknown)]
    return (
        f"expected names of objects that mean one of {', '.join(class_names[1:])}; got {names}, first in "
        f"{first}; say what they are, as in --classes '{class_names[1]}={','.join(words)}', or leave such "
        f"objects out: --classes '{' '.join(f'-{word}' for word in words)}'"
    )


def _word(name: str) -> str:
    """Return a name as a rule may write it."""
    return re.sub(r"\s+", "_", name)
