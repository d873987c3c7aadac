"""What the documents name exists: commands and their flags, paths, settings, routes, links."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

import settings
from commands import (
    TrainConfig,
    evaluate_config,
    predict_config,
    registry_command,
    sweep_config,
    train_config,
)
from commands_data import archive_command, dataset_command
from docs.import_graph import code, import_graph, mermaid, reduced
from docs.results import CARD, card_figures, kept, table, trimmed

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README.ru.md"]
DOCUMENTS = [*READMES, "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
COMPOSE_FILES = [*ROOT.glob("*.compose.yaml"), *ROOT.glob("deploy/*.compose.yaml")]
SERVICES: list[type[BaseSettings]] = [
    settings.TrackerSettings,
    settings.ApiSettings,
    settings.WebSettings,
    settings.WatchSettings,
    settings.DemoSettings,
]
# What a command line after the program's name must be accepted by.
PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "train.py": train_config,
    "sweep.py": sweep_config,
    "archive.py": archive_command,
    "evaluate.py": evaluate_config,
    "registry.py": registry_command,
    "client.py": predict_config,
    "dataset.py": dataset_command,
    "mlapi.py": settings.api_settings,
    "watch.py": settings.watch_command,
}
# Named in the documents, made by a person or a command.
MADE_LATER = (
    "data",
    "data-coco",
    "export",
    ".env",
    ".venv",
    "runs/",
    "reports/",
    "photo.jpg",
    "photos/*.jpg",
    "found.csv",
    "drawn.png",
    "mlflow-data",
    "cameras.toml",
    "clip.mp4",
    "events.db",
)


def text(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(name: str) -> list[str]:
    """The fenced blocks of a document."""
    return re.findall(r"^```\w*\n(.*?)^```", text(name), flags=re.M | re.S)


def snippets(name: str) -> list[str]:
    """Every line of a fenced block, and every piece of inline code."""
    rest = re.sub(r"^```.*?^```", "", text(name), flags=re.M | re.S)
    return [line for block in blocks(name) for line in block.splitlines()] + re.findall(r"`([^`]+)`", rest)


def commands(name: str) -> list[list[str]]:
    """The snippets that are command lines, as words, without comments and leading VARIABLE=value."""
    starts = ("make", "docker", "torchrun", "curl", "kubectl", "python", ".venv/bin/python")
    found = []
    for snippet in snippets(name):
        words = shlex.split(re.sub(r"\s+# .*", "", snippet)) if snippet.count("'") % 2 == 0 else []
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words and words[0] in starts and len(words) > 2 - (words[0] == "make"):
            found.append(words)
    return found


def all_commands() -> list[tuple[str, list[str]]]:
    """Every command shown, those by which the starter was made among them."""
    return [(name, words) for name in (*DOCUMENTS, CARD, "weights/README.md") for words in commands(name)]


def test_the_documents_hold_commands_to_check():
    programs = {Path(word).name for _, words in all_commands() for word in words}
    assert {"make", "docker", *PARSERS} - {"mlapi.py"} <= programs


@pytest.mark.parametrize(("name", "words"), [each for each in all_commands() if each[1][0] == "make"])
def test_make_targets_exist(name, words):
    targets = set(re.findall(r"^([a-z][a-z-]*):", text("Makefile"), flags=re.M))
    assert set(words[1:]) - {word for word in words if "=" in word} <= targets


@pytest.mark.parametrize(
    ("name", "program", "arguments"),
    [
        (name, program, words[i + 1 :])
        for name, words in all_commands()
        for i, program in enumerate(words)
        if program in PARSERS
    ],
)
def test_programs_accept_the_flags_named(name, program, arguments):
    if arguments == ["--help"]:
        return
    PARSERS[program](arguments)  # SystemExit, with a sentence, if not


@pytest.mark.parametrize(("name", "words"), [each for each in all_commands() if each[1][0] == "docker"])
def test_compose_commands_name_files_services_and_flags_that_exist(name, words):
    assert words[:2] == ["docker", "compose"]
    files = [ROOT / words[i + 1] for i, word in enumerate(words) if word == "-f"]
    assert files
    named = {service for file in files for service in yaml.load(file.read_text(), _AnyTag)["services"]}
    if "run" in words:
        after = [word for word in words[words.index("run") + 1 :] if not word.startswith("-")]
        assert after[0] in named
        train_config(words[words.index("train") + 1 :])
    if "--scale" in words:
        assert words[words.index("--scale") + 1].split("=")[0] in named


class _AnyTag(yaml.SafeLoader):
    """Reads compose's own tags as nothing."""


