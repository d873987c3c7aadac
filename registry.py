"""Registered models in MLflow: find, download, register, promote, roll back.

Also a command:

    python registry.py list                       # all versions with their measured numbers
    python registry.py show [VERSION]             # one version, and who made which version champion
    python registry.py promote [VERSION] --why "better on phones"
    python registry.py rollback --why "too many false alarms"
    python registry.py import FOLDER              # a model folder becomes a new version
    python registry.py export FOLDER              # the champion, or --version N, becomes a model folder
    python registry.py export FOLDER --format openvino --data ROOT ...    # to serve it without PyTorch
    python registry.py compare                    # the last runs side by side; --markdown for a README
    python registry.py sync FOLDER                # send what a training run could not send

RegistryError             the tracker or the registry cannot do what was asked; the message says why
  TrackerUnreachable      nobody answers at the tracker's address, or not to us
  VersionNotFound         no such model, version or alias
  PromotionRefused        the challenger is worse than the champion
"""

from __future__ import annotations

from rich.console import Console

from commands import (
    CompareCommand,
    ExportCommand,
    ImportCommand,
    ListCommand,
    PromoteCommand,
    RegistryCommand,
    RollbackCommand,
    ShowCommand,
    SyncCommand,
    registry_command,
)
from detection.card import DetectorError, classes_of, read_card
from detection.imaging import ImageError
from photosets.layout import DatasetError
from photosets.samples import Split, read_samples
from tracking.aliases import read_history
from tracking.champion import not_told_apart, promote, rollback, same_data
from tracking.comparison import compare_runs, comparison_url, last_runs
from tracking.logged_model import export_folder, import_folder
from tracking.run import sync
from tracking.tables import (
    comparison_markdown,
    comparison_table,
    history_table,
    version_table,
    versions_table,
)
from tracking.tracker import RegistryError, connection, is_server, shown
from tracking.versions import find_version, list_versions

SPLITS: tuple[Split, ...] = ("train", "val")


def main() -> None:
    """Do what the command line says."""
    settings, command = registry_command()
    try:
        _run(command, settings, Console(markup=False, emoji=False))
    except (RegistryError, DetectorError, DatasetError, ImageError) as error:
        raise SystemExit(f"error: {error}") from error


def _run(command: object, settings: RegistryCommand, console: Console) -> None:
    name, uri = settings.model_name, settings.mlflow_tracking_uri
    match command:
        case ListCommand():
            _print_versions(name, uri, console)
        case ShowCommand(version=version):
            found = find_version(name, version, tracking_uri=uri)
            console.print(version_table(found))
            with connection(uri) as client:
                console.print(history_table(read_history(client, name)))
        case PromoteCommand():
            _promote(command, name, uri, console)
        case RollbackCommand(why=why):
            now = rollback(name, tracking_uri=uri, why=why)
            console.print(f"Champion of {name} is version {now.version} again.")
        case ImportCommand():
            _import(command, settings, console)
        case ExportCommand(format=str()):
            _export(command, console)
        case ExportCommand(folder=folder, version=version, alias=alias):
            found = find_version(name, version, alias, tracking_uri=uri)
            console.print(f"{found} is in {export_folder(found, folder)}.")
        case CompareCommand():
            _compare(command, settings, console)
        case SyncCommand(folder=folder):
            console.print(f"Sent what waited in {folder} to run {sync(folder)}.")


def _print_versions(name: str, tracking_uri: str, console: Console) -> None:
    versions = list_versions(name, tracking_uri=tracking_uri)
    if versions:
        console.print(versions_table(versions))
    else:
        console.print(
            f"There is no version of {name} at {tracking_uri} yet. train.py registers one; so does "
            "`python registry.py import FOLDER`."
        )


def _promote(command: PromoteCommand, name: str, tracking_uri: str, console: Console) -> None:
    now, overruled = promote(
        name, command.version, tracking_uri=tracking_uri, why=command.why, force=command.force
    )
    console.print(f"Champion of {name} is now version {now.version}.")
    for objection in overruled:
        console.print(f"Overruled: {objection}.")
    before = now.tags.get("promoted.before")
    if not before:
        return
    champion = find_version(name, before, tracking_uri=tracking_uri)
    for sentence in not_told_apart(now, champion):
        console.print(f"Not told apart: {sentence}.")
    if overruled or same_data(now, champion):
        return
    console.print(
        f"Note: versions {now.version} and {before} were measured on different data, so that their numbers "
        "compare only roughly; evaluate.py scores both on one split."
    )


def _import(command: ImportCommand, settings: RegistryCommand, console: Console) -> None:
    name, uri = settings.model_name, settings.mlflow_tracking_uri
    if command.if_none and list_versions(name, tracking_uri=uri):
        console.print(f"{name} has versions already; {command.folder} was not imported.")
        return
    found, is_new = import_folder(
        command.folder, name=name, experiment=settings.experiment, tracking_uri=uri, source=command.source
    )
    did = "is now" if is_new else "is already"
    console.print(f"{command.folder} {did} {found}{f' ({found.alias})' if found.alias else ''}.")


def _export(command: ExportCommand, console: Console) -> None:
    from training import exporting  # here: it brings PyTorch, which the other commands do without

    assert command.format is not None, "its case says so"
    classes = classes_of(read_card(command.folder))
    train, val = (
        read_samples(
            command.data, split, known=classes, classes=command.classes, negatives=command.negatives,
            val_fraction=command.val_fraction, negative_val_fraction=command.negative_val_fraction,
        )
        for split in SPLITS
    )  # fmt: skip
    made = exporting.export_model(
        command.folder, command.format, train, val, only_float=command.float_, say=console.print
    )
    for line in exporting.told(made):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"It lies in {command.folder}; serve it with MODEL_DIR={command.folder}, or register it.")


def _compare(command: CompareCommand, settings: RegistryCommand, console: Console) -> None:
    uri = settings.mlflow_tracking_uri
    found = last_runs(command.experiment, command.runs + 1, tracking_uri=uri)  # one more: are there older?
    runs = found[: command.runs]
    if not runs:
        console.print(f"There are no runs at {shown(uri)} yet; train.py makes one.")
        return
    versions = list_versions(settings.model_name, tracking_uri=uri)
    compared = compare_runs(runs, versions, command.parameters)
    if command.markdown:
        console.print(comparison_markdown(compared), soft_wrap=True, highlight=False)
        return
    console.print(comparison_table(compared))
    if len(found) > len(runs):
        console.print(f"Older runs are left out; --runs {2 * command.runs} shows more.")
    if is_server(uri):
        console.print(f"The same with curves, in MLflow: {comparison_url(runs, uri)}", soft_wrap=True)


if __name__ == "__main__":
    main()
