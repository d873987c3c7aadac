"""The import graph in README.md is the real one."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# module -> project modules it may import
ALLOWED = {
    # leaves
    "detections": set(),
    "schemas": set(),
    "settings": set(),
    "texts": set(),
    "threads": set(),
    "devices": set(),
    "processes": set(),
    "gate": {"schemas"},
    "containers": set(),
    "icc": set(),
    "imaging": {"containers", "icc"},
    "decoding": {"imaging"},
    "video": {"imaging"},
    "feedback": {"imaging"},
    "metrics": {"detections", "schemas"},
    "report": {"dataset", "detections", "imaging", "metrics", "schemas"},
    "splits": set(),
    "voc": {"imaging"},
    "dataset": {
        "detections", "download", "duplicates", "imaging", "settings", "splits", "synthetic", "texts", "voc",
    },
    "download": set(),
    "duplicates": {"imaging"},
    "synthetic": {"detections"},
    # middle
    "detector": {"detections", "imaging", "schemas"},
    "transforms": {"dataset", "detector", "imaging"},
    "registry": {"detections", "schemas", "settings", "tracker"},
    "pyfunc_model": {"detections", "detector", "imaging", "schemas"},
    "engine": {"dataset", "detections", "detector", "imaging", "metrics", "processes", "transforms"},
    "serving": {"detections", "detector", "imaging", "registry", "schemas", "settings", "tracker"},
    "answers": {"detections", "gate", "imaging", "schemas", "serving", "texts"},
    "client": {"imaging", "schemas", "settings", "texts"},
    "page_memory": set(),
    "page": {"client", "imaging", "page_memory", "schemas", "settings", "texts"},
    "page_feedback": {"feedback", "imaging", "page", "schemas", "texts"},
    "page_photos": {"client", "imaging", "page", "page_feedback", "schemas", "texts"},
    "page_video": {"client", "imaging", "page", "page_photos", "schemas", "video"},
    "page_model": {"page", "schemas", "texts"},
    "tracker": set(),
    # programs
    "train": {
        "dataset", "detections", "detector", "devices", "engine", "imaging", "metrics", "processes",
        "registry", "report", "schemas", "settings", "tracker", "transforms",
    },
    "evaluate": {
        "dataset", "detections", "detector", "devices", "engine", "imaging", "metrics", "registry", "report",
        "schemas", "settings", "texts", "tracker", "transforms",
    },
    "mlapi": {
        "answers", "decoding", "detections", "detector", "devices", "gate", "imaging", "registry", "schemas",
        "serving",
        "settings", "threads",
    },
    "web": {"client", "page", "page_memory", "page_model", "page_photos", "page_video", "settings", "texts"},
    "demo": {"settings"},
}  # fmt: skip
PROGRAMS = {"train", "evaluate", "mlapi", "web", "demo", "pyfunc_model"}
HEAVY = {"torch", "torchvision", "detecto", "mlflow"}
ONLY_IMPORTERS = {
    "detecto": {"detector"},
    "mlflow": {"registry", "tracker", "pyfunc_model"},
    "streamlit": {
        "web",
        "page",
        "page_memory",
        "page_photos",
        "page_video",
        "page_model",
        "page_feedback",
    },
    "av": {"video"},
    "fastapi": {"mlapi"},
}


def imports(module: str) -> set[str]:
    tree = ast.parse((ROOT / f"{module}.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in names}


def reachable(module: str) -> set[str]:
    direct = imports(module)
    return direct.union(*(reachable(name) for name in direct & ALLOWED.keys()))


def test_every_module_is_listed():
    assert {path.stem for path in ROOT.glob("*.py")} == ALLOWED.keys()


@pytest.mark.parametrize("module", sorted(ALLOWED))
def test_imports_only_what_it_may(module):
    assert imports(module) & ALLOWED.keys() <= ALLOWED[module]


@pytest.mark.parametrize("module", sorted(ALLOWED))
def test_programs_are_never_imported(module):
    assert not imports(module) & PROGRAMS


@pytest.mark.parametrize("module", ["web", "client", "decoding"])
def test_page_client_and_decoders_need_no_deep_learning_library(module):
    assert not reachable(module) & HEAVY


@pytest.mark.parametrize("library", sorted(ONLY_IMPORTERS))
def test_each_library_has_one_door(library):
    importers = {module for module in ALLOWED if library in imports(module)}
    assert importers <= ONLY_IMPORTERS[library]


def test_every_console_prints_text_as_typed():
    calls = [
        (path.name, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords})
        for path in ROOT.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Console"
    ]
    assert {name for name, _ in calls} == {
        "client.py",
        "dataset.py",
        "evaluate.py",
        "registry.py",
        "train.py",
    }
    for name, options in calls:
        assert (options.get("markup"), options.get("emoji")) == ("False", "False"), name
