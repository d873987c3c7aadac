"""Photographs with boxes on disk -> samples of fixed splits. Pictures go through imaging; no torch.

    python dataset.py download data         fetch OD-WeaponDetection's photographs
    python dataset.py check data more/data  what is wrong with them; exit status 1 on errors
    python dataset.py convert data --to yolo new    write Pascal VOC, COCO or YOLO
    python dataset.py stats data            plots of classes, sizes and places
    python dataset.py synth drawn           a small drawn set, to try training out
    python dataset.py pack data more/data   the same as few small files, for a machine elsewhere

A root is laid out as OD-WeaponDetection's Sohas_weapon-Detection (images/, annotations/xmls/, images_test/,
annotations_test/xmls/, and images_val/, annotations_val/xmls/ where it has a validation split of its own), as
other Pascal VOC, COCO, YOLO, CVAT's or Label Studio's export, or is a pack: photosets/found.py looks which.
How an annotation is read and repaired, whatever wrote it: photosets/annotations.py. What names in it mean:
photosets/classes.py. Which pictures validate: photosets/recordings.py.

DatasetError
  WrongLayout       the folder is laid out in no way that is known, or in two at once
  EmptySplit        nothing to train or score on
  DuplicateStem     two pictures of one folder share a stem, so an annotation could mean either
  UnknownClass      an annotation names a class that the model does not know
  UnusableRule      --classes is no rule
  DamagedPack       a pack is not what its sums say
  DamagedImages     pictures cannot be decoded
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from commands_data import (
    CheckCommand,
    ConvertCommand,
    DownloadCommand,
    PackCommand,
    StatsCommand,
    SynthCommand,
    dataset_command,
)
from photosets import duplicates, packing
from photosets.checks import Findings, duplicate_findings, file_findings, recording_findings, share_findings
from photosets.classes import class_rule
from photosets.convert import SIDE_FOLDERS, convert
from photosets.download import DownloadError, download_folder
from photosets.layout import DatasetError
from photosets.recordings import VAL_FRACTION
from photosets.report import DatasetReport, found_lines
from photosets.samples import SPLITS, EmptySplit, Sample, Split, collect_samples, read_samples, told_unknown
from photosets.statistics import box_sides, class_counts, count_table, plot_boxes, size_table
from photosets.synthetic import draw_synthetic
from photosets.unpacking import SUMS

console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def check(
    roots: Sequence[Path],
    *,
    classes: str = "",
    dangerous: Sequence[str] | None = None,
    negatives: bool = False,
    near: int = duplicates.NEAR,
    show: int = 5,
    val_fraction: float = VAL_FRACTION,
    negative_val_fraction: float | None = None,
) -> bool:
    """Print what is in the data, how it is divided and what is wrong with it; return whether nothing is.

    Args:
        roots: as for read_samples.
        classes: as for read_samples.
        dangerous: likewise.
        negatives: as for read_samples.
        near: bits of 256 in which near duplicates differ at most.
        show: findings of a kind to list; 0: all.
        val_fraction: as for read_samples.
        negative_val_fraction: as for read_samples.

    Raises:
        WrongLayout, DuplicateStem, UnusableRule, DamagedPack: nothing else can be said then.
        EmptySplit: there is no usable picture in any split.
    """
    rule = class_rule(classes, dangerous=dangerous)
    reports = {split: DatasetReport() for split in SPLITS}
    samples = {
        split: collect_samples(
            roots, split, rule, reports[split],
            val_fraction=val_fraction, negative_val_fraction=negative_val_fraction, negatives=negatives,
        )
        for split in SPLITS
    }  # fmt: skip
    everything = [(split, sample) for split in SPLITS for sample in samples[split]]
    problems = [problem for split in SPLITS for problem in reports[split].problems]
    if not everything and not problems:
        raise EmptySplit(f"there is no picture with an annotation in {', '.join(map(str, roots))}")
    with _progress("looking at pictures", len(everything)) as advance:
        looks = duplicates.look_at([sample.image_path for _, sample in everything], advance=advance)
    findings = Findings()
    file_findings(problems, findings)
    share_findings(samples, reports, findings)
    duplicate_findings(everything, looks, near, findings)
    recording_findings(samples, findings)
    for line in found_lines(reports):
        console.print(line)
    console.print(count_table(samples, reports, rule.classes))
    console.print(size_table([sample for _, sample in everything], rule.class_names))
    for divided in reports["train"].divisions:
        console.print(f"train and val of {divided}", markup=False)
    _print_findings(findings, show)
    if unknown := told_unknown(roots, rule, reports.values()):
        console.print(f"To train on it: {unknown}")
    return not findings.errors


def _print_findings(findings: Findings, show: int) -> None:
    groups = (("note", "cyan", findings.notes), ("warning", "yellow", findings.warnings))
    for word, style, group in (*groups, ("error", "red", findings.errors)):  # the worst ends up in sight
        for heading, lines in group.items():
            console.print(Text.assemble((word, style), f": {heading}: {len(lines):,}"))
            for line in lines[: show or None]:
                console.print(f"    {line}")
            if show and len(lines) > show:
                console.print(f"    ... and {len(lines) - show:,} more (all: --show 0)")
    errors, warnings = (sum(map(len, group.values())) for group in (findings.errors, findings.warnings))
    console.print(f"{errors:,} errors, {warnings:,} warnings")


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show a bar on the terminal while something is done total times; yield what to call each time."""
    with _bar() as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True, markup=False, emoji=False))


