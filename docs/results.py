"""Put an evaluation's figures into both READMEs and the model card, between two marks.

python evaluate.py --model weights/starter --data WEAPONS LOOKALIKES --robustness --keep --output reports/both
python evaluate.py --model weights/starter --data WEAPONS --output reports/weapons
python evaluate.py --model weights/starter --data LOOKALIKES --output reports/lookalikes
python evaluate.py --model weights/starter --data HARDSET --output reports/hardset
python docs/results.py reports/both/report.json reports/weapons/report.json reports/lookalikes/report.json \
    reports/hardset/report.json

The first report is of both folders together, the second and third of each alone, the fourth of pictures that
were chosen because an earlier model was wrong on them. Without --robustness, and
with --no-latency where the machine has other work, what was measured of those before stays, if it is the
same model on the same images. What is shown is kept in docs/results.json, which the tests compare with the
documents.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs/results.json"
START, END = "<!-- results -->\n", "<!-- end results -->\n"
CARD = "MODEL_CARD.md"
KEPT_FIELDS = (
    "title", "split", "created_at", "images", "negatives", "recordings", "class_names", "coco",
    "original", "intervals", "classes", "operating_point", "measured", "unsure_point", "unsure_measured",
    "lookalikes", "latency", "robustness", "data",
)  # fmt: skip
NAMES_EN = {
    "pistol": "pistol", "knife": "knife", "billete": "banknote", "monedero": "wallet",
    "smartphone": "smartphone", "tarjeta": "bank card", "any": "any",
}  # fmt: skip
NAMES_RU = {
    "pistol": "пистолет", "knife": "нож", "billete": "банкнота", "monedero": "кошелёк",
    "smartphone": "смартфон", "tarjeta": "банковская карта",
}  # fmt: skip
WORDS: dict[str, dict[str, Any]] = {
    "README.md": {
        "title": "## Results",
        "head": "Measured on the {title} split of photographs ({images} images, of which {negatives} show "
        "none of the six objects), by `python evaluate.py --model weights/starter --data FOLDER`:",
        "columns": "| | COCO, 100 detections | the original project's protocol, best box per class |",
        "names": NAMES_EN,
        "alarm": "At the model's operating point (score {score_threshold:.3f}, chosen on the validation "
        "split) it raises an alarm on {image_recall:.1%} of the {weapon_images} images with a weapon, and on "
        "{false_alarms_per_1000:.0f} of 1,000 without. 95% intervals, from drawing the {recordings} "
        "recordings again: mAP {map.low:.3f} to {map.high:.3f}, alarms {image_recall_span.low:.1%} to "
        "{image_recall_span.high:.1%}, false alarms {false_alarms_span.low:.0f} to "
        "{false_alarms_span.high:.0f}. Both folders apart and everything else: "
        "[MODEL_CARD.md](MODEL_CARD.md).",
    },
    "README.ru.md": {
        "title": "## Результаты",
        "head": "Измерено на части «{title}» ({images} фотографий, из них {negatives} без этих предметов), "
        "команда `python evaluate.py --model weights/starter --data FOLDER`:",
        "columns": "| | COCO, 100 находок | протокол исходного проекта, лучшая рамка каждого класса |",
        "names": NAMES_RU,
        "alarm": "В рабочей точке модели (уверенность {score_threshold:.3f}, выбрана на проверочной части) "
        "тревога поднимается на {image_recall:.1%} из {weapon_images} фотографий с оружием и на "
        "{false_alarms_per_1000:.0f} из 1000 без него. 95-процентные интервалы, по повторным выборкам "
        "{recordings} съёмок: mAP от {map.low:.3f} до {map.high:.3f}, тревоги от "
        "{image_recall_span.low:.1%} до {image_recall_span.high:.1%}, ложные тревоги от "
        "{false_alarms_span.low:.0f} до {false_alarms_span.high:.0f}. "
        "Обе папки порознь и всё остальное: "
        "[MODEL_CARD.md](MODEL_CARD.md).",
    },
}
# Report, figure, its name, the goal set before training (None: none), and whether more is better.
GOALS: tuple[tuple[str, str, str, float | None, bool], ...] = (
    ("weapons", "coco ap50/pistol", "AP50 pistol, folder `weapons`", 0.87, True),
    ("weapons", "coco ap50/knife", "AP50 knife, folder `weapons`", 0.90, True),
    ("lookalikes", "coco map_50", "mAP50, folder `lookalikes`", 0.93, True),
    ("both", "coco map", "mAP, both folders", 0.58, True),
    ("both", "coco map_50", "mAP50, both folders", None, True),
    ("both", "original map", "mAP, best box per class, both folders", None, True),
    ("both", "original map_50", "mAP50, best box per class, both folders", None, True),
    ("both", "measured image_recall", "weapon images that raise an alarm", 0.90, True),
    ("both", "measured false_alarms_per_1000", "false alarms per 1,000 weapon-free images", 50, False),
    ("hardset", "measured false_alarms_per_1000", "the same on `hardset`, chosen to be hard", 150, False),
)
CURVE = (3, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80)  # per cent: the alarm points that the card shows


# --- both READMEs -----------------------------------------------------------------------------------


def table(results: dict[str, Any], readme: str) -> str:
    """Return the paragraph, the table and the alarm's sentence for one README."""
    words, both = WORDS[readme], results["both"]
    rows = [("mAP", "map"), ("mAP50", "map_50"), ("mAP75", "map_75")]
    rows += [(f"AP50, {words['names'][label]}", f"ap50/{label}") for label in both["class_names"][1:]]
    lines = [f"| {name} | {both['coco'][key]:.3f} | {both['original'][key]:.3f} |" for name, key in rows]
    parts = [
        words["title"],
        words["head"].format(**both),
        "\n".join([words["columns"], "| --- | --- | --- |", *lines]),
        words["alarm"].format(**both["measured"], recordings=both["recordings"], **_spans(both)),
    ]
    return "\n\n".join(parts) + "\n"


