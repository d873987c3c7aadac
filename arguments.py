"""How a command line is read: flags, presets, variables; and a sentence for what cannot be read."""

from __future__ import annotations

import argparse
import difflib
import io
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar, get_origin

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, CliSettingsSource, SettingsError

TEXT_FLAGS = ("--classes",)  # whose value may begin with a hyphen
Settings = TypeVar("Settings", bound=BaseSettings)


def parse_arguments(
    config_class: type[Settings], arguments: Sequence[str] | None = None, *, list_flags: Sequence[str] = ()
) -> Settings:
    """Build config_class from flags, environment and defaults, or say in sentences what is wrong and exit 2.

    Args:
        config_class: the program's settings.
        arguments: the command line without the program's name; sys.argv by default.
        list_flags: flags that take several values at once, as in "--data A B C".
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file name need not be UTF-8: show its odd bytes escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    source: CliSettingsSource[Any] = CliSettingsSource(
        config_class, cli_exit_on_error=False, parse_args_method=partial(_parse, config_class)
    )
    try:
        return CliApp.run(config_class, cli_args=_repeat_flags(given, list_flags), cli_settings_source=source)
    except ValidationError as error:
        refuse("\n".join(f"error: {_in_a_sentence({**problem})}" for problem in error.errors()), error)
    except SettingsError as error:
        refuse(f"error: {_command_line_problem(str(error), config_class, given)}", error)


def _parse(
    config_class: type[BaseSettings], parser: argparse.ArgumentParser, arguments: list[str]
) -> argparse.Namespace:
    """Parse, and keep each word of a list whole: a comma in a file's name would make two of it."""
    parsed = parser.parse_args(arguments)
    for name, words in vars(parsed).items():
        field = config_class.model_fields.get(name)
        if isinstance(words, list) and (field is None or get_origin(field.annotation) is list):
            setattr(parsed, name, [word if '"' in word else f'"{word}"' for word in words])
    return parsed


class UsageError(SystemExit):
    """The command line, a variable or a preset is wrong; says what in str(), and exits with status 2."""

    def __init__(self, sentences: str) -> None:
        super().__init__(sentences)
        self.code = 2


def refuse(sentences: str, cause: Exception | None = None) -> NoReturn:
    """Print what is wrong and end the program with status 2."""
    print(sentences, file=sys.stderr)
    raise UsageError(sentences) from cause


def _command_line_problem(problem: str, config_class: type[BaseSettings], given: Sequence[str]) -> str:
    """Say in one line what argparse found wrong, and the nearest name there is for one that there is not."""
    parser: argparse.ArgumentParser = CliSettingsSource(config_class).root_parser
    problem = problem.removeprefix("error parsing CLI: ")
    everywhere = set(_flags(parser))
    flags = [word.partition("=")[0] for word in given if re.match(r"--?[a-zA-Z]", word)]
    for flag in flags:
        if flag not in everywhere:
            nearest = _nearest(flag, _flags(parser, given))
            return f"unknown flag {flag}{nearest} All flags: --help"
    if wrong := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", problem):
        nearest = _nearest(wrong[1], re.findall(r"[\w-]+", wrong[2]))
        return f"unknown command {wrong[1]}{nearest} All commands: --help"
    if wrong := re.match(r"unrecognized arguments: (\S+)", problem):
        if wrong[1].startswith("-"):
            return f"{wrong[1]} belongs elsewhere: --help and COMMAND --help say which flags go where"
        return f"unexpected argument {wrong[1]}; --help says what is expected"
    return f"{problem}; --help says what is expected"


def _flags(parser: argparse.ArgumentParser, given: Sequence[str] = ()) -> Iterator[str]:
    """Yield the flags of a program and of its commands: those given, or all of them."""
    yield from parser._option_string_actions
    for action in parser._actions:
        if isinstance(action.choices, Mapping):
            named = [command for command in given if command in action.choices] or action.choices
            for command in named:
                yield from _flags(action.choices[command])


def _nearest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean NAME?", or a full stop where nothing is near."""
    near = difflib.get_close_matches(word.lstrip("-"), {name.lstrip("-"): name for name in known}, n=1)
    dashes = "--" if word.startswith("-") else ""
    return f"; did you mean {dashes}{near[0]}?" if near else "."


def _repeat_flags(arguments: list[str], list_flags: Sequence[str]) -> list[str]:
    """Turn "--data A B" into "--data A --data B", which is what argparse's append wants."""
    repeated: list[str] = []
    flag = None
    for argument in _joined(arguments):
        if argument.startswith("-"):
            flag = argument if argument in list_flags else None
            first = True
        if flag and not argument.startswith("-"):
            repeated += [argument] if first else [flag, argument]
            first = False
        else:
            repeated.append(argument)
    return repeated


def _joined(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments; "--classes -other", which argparse takes for two flags, as "--classes=-other"."""
    waiting = iter(arguments)
    for argument in waiting:
        value = next(waiting, None) if argument in TEXT_FLAGS else None
        yield argument if value is None else f"{argument}={value}"


def _in_a_sentence(problem: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{name}: expected a value, got none; --help says what it is"
    # A problem of the settings as a whole has all of them as input, keys included.
    got = f" (got {problem['input']!r})" if name else ""
    return f"{name or 'settings'}: {problem['msg']}{got}"
