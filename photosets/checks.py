"""What is wrong with a set of photographs: broken files, leaks between splits, shares that are far off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from photosets import duplicates, recordings
from photosets.pairs import ERRORS, Problem
from photosets.report import DatasetReport
from photosets.samples import SPLITS, Sample, Split


@dataclass
class Findings:
    """What a check found. Errors cost pictures or falsify the numbers; warnings are for a person to weigh."""

    errors: dict[str, list[str]] = field(default_factory=dict)  # heading -> one line per finding
    warnings: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)


def file_findings(problems: Sequence[Problem], findings: Findings) -> None:
    """Add what reading the files brought to light."""
    for problem in problems:
        kind = findings.errors if problem.kind in ERRORS else findings.warnings
        kind.setdefault(problem.kind, []).append(f"{problem.path}: {problem.detail}")


def share_findings(
    samples: dict[Split, list[Sample]], reports: dict[Split, DatasetReport], findings: Findings
) -> None:
    """Add folders of which val has far more or less than its share, and boxes marked difficult."""
    far = [line for divided in reports["train"].divisions for line in divided.warnings]
    if not far and bool(samples["train"]) != bool(samples["val"]):
        far.append("train or val has no picture: training needs at least two with annotations")
    if far:
        findings.warnings["validation share"] = far
    marked = [
        f"{sample.image_path}: {sample.difficult}"
        for split in SPLITS for sample in samples[split] if sample.difficult
    ]  # fmt: skip
    if marked:
        findings.notes["boxes marked difficult, which count like the others"] = marked


def duplicate_findings(
    everything: Sequence[tuple[Split, Sample]],
    looks: Sequence[duplicates.Look],
    near: int,
    findings: Findings,
) -> None:
    """Add pictures that cannot be decoded, and those that occur twice: a leak where they cross splits."""
    for (_, sample), look in zip(everything, looks, strict=True):
        if look.error is not None:
            findings.errors.setdefault("unreadable image", []).append(f"{sample.image_path}: {look.error}")
    for group in duplicates.same_bytes(looks):
        splits = sorted({everything[position][0] for position in group}, key=SPLITS.index)
        line = " = ".join(str(everything[position][1].image_path) for position in group)
        if len(splits) > 1:
            findings.errors.setdefault(f"same picture in {' and '.join(splits)}", []).append(line)
        else:
            findings.warnings.setdefault(f"same picture twice in {splits[0]}", []).append(line)
    for pair in sorted(duplicates.near_pairs(looks, near=near), key=lambda pair: pair.distance):
        (first_split, first), (second_split, second) = everything[pair.first], everything[pair.second]
        how = f"{pair.distance} of 256 bits apart{', mirrored' if pair.mirrored else ''}"
        line = f"{first.image_path} ~ {second.image_path}: {how}"
        if first_split == second_split:
            findings.notes.setdefault(f"pairs of nearly the same picture in {first_split}", []).append(line)
        else:
            where = f"{first_split} and {second_split}"
            findings.warnings.setdefault(f"nearly the same picture in {where}", []).append(line)


def recording_findings(samples: dict[Split, list[Sample]], findings: Findings) -> None:
    """Add recordings on both sides of train and test, or of train and a root's own val.

    Numbered blocks of stills are no evidence of one.
    """
    counts = {
        split: Counter(recordings.recording_of(sample.image_path.stem) for sample in samples[split])
        for split in SPLITS
    }
    for recording in sorted(counts["test"]):
        in_train = counts["train"][recording] + counts["val"][recording]
        if in_train and "#" not in recording:
            line = f"{recording}: {in_train} pictures in train, {counts['test'][recording]} in test"
            findings.warnings.setdefault("recording in train and test", []).append(line)
    of_train = {(sample.root, sample.recording) for sample in samples["train"]}
    of_val = Counter((sample.root, sample.recording) for sample in samples["val"])
    for root, recording in sorted(of_train & of_val.keys()):
        if "#" not in recording:
            line = f"{root}: {recording}: {of_val[root, recording]} of its pictures in val"
            findings.warnings.setdefault("recording in train and val", []).append(line)