_AnyTag.add_multi_constructor("!", lambda *_: None)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_named_exist(name):
    suffixes = "py|yaml|md|toml|txt|cfg|cff|css|example|api|web|tracker|jpg|png"
    file, folder = (
        rf"(?:[\w.-]+/)*[\w.*-]+\.(?:{suffixes})",
        r"(?:weights|config|deploy|photos|tests)/[\w./-]*",
    )
    pattern = rf"(?<![\w/.-])({file}|{folder})(?![\w/])"
    named = {path for snippet in snippets(name) for path in re.findall(pattern, snippet)}
    named |= {link for link in re.findall(r"\]\(([^)#]+)\)", text(name)) if "://" not in link}
    missing = [path for path in named if not path.startswith(MADE_LATER) and not (ROOT / path).exists()]
    assert sorted(missing) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_settings_named_exist(name):
    named = {word for snippet in snippets(name) for word in re.findall(r"\b[A-Z]{2,}_[A-Z_]+\b", snippet)}
    known = (
        set(example())
        | {"TILL_USER", "TILL_PASSWORD"}  # of cameras.example.toml
        | {"PIP_ARGS", "PYTHON", "FORWARDED_ALLOW_IPS"}  # of make, and uvicorn's own
        | {"RAY_AUTH_MODE"}  # Ray's own
        | {
            "LOCAL_FILES_SERVING_ENABLED",
            "LOCAL_FILES_DOCUMENT_ROOT",
            "USE_DEFAULT_BANNED_SUBNETS",
        }  # Label Studio's
        | {f"TRAIN_{n.upper()}" for n in TrainConfig.model_fields}
    )
    assert sorted(named - known) == []


@pytest.mark.parametrize("name", READMES)
def test_routes_named_exist_and_every_route_is_named(name):
    from serving.app import create_app

    described = create_app(settings.ApiSettings()).openapi()["paths"]
    routes = {(method.upper(), path) for path, methods in described.items() for method in methods}
    named = set(re.findall(r"`(GET|POST) (/[\w/]*)`", text(name)))
    assert named == routes | {("GET", "/metrics")}  # which is for Prometheus and not described


def test_both_readmes_hold_the_same_commands():
    first, second = ([strip_comments(block) for block in blocks(name)] for name in READMES)
    assert first == second
    assert "https://download.pytorch.org/whl/cpu" in text("README.md")


def strip_comments(block: str) -> list[str]:
    return [re.sub(r"\s+# .*|--why \".*\"|──.*", "", line) for line in block.splitlines()]


@pytest.mark.parametrize("name", READMES)
def test_the_import_graph_drawn_is_the_real_one(name):
    drawing = mermaid(reduced(import_graph()))
    assert drawing in text(name), "run: make graph"


@pytest.mark.parametrize("name", READMES)
def test_the_figures_shown_are_those_of_the_evaluation_kept(name):
    results = kept()
    assert results is None or table(results, name) in text(name), "run: python docs/results.py REPORTS"


def test_the_model_cards_figures_are_those_of_the_evaluation_kept():
    results = kept()
    assert results is None or card_figures(results) in text(CARD), "run: python docs/results.py REPORTS"


def a_report(**changes: Any) -> dict[str, Any]:
    """What evaluate.py writes, as far as docs/results.py looks at it, without changed pictures and times."""
    now = json.loads(json.dumps((kept() or {})["both"])) | {"robustness": [], "latency": None}
    curve = [
        {"score_threshold": i / 100, "image_recall": 0.5, "false_alarms_per_1000": 5} for i in range(101)
    ]
    return now | {"alarm_curve": curve, **changes}


