"""Which version is champion and challenger, and the history of that."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from mlflow import MlflowClient

from tracking.provenance import who
from tracking.versions import CHALLENGER, CHAMPION, every_version

HISTORY = "champion_history."  # tags of the registered model, one per change of the champion, in order


def give_alias(client: MlflowClient, name: str, version: str) -> None:
    """Make a new version the champion if there is none older, else the challenger.

    MLflow counts versions one by one, so that of several registered at once only one has none before it.
    """
    champion, challenger = (alias_target(client, name, alias) for alias in (CHAMPION, CHALLENGER))
    is_first = not any(int(each.version) < int(version) for each in every_version(client, name))
    if is_first and champion is None:
        make_champion(client, name, version, action="first", why="the first version")
    elif champion != version and int(challenger or 0) < int(version):
        client.set_registered_model_alias(name, CHALLENGER, version)


def alias_target(client: MlflowClient, name: str, alias: str) -> str | None:
    """Return the version an alias points at, or None."""
    aliases = client.get_registered_model(name).aliases
    return str(aliases[alias]) if alias in aliases else None


def champion_line(history: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the champions up to the present one, as if nothing had been rolled back.

    After promotions of 1, 2, 3 and one rollback that is ["1", "2"], so that the next goes to 1.
    """
    line: list[str] = []
    for change in history:
        version = change["version"]
        if version in line:  # rolled back to, or promoted anew: what came after it is no longer before it
            after = line[line.index(version) + 1 :]
            line = line[: line.index(version)]
            if change["action"] != "rollback":
                line += after
        line.append(version)
    return line


def read_history(client: MlflowClient, name: str) -> list[dict[str, str]]:
    """Return every change of the champion, oldest first.

    Their tags end in time and version; earlier ones in a number of five digits, which sorts before them.
    """
    tags = client.get_registered_model(name).tags
    return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(HISTORY)]


def make_champion(
    client: MlflowClient, name: str, version: str, *, action: str, why: str, against: Sequence[str] = ()
) -> None:
    """Move the alias; say who, when and why in tags of the version and in the model's history."""
    before = alias_target(client, name, CHAMPION)
    change = {
        "action": action,
        "version": str(version),
        "before": before or "",
        "when": time_now(),
        "who": who(),
    }
    change |= {"why": why, "against": "; ".join(against)}
    if before is not None and action == "rollback":
        for key in ("when", "who", "why"):
            client.set_model_version_tag(name, before, f"rolled_back.{key}", change[key])
    else:
        for key in ("when", "who", "why", "before", "against"):  # also the empty: an earlier one's must go
            client.set_model_version_tag(name, version, f"promoted.{key}", change[key])
    key = f"{HISTORY}{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.{version}"  # two at once have different versions
    client.set_registered_model_tag(name, key, json.dumps(change, ensure_ascii=False))
    client.set_registered_model_alias(name, CHAMPION, version)
    if alias_target(client, name, CHALLENGER) == str(version):
        client.delete_registered_model_alias(name, CHALLENGER)


def time_now() -> str:
    """Return the time as it stands in the history, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
