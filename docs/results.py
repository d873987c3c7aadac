"""Put an evaluation's figures into both READMEs, between the two marks, and keep them in docs/results.json.

python evaluate.py --model weights/starter --data FOLDER --output reports/starter
python docs/results.py reports/starter/report.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs/results.json"
START, END = "<!-- results -->\n", "<!-- end results -->\n"
WORDS = {
    "README.md": {
        "title": "## Results",
        "head": "Measured on the {title} split of photographs ({images} images, of which {negatives} show "
        "none of the six objects), by `python evaluate.py --model weights/starter --data FOLDER`:",
        "columns": "| | COCO, 100 detections | the original project's protocol, best box per class |",
        "names": "pistol, knife, banknote, wallet, smartphone, bank card",
        "alarm": "At the model's operating point (score {score_threshold:.2f}, chosen on the validation "
        "split) it raises an alarm on {image_recall:.1%} of the {weapon_images} images with a weapon, and on "
        "{false_alarms_per_1000:.0f} of 1,000 without.",
    },
    "README.ru.md": {
        "title": "## Результаты",
        "head": "Измерено на части «{title}» ({images} фотографий, из них {negatives} без этих предметов), "
        "команда `python evaluate.py --model weights/starter --data FOLDER`:",
        "columns": "| | COCO, 100 находок | протокол исходного проекта, лучшая рамка каждого класса |",
        "names": "пистолет, нож, банкнота, кошелёк, смартфон, банковская карта",
        "alarm": "В рабочей точке модели (уверенность {score_threshold:.2f}, выбрана на проверочной части) "
        "тревога поднимается на {image_recall:.1%} из {weapon_images} фотографий с оружием и на "
        "{false_alarms_per_1000:.0f} из 1000 без него.",
    },
}


def table(results: dict[str, Any], readme: str) -> str:
    """Return the paragraph, the table and the alarm's sentence for one README."""
    words = WORDS[readme]
    rows = [("mAP", "map"), ("mAP50", "map_50"), ("mAP75", "map_75")]
    labels = results["class_names"][1:]
    rows += [
        (f"AP50, {name}", f"ap50/{label}")
        for name, label in zip(words["names"].split(", "), labels, strict=True)
    ]
    lines = [
        f"| {name} | {results['coco'][key]:.3f} | {results['original'][key]:.3f} |" for name, key in rows
    ]
    parts = [words["title"], words["head"], "\n".join([words["columns"], "| --- | --- | --- |", *lines])]
    if results["measured"]:
        parts.append(words["alarm"].format(**results["measured"]))
    return "\n\n".join(parts).format(**results) + "\n"


def kept() -> dict[str, Any] | None:
    """Return the figures of docs/results.json, or None before the first evaluation."""
    if not KEPT.is_file():
        return None
    results: dict[str, Any] = json.loads(KEPT.read_text())
    return results


def main() -> None:
    """Keep the figures and write them into both READMEs."""
    report = json.loads(Path(sys.argv[1]).read_text())
    names = (
        "title",
        "split",
        "model",
        "created_at",
        "images",
        "negatives",
        "class_names",
        "coco",
        "original",
    )
    results = {name: report[name] for name in (*names, "measured", "data")}
    KEPT.write_text(json.dumps(results, indent=1) + "\n")
    for readme in WORDS:
        text = (ROOT / readme).read_text()
        before, after = text.split(START)[0], text.split(END)[1]
        (ROOT / readme).write_text(before + START + table(results, readme) + END + after)


if __name__ == "__main__":
    main()
