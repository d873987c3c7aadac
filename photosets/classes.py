"""The names that people give objects in their data -> the classes of a model.

A rule is text such as "pistol=handgun,gun knife=blade -other": what is called handgun or gun is a pistol,
what is called blade a knife, and what is called other is left out. Case, spaces, hyphens and underscores make
no difference. Without a rule, names mean themselves; the English names of the six classes are known too.

A class that is none of the six is one of somebody's own: "rifle=rifle,ak47 axe" makes a model of rifles and
axes. It knows the classes that the rule names and no others: of the six too those alone that are named.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from detection.detections import BACKGROUND, CLASS_NAMES, SIX, Classes
from detection.names import CLASS_TEXTS
from photosets.layout import DatasetError

EXAMPLE = '--classes "pistol=handgun,gun knife=blade -other"'
OWN_NAME = re.compile(r"\w[\w .-]{0,62}")  # what names of metrics, files and tables can hold
TAKEN = ("any", BACKGROUND.strip("_"))  # words that tables use beside the names of classes


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
        classes: of the model.
        given: plain name -> class, as the rule says; None where such objects are left out.
        known: plain name -> class, without any rule.
        is_fixed: the classes are those of a model that is there, so that a rule makes no others.
    """

    classes: Classes
    given: Mapping[str, str | None]
    known: Mapping[str, str]
    is_fixed: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the model, background first."""
        return self.classes.names

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


def class_rule(
    text: str = "", classes: Classes | None = None, dangerous: Sequence[str] | None = None
) -> ClassRule:
    """Return the rule that text says.

    Args:
        text: the rule; "" for none.
        classes: of a model that is there already; by default the six, or those that text makes.
        dangerous: which of the classes that text makes are weapons; by default pistol and knife.

    Raises:
        UnusableRule: text is no rule, names a class that the model lacks, or says two things of one name; or
            dangerous names none of the classes.
    """
    clauses = _clauses(text)
    made = _made_by(clauses, dangerous) if classes is None else classes
    known = _known(made.names)
    given: dict[str, str | None] = {}
    for names, target in clauses:
        if target is not None and plain(target) not in known:
            raise UnusableRule(
                f"--classes: expected one of {', '.join(made.names[1:])} before =, got {target!r}"
            )
        meaning = None if target is None else known[plain(target)]
        for name in names:
            short = plain(name)
            if not short or given.get(short, meaning) != meaning:
                raise UnusableRule(
                    f"--classes: expected one meaning for each name, got {name!r} with "
                    f"{'none' if not short else 'two'} in {text!r}"
                )
            given[short] = meaning
    return ClassRule(made, given, known, is_fixed=classes is not None)


def training_classes(text: str, dangerous: Sequence[str]) -> Classes:
    """Return the classes of a model that is to be trained.

    Args:
        text: as for class_rule.
        dangerous: likewise; empty: pistol and knife.

    Raises:
        UnusableRule: as class_rule; or there are new classes and nobody says which are weapons, or none is.
    """
    classes = class_rule(text, dangerous=dangerous or None).classes
    own = [name for name in classes.names[1:] if name not in CLASS_NAMES]
    if own and not dangerous:
        known = {plain(name): name for name in CLASS_NAMES[1:]}
        near = {name: difflib.get_close_matches(plain(name), known, n=1, cutoff=0.75) for name in own}
        meant = "".join(f"; or did you mean {known[few[0]]} by {name}?" for name, few in near.items() if few)
        raise UnusableRule(
            f"expected to be told which classes are weapons: {', '.join(own)} "
            f"{'is a new class' if len(own) == 1 else 'are new classes'}. Name every dangerous one, as in "
            f"--dangerous {' '.join(map(shlex.quote, own))}; the others are look-alikes{meant}"
        )
    if not classes.dangerous:
        raise UnusableRule(
            f"expected a weapon among the classes {', '.join(classes.names[1:])}, got none: a model that "
            "calls nothing dangerous cannot warn. Name what is, with --dangerous"
        )
    return classes


def _known(class_names: Sequence[str]) -> dict[str, str]:
    """Return what plain names mean without a rule: themselves, and English names."""
    known = {plain(name): name for name in class_names[1:]}
    for name in class_names[1:]:
        known.setdefault(plain(CLASS_TEXTS.get(name, {}).get("en", name)), name)
    return known


Clause = tuple[list[str], str | None]  # names in the data, and the class that they mean; None: left out


def _clauses(text: str) -> list[Clause]:
    """Split a rule into names and what they mean."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UnusableRule(f"--classes: {error} in {text!r}; write it as in {EXAMPLE}") from error
    clauses: list[Clause] = []
    for word in words:
        if word.startswith("-"):
            clauses.append((word[1:].split(","), None))
            continue
        target, equals, names = word.partition("=")
        if not plain(target) or "," in target:
            raise UnusableRule(
                f"--classes: expected CLASS, CLASS=NAME,NAME or -NAME, got {word!r}: write it as in {EXAMPLE}"
            )
        clauses.append((names.split(",") if equals else [target], target))
    return clauses


def _made_by(clauses: Sequence[Clause], dangerous: Sequence[str] | None) -> Classes:
    """Return the six, or the classes that a rule makes, in its order; and which of them are weapons."""
    six = _known(CLASS_NAMES)
    made: dict[str, str] = {}  # plain -> as it is first written
    for _, target in clauses:
        if target is not None:
            made.setdefault(plain(target), six.get(plain(target), target))
    names = tuple(dict.fromkeys(made.values()))
    own = [name for name in names if name not in CLASS_NAMES]
    for name in own:
        if not OWN_NAME.fullmatch(name) or plain(name) in TAKEN:
            raise UnusableRule(
                "--classes: expected a class's name to have 1 to 63 letters, digits, spaces, dots or "
                f"hyphens, and to be none of {', '.join(TAKEN)}; got {name!r}"
            )
    classes = Classes((BACKGROUND, *names), ()) if own else SIX
    if dangerous is None:
        return Classes(classes.names, tuple(name for name in classes.names if name in SIX.dangerous))
    known = _known(classes.names)
    if unknown := [name for name in dangerous if plain(name) not in known]:
        raise UnusableRule(
            f"--dangerous: expected some of {', '.join(classes.names[1:])}, got {', '.join(unknown)}"
        )
    weapons = {known[plain(name)] for name in dangerous}
    return Classes(classes.names, tuple(name for name in classes.names if name in weapons))


def unknown_message(unknown: Mapping[str, int], first: str, rule: ClassRule) -> str:
    """Say which names nothing is known of, and the flags that would map them.

    Args:
        unknown: name -> of how many pictures.
        first: the first file that has one.
        rule: what was known.
    """
    names = ", ".join(f"{name!r} ({count})" for name, count in sorted(unknown.items()))
    words = [_word(name) for name in sorted(unknown)]
    known = rule.class_names[1:]
    own = ""
    if not rule.is_fixed:
        kept = [_word(name) for name in known if rule.classes != SIX]
        own = f", or make classes of your own of them: --classes '{' '.join((*kept, *words))}'"
    return (
        f"expected names of objects that mean one of {', '.join(known)}; got {names}, first in "
        f"{first}; say what they are, as in --classes '{known[0]}={','.join(words)}', or leave such "
        f"objects out: --classes '{' '.join(f'-{word}' for word in words)}'{own}"
    )


def _word(name: str) -> str:
    """Return a name as a rule may write it."""
    return re.sub(r"\s+", "_", name)
