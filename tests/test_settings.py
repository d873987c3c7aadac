"""What every program answers to a command line that it does not understand: one line, exit status 2."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import commands
import commands_data
import settings

ROOT = Path(__file__).parents[1]
PROGRAMS: dict[str, Callable[[list[str]], object]] = {
    "train": commands.train_config,
    "evaluate": commands.evaluate_config,
    "dataset": commands_data.dataset_command,
    "registry": commands.registry_command,
    "client": commands.predict_config,
    "mlapi": settings.api_settings,
    "demo": lambda arguments: settings.demo_settings(Path("no such file"), arguments),
}
FLAGS = "All flags: --help"


@pytest.mark.parametrize(
    ("program", "arguments", "sentence"),
    [
        ("train", ["--data", "a", "--epoch", "3"], f"unknown flag --epoch; did you mean --epochs? {FLAGS}"),
        ("train", ["--data", "a", "--epoch=3"], f"unknown flag --epoch; did you mean --epochs? {FLAGS}"),
        (
            "train",
            ["--data", "a", "--no-regster-model"],
            "unknown flag --no-regster-model; did you mean --no-register",
        ),
        ("train", ["--data", "a", "--xyzzy"], f"unknown flag --xyzzy. {FLAGS}"),
        ("evaluate", ["--data", "a", "--robust"], "unknown flag --robust; did you mean --robustness?"),
        ("evaluate", ["--data", "a", "--split"], "argument --split: expected one argument; --help says"),
        ("evaluate", ["a", "--split", "val"], "unexpected argument a; --help says what is expected"),
        ("dataset", ["chek", "a"], "unknown command chek; did you mean check? All commands: --help"),
        ("dataset", ["check", "a", "--negative"], "unknown flag --negative; did you mean --negatives?"),
        ("dataset", ["check"], "the following arguments are required: DATA; --help says what is expected"),
        ("registry", ["promot", "3"], "unknown command promot; did you mean promote?"),
        ("registry", ["promote", "3", "--forse"], "unknown flag --forse; did you mean --force?"),
        ("registry", ["--modle-name", "x", "list"], "unknown flag --modle-name; did you mean --model-name?"),
        ("registry", ["list", "--model-name", "x"], "--model-name belongs elsewhere: --help and COMMAND"),
        ("registry", ["42"], "unknown command 42. All commands: --help"),
        ("client", ["predict", "a", "--fromat", "csv"], "unknown flag --fromat; did you mean --format?"),
        ("client", ["predict"], "the following arguments are required: PHOTOS"),
        ("client", ["predcit", "a"], "expected the command predict, as in: python client.py predict"),
        ("mlapi", ["--api-prt", "1"], "unknown flag --api-prt; did you mean --api-port?"),
        ("demo", ["--web-prot", "1"], "unknown flag --web-prot; did you mean --web-port?"),
        ("demo", ["start"], "unexpected argument start"),
    ],
)
def test_a_misspelt_name_gets_one_line_with_the_nearest_there_is(program, arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        PROGRAMS[program](arguments)
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"error: {sentence}"), said.err


@pytest.mark.parametrize("program", ["train", "evaluate", "dataset", "registry", "client", "mlapi", "demo"])
def test_the_programs_themselves_say_it_and_end_with_status_2(program):
    words = ["predict", "photos"] if program == "client" else []
    command = [sys.executable, f"{program}.py", *words, "--halp"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: unknown flag --halp; did you mean --help?")
    assert "usage:" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentences"),
    [
        (["--data", "a", "--epochs", "0"], ["error: epochs: Input should be greater than or equal to 1"]),
        (["--epochs", "0"], ["error: data: expected a value", "error: epochs: Input should be greater"]),
    ],
)
def test_wrong_values_get_a_line_each(arguments, sentences, capsys):
    with pytest.raises(SystemExit) as stop:
        commands.train_config(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert len(lines) == len(sentences)
    assert all(line.startswith(sentence) for line, sentence in zip(lines, sentences, strict=True))


def test_the_demo_takes_flags_before_variables(monkeypatch):
    monkeypatch.setenv("WEB_PORT", "8600")
    chosen = settings.demo_settings(Path("no such file"), ["--web-port", "8700"])
    assert (chosen.web_port, settings.demo_settings(Path("no such file")).web_port) == (8700, 8600)


def test_a_comma_in_a_name_does_not_make_two_of_it():
    names = ["shop, left.jpg", "[é, and so on].jpg", "C:\\\\a, b.jpg", "plain.jpg", "12"]
    assert commands.predict_config(["predict", *names, "--labels", "pistol", "knife"]).photos == names
    config = commands.train_config(["--data", "a, b", "c", "--image-mean", "0.1,0.2,0.3"])
    assert config.data == [Path("a, b"), Path("c")]
    assert config.image_mean == (0.1, 0.2, 0.3)
    command = commands_data.dataset_command(["check", "a, b", "c"])
    assert isinstance(command, commands_data.CheckCommand)
    assert command.data == [Path("a, b"), Path("c")]


@pytest.mark.parametrize("command", [["web.py"], ["-m", "streamlit", "run", "web.py"]])
def test_the_page_says_which_setting_is_wrong_before_it_serves(command):
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, "API_TIMEOUT": "abc"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: api_timeout: Input should be a valid number, unable to parse string as a number (got 'abc')"
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("API_URL", "api:8000"), ("API_TIMEOUT", "inf"), ("WEB_UPLOADS_MB", "0")]
)
def test_a_setting_with_which_the_page_cannot_work_is_refused(name, value, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        settings.web_settings()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {name.lower()}: ")


def test_the_pages_key_is_not_shown(monkeypatch):
    monkeypatch.setenv("API_KEY", "page-secret")
    chosen = settings.web_settings()
    assert "page-secret" not in f"{chosen!r} {chosen} {chosen.model_dump()} {chosen.model_dump_json()}"
    assert chosen.api_key is not None
    assert chosen.api_key.get_secret_value() == "page-secret"