def fetch(command: DownloadCommand) -> None:
    """Download the data set and say what to do with it."""
    with _bar() as bar:
        task = bar.add_task("asking what there is", total=None)

        def progress(present: int, wanted: int) -> None:
            bar.update(task, description="files", completed=present, total=wanted)

        folder = download_folder(command.url, command.name, command.folder, progress=progress)
    console.print(f"All files are in {folder}")
    console.print(
        "Licence and citation: its README.md (CC BY-SA 4.0, University of Granada).\n"
        f"Next: python dataset.py check {command.folder}, then python train.py --data {command.folder}"
    )


def pack(command: PackCommand) -> None:
    """Pack the data and say what came of it and how it is unpacked."""
    with _progress("packing pictures", None) as advance:
        packed = packing.pack(
            command.data, command.output, longer_side=command.longer_side, quality=command.quality,
            part_bytes=round(command.part_mb * 1e6), advance=advance,
        )  # fmt: skip
    before, after = packed.bytes_before / 1e6, packed.bytes_after / 1e6
    console.print(
        f"{packed.pictures:,} pictures, {before:.1f} MB, now {after:.1f} MB; {packed.kept:,} of them stayed "
        f"as they were. To decode one: {packed.decode_ms[0]:.1f} ms before, {packed.decode_ms[1]:.1f} ms now"
    )
    if packed.left_out:
        console.print(f"left out: {len(packed.left_out):,}; the first: {packed.left_out[0]}")
    for path, size in packed.parts.items():
        console.print(f"{path}: {size / 1e6:.1f} MB")
    console.print(
        f"There, in that folder: sha256sum -c {SUMS} && "
        "for part in data-*.tar.gz; do tar xzf $part -C FOLDER; done"
    )


def write_as(command: ConvertCommand) -> None:
    """Write the data in another layout and say what came of it."""
    *roots, output = command.folders
    with _progress("writing pictures", None) as advance:
        done = convert(
            roots, output, command.to, classes=command.classes, negatives=command.negatives, advance=advance
        )
    for line in done.report.lines("all"):
        console.print(line)
    counts = ", ".join(
        f"{SIDE_FOLDERS[side]} {done.pictures[side]:,}" for side in SPLITS if done.pictures[side]
    )
    console.print(f"Wrote {done.pictures.total():,} pictures to {output}: {counts}")


def stats(roots: Sequence[Path], output: Path, *, classes: str = "", negatives: bool = False) -> None:
    """Write stats.png and stats.json: classes, sizes and places of the boxes of every split."""
    names = class_rule(classes).class_names
    samples: dict[Split, list[Sample]] = {}
    for split in SPLITS:
        with suppress(EmptySplit):  # a small set may have no val or test
            samples[split] = read_samples(roots, split, classes=classes, negatives=negatives)
    if not samples:
        raise EmptySplit(f"there is no picture with an annotation in {', '.join(map(str, roots))}")
    output.mkdir(parents=True, exist_ok=True)
    everything = [sample for split in samples for sample in samples[split]]
    counts = {split: class_counts(samples[split], names) for split in samples}
    sides = box_sides(everything, names, relative=True)
    summary = {
        "images": {split: len(samples[split]) for split in samples},
        "boxes": counts,
        "relative_box_side_median": {
            name: float(np.median(sides[name])) for name in sides if len(sides[name])
        },
    }
    (output / "stats.json").write_text(json.dumps(summary, indent=2) + "\n")
    plot_boxes(everything, counts, sides, output / "stats.png")
    console.print(f"Wrote {output / 'stats.png'} and {output / 'stats.json'}")


def _run(command: BaseModel) -> int:
    """Do what the command says and return the exit status."""
    match command:
        case CheckCommand():
            sound = check(
                command.data, classes=command.classes, dangerous=command.dangerous or None,
                negatives=command.negatives, near=command.near, show=command.show,
                val_fraction=command.val_fraction,
                negative_val_fraction=command.negative_val_fraction,
            )  # fmt: skip
            return 0 if sound else 1
        case ConvertCommand():
            write_as(command)
        case DownloadCommand():
            fetch(command)
        case PackCommand():
            pack(command)
        case StatsCommand():
            stats(command.data, command.output, classes=command.classes, negatives=command.negatives)
        case SynthCommand():
            draw_synthetic(command.folder, train=command.train, test=command.test, seed=command.seed)
            console.print(f"Drew {command.train} + {command.test} pictures in {command.folder}")
    return 0


def main() -> None:
    """Run one command; say in a sentence what went wrong."""
    command = dataset_command()
    try:
        raise SystemExit(_run(command))
    except (DatasetError, DownloadError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit("stopped; a download goes on where it stopped when started again") from None


if __name__ == "__main__":
    main()
