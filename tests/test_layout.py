"""Who may import whom: wings, programs, contracts; and that a file is short enough to be read at once."""

import ast

import pytest

from docs.import_graph import ROOT, WINGS, code, import_graph, imports

# wing, program or contract -> the others that it imports
GRAPH = {
    # contracts
    "arguments": set(),
    "schemas": set(),
    "settings": {"arguments"},
    "commands": {"arguments", "commands_data", "schemas", "settings"},
    "commands_data": {"arguments", "schemas", "settings"},
    "metrics": {"detection"},
    "client": {"commands", "detection", "schemas"},
    # wings
    "detection": {"schemas"},
    "photosets": {"detection"},
    "evaluation": {"detection", "metrics", "schemas"},
    "training": {"commands", "detection", "evaluation", "photosets", "schemas", "settings"},
    "tracking": {"detection", "schemas"},
    "serving": {"detection", "schemas", "settings", "tracking"},
    "page": {"cameras", "client", "detection", "schemas", "settings"},
    "cameras": {"client", "detection", "photosets", "schemas"},
    "sweeping": {"commands"},
    "archives": {"detection", "schemas", "serving"},
    # programs
    "dataset": {"commands_data", "photosets"},
    "train": {
        "commands", "detection", "evaluation", "metrics", "photosets", "settings", "tracking", "training",
    },
    "evaluate": {
        "cameras", "commands", "detection", "evaluation", "metrics", "photosets", "schemas", "tracking",
        "training",
    },
    "registry": {"commands", "detection", "photosets", "tracking", "training"},
    "mlapi": {"detection", "serving", "settings"},
    "web": {"client", "detection", "page", "settings"},
    "watch": {"cameras", "client", "settings"},
    "demo": {"cameras", "settings"},
    "sweep": {"commands", "sweeping", "tracking"},
    "archive": {"archives", "commands_data", "detection", "photosets", "schemas", "tracking"},
}  # fmt: skip
PROGRAMS = {"dataset", "train", "evaluate", "registry", "mlapi", "web", "watch", "demo", "sweep", "archive"}
MOST_ROOT_FILES = 17
MOST_LINES = 500
HEAVY = {"torch", "torchvision", "detecto", "mlflow"}
ONLY_IMPORTERS = {
    "detecto": {"detection.detector"},
    "mlflow": {"tracking"},
    "optuna": {"sweeping.study", "sweeping.cluster", "sweep"},
    "ray": {"sweeping.cluster", "archives.engine"},
    "pyarrow": {"archives", "archive"},
    "streamlit": {"web", "page"},
    "av": {"page.frames", "cameras.streams"},
    "sqlalchemy": {"cameras.database", "cameras.events", "sweeping.study"},
    "paho": {"cameras.mqtt"},
    "apprise": {"cameras.alerts"},
    "fastapi": {"serving.app", "serving.deepstack", "serving.labelstudio", "serving.routes"},
    "openvino": {"detection.openvino_runtime", "detection.export"},
    "nncf": {"detection.export"},
    "onnxruntime": {"detection.onnx_runtime"},
}


def reachable(module: str) -> set[str]:
    """Everything, ours and others', that importing a module brings in."""
    modules, seen, waiting = code(), set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += imports(modules[name]) if name in modules else []
    return {name.partition(".")[0] for name in seen}


def test_the_graph_is_this_one():
    assert import_graph() == GRAPH


def test_programs_are_never_imported():
    importers = {name: imports(path) & PROGRAMS for name, path in code().items()}
    assert {name: found for name, found in importers.items() if found} == {}


def test_wings_and_what_they_import_hold_no_circle():
    modules = code()
    edges = {name: imports(path) & modules.keys() for name, path in modules.items()}
    while edges:
        leaves = {name for name, others in edges.items() if not others & edges.keys()}
        assert leaves, f"these import each other: {sorted(edges)}"
        edges = {name: others for name, others in edges.items() if name not in leaves}


def test_the_root_holds_programs_and_contracts_only():
    assert len(list(ROOT.glob("*.py"))) <= MOST_ROOT_FILES


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_says_in_one_sentence_what_it_is(wing):
    (statement,) = ast.parse((ROOT / wing / "__init__.py").read_text()).body
    assert isinstance(statement, ast.Expr)
    assert str(ast.literal_eval(statement.value)).count(".") == 1


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_has_its_tests_beside_it(wing):
    assert list((ROOT / "tests" / wing).glob("test_*.py"))


def test_a_file_can_be_read_at_once():
    lines = {name: path.read_text().count("\n") for name, path in code().items() if name != "page.texts"}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


@pytest.mark.parametrize("module", ["web", "client", "watch", "detection.decoding"])
def test_page_client_watcher_and_decoders_need_no_deep_learning_library(module):
    assert not reachable(module) & HEAVY


@pytest.mark.parametrize("library", sorted(ONLY_IMPORTERS))
def test_each_library_has_one_door(library):
    doors = ONLY_IMPORTERS[library]
    importers = {name for name, path in code().items() if library in imports(path)}
    assert {name for name in importers if not {name, name.partition(".")[0]} & doors} == set()


# who may read the classes that a model knows by default: the one place, what makes a rule of none, drawn data
# of the six, reports of before classes were kept in them, detecto's own signature
DEFAULT_CLASSES = {"CLASS_NAMES", "WEAPONS", "LOOKALIKES", "SIX"}
THEIR_READERS = {"detection.detections", "photosets.classes", "photosets.synthetic", "evaluation.results"}


def defaults_of(tree: ast.AST) -> dict[str, tuple[int, str]]:
    """Functions whose parameter is one of the default classes: name -> its place and name."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            given = node.args.args
            for argument, value in zip(given[::-1], node.args.defaults[::-1], strict=False):
                if {each.id for each in ast.walk(value) if isinstance(each, ast.Name)} & DEFAULT_CLASSES:
                    found[node.name] = (given.index(argument), argument.arg)
    return found


def test_classes_come_from_the_model_wherever_there_is_one():
    trees = {name: ast.parse(path.read_text()) for name, path in code().items()}
    readers = set()
    for name, tree in trees.items():
        as_default = {
            id(each)
            for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
            for value in node.args.defaults for each in ast.walk(value)
        }  # fmt: skip
        read = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in DEFAULT_CLASSES]
        if any(id(node) not in as_default for node in read):
            readers.add(name)
    assert readers == THEIR_READERS
    taking = {key: place for tree in trees.values() for key, place in defaults_of(tree).items()}
    del taking["load"]  # Detector.load, in detecto's words
    assert {"build_report", "image_alarms", "coco_summary", "choose"} <= taking.keys()
    forgotten = []
    for name, tree in trees.items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            place, argument = taking.get(ast.unparse(call.func).rpartition(".")[2], (0, ""))
            if argument and len(call.args) <= place and argument not in {word.arg for word in call.keywords}:
                forgotten.append(f"{name}: {ast.unparse(call)[:80]}")
    assert forgotten == []


def test_every_console_prints_text_as_typed():
    calls = [
        (name, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords})
        for name, path in code().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Console"
    ]
    assert {name for name, _ in calls} == {"client", "dataset", "evaluate", "registry", "training.terminal"}
    for name, options in calls:
        assert (options.get("markup"), options.get("emoji")) == ("False", "False"), name
