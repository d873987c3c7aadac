"""The gate before the champion: promote a version that is no worse, and roll back."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy.stats import binomtest

from tracking.aliases import champion_line, make_champion, read_history
from tracking.tracker import RegistryError, connection
from tracking.versions import (
    CHALLENGER,
    FALSE_ALARMS,
    GATE,
    MOST_FALSE_ALARMS,
    RECALL,
    RegisteredVersion,
    VersionNotFound,
    find_version,
    list_versions,
)


class PromotionRefused(RegistryError):
    """The challenger is worse than the champion, or was not measured."""


def promote(
    name: str, version: str | None, *, tracking_uri: str, why: str = "", force: bool = False
) -> tuple[RegisteredVersion, list[str]]:
    """Make a version the champion.

    Args:
        name: the registered model.
        version: its number; None: the challenger.
        tracking_uri: the tracker's address.
        why: the reason, for the record.
        force: even if it is worse than the champion.

    Returns:
        The new champion, and what spoke against it and was overruled.

    Raises:
        PromotionRefused: it is worse, was not measured, alarms on nothing or falsely on most images, and
            force is false or gives no reason.
    """
    challenger = find_version(name, version, CHALLENGER, tracking_uri=tracking_uri)
    try:
        champion = find_version(name, tracking_uri=tracking_uri)
    except VersionNotFound:
        champion = None
    if champion and champion.version == challenger.version:
        raise RegistryError(f"Version {challenger.version} of {name} is the champion already.")
    against = objections(challenger, champion)
    if against and not (force and why):
        raise PromotionRefused(
            f"Version {challenger.version} does not become champion: {'; '.join(against)}. Use --force with "
            "--why REASON to promote it all the same."
        )
    with connection(tracking_uri) as client:
        make_champion(client, name, challenger.version, action="promote", why=why, against=against)
    return find_version(name, tracking_uri=tracking_uri), against


class Setback(NamedTuple):
    """A value of GATE in which a challenger is worse than the champion.

    Attributes:
        sentence: without a full stop.
        told_apart: the difference is larger than chance makes it.
    """

    sentence: str
    told_apart: bool


def objections(challenger: RegisteredVersion, champion: RegisteredVersion | None) -> list[str]:
    """Return what speaks against the challenger, as sentences without a full stop.

    Where it is worse than the champion by no more than chance makes it, nothing is said: see not_told_apart.
    """
    against = []
    for key, measure in GATE.items():
        new = challenger.measured_on_val(key)
        old = champion.measured_on_val(key) if champion else None
        if new is None and (old is not None or measure.required):
            against.append(f"{key} of version {challenger.version} was not measured")
        elif new == 0 and key == RECALL:
            against.append(f"it raises an alarm on no weapon image at all ({key} is 0)")
        elif new is not None and key == FALSE_ALARMS and new > MOST_FALSE_ALARMS:
            against.append(f"it raises a false alarm on {new:.0f} of 1,000 weapon-free images")
    if champion and not same_classes(challenger, champion):
        return [*against, other_classes(challenger, champion)]
    worse = setbacks(challenger, champion) if champion else []
    against += [each.sentence for each in worse if each.told_apart]
    if against and champion and not same_data(challenger, champion):
        against.append(
            "the two were measured on different data (see data_fingerprint in `python registry.py show`), so "
            "score both on one split with evaluate.py before you decide"
        )
    return against


def not_told_apart(challenger: RegisteredVersion, champion: RegisteredVersion) -> list[str]:
    """Return in what the challenger is worse by no more than chance makes it, in sentences like those."""
    if not same_classes(challenger, champion):
        return []
    return [each.sentence for each in setbacks(challenger, champion) if not each.told_apart]


def setbacks(challenger: RegisteredVersion, champion: RegisteredVersion) -> list[Setback]:
    """Return every value of GATE in which the challenger is worse than the champion.

    Source:
        Newcombe, Interval estimation for the difference between independent proportions, Statistics in
        Medicine 17 (1998), method 10: told apart if the interval of the difference leaves out zero.
    """
    found = []
    for key, measure in GATE.items():
        new, old = challenger.measured_on_val(key), champion.measured_on_val(key)
        if new is None or old is None or new == old or (new > old) == measure.more_is_better:
            continue
        (new_low, new_high), (old_low, old_high) = (interval(each, key) for each in (challenger, champion))
        chance = math.hypot(
            *((new_high - new, old - old_low) if new < old else (new - new_low, old_high - old))
        )
        its, champions = measure.write(new, new_low, new_high), measure.write(old, old_low, old_high)
        sentence = f"its {key} is {its}, the champion's (version {champion.version}) {champions}"
        found.append(Setback(sentence, told_apart=abs(new - old) > chance))
    return found


def interval(found: RegisteredVersion, key: str) -> tuple[float, float]:
    """Return the 95 % interval of a value of GATE: the measured one, else that of a share of so many.

    Returns:
        Low and high with the value between them; twice the value where nothing tells how sure it is.
    """
    value, count, per = found.measured_on_val(key), found.count(key), GATE[key].per
    assert value is not None
    low, high = found.measured(f"{key}/low"), found.measured(f"{key}/high")
    if (low is None or high is None or low == high) and count:
        low, high = (per * bound for bound in share_interval(value / per, count))
    if low is None or high is None:
        return value, value
    return min(low, value), max(high, value)


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of count pictures or boxes."""
    successes = round(min(max(share, 0.0), 1.0) * count)
    found = binomtest(successes, count).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def same_data(one: RegisteredVersion, other: RegisteredVersion) -> bool:
    """Return whether two versions were trained and measured on the same data."""
    return one.tags.get("data_fingerprint", "") == other.tags.get("data_fingerprint", "")


def same_classes(one: RegisteredVersion, other: RegisteredVersion) -> bool:
    """Return whether two versions tell the same apart and call the same dangerous, as far as is known."""
    mine, its = one.classes(), other.classes()
    return mine is None or its is None or mine == its


def other_classes(challenger: RegisteredVersion, champion: RegisteredVersion) -> str:
    """Say that the figures of two versions with other classes do not compare."""

    def told(found: RegisteredVersion) -> str:
        names, dangerous = found.classes() or (frozenset(), frozenset())
        weapons, others = (", ".join(sorted(some)) for some in (dangerous, names - dangerous))
        return f"{weapons} (look-alikes: {others or 'none'})"

    return (
        f"it looks for {told(challenger)}, the champion (version {champion.version}) for {told(champion)}: "
        "figures of models with other classes do not compare, so that only a person can say which is better"
    )


def rollback(name: str, *, tracking_uri: str, why: str = "") -> RegisteredVersion:
    """Make the champion before this one champion again.

    Raises:
        RegistryError: there was none before.
    """
    current = find_version(name, tracking_uri=tracking_uri)
    there = {found.version for found in list_versions(name, tracking_uri=tracking_uri)}
    with connection(tracking_uri) as client:
        line = [version for version in champion_line(read_history(client, name)) if version in there]
        earlier = line[: line.index(current.version)] if current.version in line else line
        if not earlier:
            raise RegistryError(f"There is no champion of {name} before version {current.version}.")
        make_champion(client, name, earlier[-1], action="rollback", why=why)
    return find_version(name, tracking_uri=tracking_uri)