def test_changed_pictures_and_times_stay_when_the_same_model_is_measured_again():
    measured = {"robustness": [{"name": "darker", "map": 0.5}], "latency": {"detect_median_ms": 70.0}}
    again = trimmed(a_report(), (kept() or {})["both"] | measured)
    assert {name: again[name] for name in measured} == measured


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"Fingerprint": "of others", "Data": "elsewhere"}},
        {"coco": {"map": 0.7, "map_50": 0.9}},
    ],
)
def test_they_do_not_stand_beside_figures_of_another_model_or_other_images(change):
    again = trimmed(a_report(**change), (kept() or {})["both"])
    assert (again["robustness"], again["latency"]) == ([], None)


# --- .env.example -----------------------------------------------------------------------------------------


def example() -> dict[str, tuple[str, bool]]:
    """Name -> (value, commented out) of .env.example."""
    found = re.findall(r"^(# )?([A-Z][A-Z0-9_]*)=(.*)$", text(".env.example"), flags=re.M)
    return {variable: (value, bool(hidden)) for hidden, variable, value in found}


def compose_variables() -> set[str]:
    """What the compose files take from .env: ${NAME} and names without a value."""
    named = {name for file in COMPOSE_FILES for name in re.findall(r"\$\{([A-Z0-9_]+)", file.read_text())}
    for file in COMPOSE_FILES:
        for service in yaml.load(file.read_text(), _AnyTag)["services"].values():
            passed_on = {**service.get("environment", {}), **service.get("build", {}).get("args", {})}
            named |= {key for key, value in passed_on.items() if value is None}
    return named


def variables(group: type[BaseSettings]) -> dict[str, str]:
    """Name of each variable that a program's settings read -> its field."""
    prefix = group.model_config.get("env_prefix", "")
    return {
        (str(field.validation_alias) if field.validation_alias else prefix + name).upper(): name
        for name, field in group.model_fields.items()
    }


def test_env_example_names_exactly_what_is_read():
    read = {name for group in SERVICES for name in variables(group)} | compose_variables()
    assert set(example()) == read | {"COMPOSE_PROFILES"}


@pytest.mark.parametrize("group", SERVICES)
def test_env_example_shows_the_defaults(group, monkeypatch):
    shown = {name: value for name, (value, hidden) in example().items() if not hidden}
    for name in example():
        monkeypatch.delenv(name, raising=False)
    defaults = group()
    for name, value in shown.items():
        monkeypatch.setenv(name, value)
    assert group() == defaults
    optional = {field for name, field in variables(group).items() if name not in shown}
    assert all(not getattr(defaults, field) for field in optional)


# --- the others -----------------------------------------------------------------------------------------


def test_citation_and_licence_agree():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["license"] == "MIT"
    assert text("LICENSE").startswith("MIT License")


def test_presets_named_exist():
    named = {words[words.index("--preset") + 1] for _, words in all_commands() if "--preset" in words}
    assert named
    assert named <= {path.stem for path in (ROOT / "config").glob("*.toml")}


def dotted_names() -> list[str]:
    """What CONTRIBUTING.md names as module.function or module.Class.method."""
    wings = {name.partition(".")[0] for name in code()}
    named = re.findall(r"`(\w+(?:\.\w+)+)`", text("CONTRIBUTING.md"))
    return sorted({name for name in named if name.partition(".")[0] in wings and not name.endswith(".py")})


def test_the_walks_name_functions_of_most_wings():
    assert len(dotted_names()) > 20
    assert {name.partition(".")[0] for name in dotted_names()} >= {"page", "serving", "detection", "training"}


@pytest.mark.parametrize("name", dotted_names())
def test_a_function_that_the_walks_name_is_where_they_say(name):
    modules = code()
    module = max((known for known in modules if name.startswith(known + ".")), key=len)
    body = ast.parse(modules[module].read_text()).body
    for part in name.removeprefix(module + ".").split("."):
        node = next((it for it in body if getattr(it, "name", None) == part), None)
        assert node is not None, f"{part} is not in {module}"
        body = getattr(node, "body", [])