def _spans(both: dict[str, Any]) -> dict[str, SimpleNamespace]:
    names = {
        "map": "map",
        "image_recall_span": "image_recall",
        "false_alarms_span": "false_alarms_per_1000",
    }
    return {name: SimpleNamespace(**both["intervals"][key]) for name, key in names.items()}


# --- the model card ---------------------------------------------------------------------------------


def card_figures(results: dict[str, Any]) -> str:
    """Return the model card's figures: goals, alarm points, classes, look-alikes, changed pictures, time."""
    both = results["both"]
    point, chosen = both["measured"], both["operating_point"]
    head = (
        f"{both['title'].capitalize()}: {both['images']} images, {both['negatives']} of them without any of "
        "the objects. In brackets: 95 % intervals from drawing recordings (the "
        f"{both['recordings']} videos and series that the images come from, each whole) again 1,000 times. "
        f"The alarm point is score {chosen['score_threshold']:.3f}, chosen on the validation split: "
        f"{chosen['image_recall']:.1%} of {chosen['weapon_images']} weapon images there, "
        f"{chosen['false_alarms_per_1000']:.0f} false alarms per 1,000 of {chosen['weapon_free_images']} "
        f"weapon-free ones. On the test: {point['weapon_images']} and {point['weapon_free_images']} images."
        + _unsure(both)
    )
    parts = [
        head, _goals(results), _operating_points(both), _classes(both), _lookalikes(both), _robustness(both),
        _time(both),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _unsure(both: dict[str, Any]) -> str:
    chosen, measured = both["unsure_point"], both["unsure_measured"]
    if not chosen:
        return ""
    start = chosen["score_threshold"]
    found, in_vain = measured["image_recall"], measured["false_alarms_per_1000"]
    return (
        f" From score {start:.3f} on a person is asked to look: on the test that takes in "
        f"{found:.1%} of the weapon images, and {in_vain:.0f} of 1,000 weapon-free ones."
    )


def _goals(results: dict[str, Any]) -> str:
    lines = ["| figure | measured | goal | |", "| --- | --- | --- | --- |"]
    for folder, figure, name, goal, more_is_better in GOALS:
        group, key = figure.split()
        value = results[folder][group][key]
        interval = "" if group == "original" else _interval(results[folder]["intervals"].get(key))
        lines.append(f"| {name} | {_digits(value)}{interval} | {_verdict(value, goal, more_is_better)} |")
    cells = results["both"]["lookalikes"]
    every = next(cell for cell in cells if cell["weapon"] == cell["lookalike"] == "any")
    share = every["called_weapon"] / every["lookalike_boxes"]
    lines.append(
        f"| share of look-alike boxes called a weapon | {share:.3f} | {_verdict(share, 0.03, False)} |"
    )
    return "\n".join(lines)


def _operating_points(both: dict[str, Any]) -> str:
    lines = [
        "Other alarm points on the test (`score_threshold` of a request, or the slider on the page):",
        "",
        "| alarm from score | weapon images that raise an alarm | false alarms per 1,000 |",
        "| ---: | ---: | ---: |",
    ]
    for point in both["alarm_curve"]:
        lines.append(f"| {point['score_threshold']:.2f} | {_alarms(point)} |")
    return "\n".join(lines)


def _verdict(value: float, goal: float | None, more_is_better: bool) -> str:
    if goal is None:
        return "|"
    reached = value >= goal if more_is_better else value <= goal
    return f"at {'least' if more_is_better else 'most'} {goal:g} | {'reached' if reached else 'missed'}"


def _classes(both: dict[str, Any]) -> str:
    lines = [
        "| class | boxes | AP50 | AP | recall at the alarm point | precision there |",
        "| --- | ---: | --- | --- | ---: | ---: |",
    ]
    for one in both["classes"]:
        name = one["name"]
        ap50, ap = (f"{one[k]:.3f}{_interval(both['intervals'].get(f'{k}/{name}'))}" for k in ("ap50", "ap"))
        counts = f"{_share(one['recall'])} | {_share(one['precision'])}"
        lines.append(f"| {NAMES_EN[name]} | {one['boxes']} | {ap50} | {ap} | {counts} |")
    return "\n".join(lines)


def _lookalikes(both: dict[str, Any]) -> str:
    columns = [cell["lookalike"] for cell in both["lookalikes"] if cell["weapon"] == "any"]
    lines = [
        "Look-alike boxes taken for a weapon / weapon boxes taken for a look-alike and for no weapon:",
        "",
        f"| | {' | '.join(NAMES_EN[name] for name in columns)} |",
        f"| --- |{' --- |' * len(columns)}",
    ]
    for weapon in ("pistol", "knife", "any"):
        cells = {cell["lookalike"]: cell for cell in both["lookalikes"] if cell["weapon"] == weapon}
        shown = [
            f"{cells[name]['called_weapon']} of {cells[name]['lookalike_boxes']} / "
            f"{cells[name]['called_lookalike']} of {cells[name]['weapon_boxes']}"
            for name in columns
        ]
        lines.append(f"| {NAMES_EN[weapon]} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _robustness(both: dict[str, Any]) -> str:
    if not both["robustness"]:
        return ""
    lines = [
        "| the same pictures | mAP | mAP50 | weapon images alarmed | false alarms per 1,000 |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for one in both["robustness"]:
        lines.append(f"| {one['name']} | {one['map']:.3f} | {one['map_50']:.3f} | {_alarms(one)} |")
    return "\n".join(lines)


def _time(both: dict[str, Any]) -> str:
    latency = both["latency"]
    if not latency:
        return ""
    return (
        f"From pixels to boxes: {latency['detect_median_ms']:.0f} ms in the middle, "
        f"{latency['detect_p95_ms']:.0f} ms at the 95th percentile ({latency['machine']}); decoding "
        f"{latency['decode_median_ms']:.0f} ms."
    )


def _alarms(measured: dict[str, Any]) -> str:
    return f"{measured['image_recall']:.1%} | {measured['false_alarms_per_1000']:.0f}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value > 1 else f"{value:.3f}"


def _interval(interval: dict[str, float] | None) -> str:
    return f" ({_digits(interval['low'])} to {_digits(interval['high'])})" if interval else ""


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


# --- files ------------------------------------------------------------------------------------------


def kept() -> dict[str, Any] | None:
    """Return the figures of docs/results.json, or None before the first evaluation."""
    if not KEPT.is_file():
        return None
    results: dict[str, Any] = json.loads(KEPT.read_text())
    return results


def trimmed(report: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what the documents show of a report, without most of the curves and this machine's folders.

    Args:
        report: of evaluate.py.
        before: what was kept until now; of the same images with figures less than 0.005 apart, it stands in
            for changed pictures and times that the report lacks, as these cost more than all the rest.
    """
    short = {name: report[name] for name in KEPT_FIELDS}
    curve = {round(100 * point["score_threshold"]): point for point in report["alarm_curve"]}
    short["alarm_curve"] = [curve[percent] for percent in CURVE]
    short["classes"] = [{k: v for k, v in one.items() if k != "curve"} for one in report["classes"]]
    short["data"] = {
        **report["data"],
        "Data": re.sub(r"[^ ,]*/([^/, ]+)/[^/, ]+", r"\1", report["data"]["Data"]),
    }
    if before and _alike(before, short):
        for name in ("robustness", "latency"):
            short[name] = short[name] or before[name]
    return short


def _alike(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether two evaluations are of the same images and model, perhaps on two processors."""
    figures = (
        (before["coco"]["map"], now["coco"]["map"]),
        (before["coco"]["map_50"], now["coco"]["map_50"]),
        (before["measured"]["image_recall"], now["measured"]["image_recall"]),
    )
    same_images = before["data"]["Fingerprint"] == now["data"]["Fingerprint"]
    return same_images and all(abs(one - other) < 0.005 for one, other in figures)


def main() -> None:
    """Keep the figures and write them into the READMEs and the card."""
    names = ("both", "weapons", "lookalikes", "hardset")
    if len(sys.argv) != 1 + len(names):
        raise SystemExit(f"error: expected four reports: {', '.join(names)}\n\n{__doc__}")
    before = kept() or {}
    results = {
        name: trimmed(json.loads(Path(path).read_text()), before.get(name))
        for name, path in zip(names, sys.argv[1:], strict=True)
    }
    KEPT.write_text(json.dumps(results, indent=1) + "\n")
    texts = {readme: table(results, readme) for readme in WORDS} | {CARD: card_figures(results)}
    for document, shown in texts.items():
        text = (ROOT / document).read_text()
        above, below = text.split(START)[0], text.split(END)[1]
        (ROOT / document).write_text(above + START + shown + END + below)


if __name__ == "__main__":
    main()
