"""What is said of photos that are unlike those of validation, from rows and from the API's metrics."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fake_detector import FakeDetector, api_settings, live_server, png

import archive
from archives import drift
from archives.drift import Photos
from archives.errors import ArchiveError
from archives.looking import Looker, Wanted
from archives.rows import ROWS, Parts, failed
from archives.sources import one_photo
from detection import runtimes
from photosets import synthetic
from serving.app import create_app

BRIGHTNESS = drift.MEASURES[0]


def rows(brightness: list[float], **columns) -> pa.Table:
    """Rows of photos of that brightness, each with a pistol."""
    given = {"alarm": True, "labels": ["pistol"], "weapon_score": 0.97, "sharpness": 50.0, **columns}
    return pa.Table.from_pylist([{**given, "brightness": shade} for shade in brightness], schema=ROWS)


def test_photos_darker_than_all_of_validation_are_said_to_be():
    here = drift.of_rows("runs/archive", [rows([10.0] * 41 + [100.0] * 59)])
    there = drift.of_rows("validation", [rows([100.0, 120.0, 200.0])])
    found = drift.difference(BRIGHTNESS, here, there)
    assert found.below == pytest.approx(0.41)
    assert found.above == 0
    assert "Brightness: 41% of the photos are darker than any validation photo." in found.sentences
    # Up to 104, where 100 is counted: all 100 of here, 1 of 3 there.
    assert found.distance == pytest.approx(2 / 3)
    assert found.sentences[0] == "Brightness: clearly unlike validation (distance 0.67 of at most 1)."


def test_the_same_photos_are_alike_and_nothing_more_is_said():
    photos = drift.of_rows("a", [rows([10.0, 90.0, 200.0])])
    assert drift.difference(BRIGHTNESS, photos, photos).sentences == (
        "Brightness: like validation (distance 0.00 of at most 1).",
    )


def test_rows_are_summed_up_file_by_file_and_failures_apart():
    broken = pa.Table.from_pylist([failed("x.jpg", "bad-image", "It is broken.")], schema=ROWS)
    photos = drift.of_rows("a", [rows([10.0, 20.0]), broken, rows([30.0], alarm=False, labels=[])])
    assert (photos.answered, photos.failed, photos.alarms) == (3, 1, 2)
    assert photos.labels == {"pistol": 2}
    assert photos.counts["brightness"].sum() == 3
    assert photos.counts["weapon_score"].tolist() == [0] * 19 + [3]
    assert drift.sums(photos) == [
        "a: 4 photos, 66.7% with an alarm.", "25.0% of them gave no answer.",
        "Fewer than 50 answers: shares of so few say little.",
    ]  # fmt: skip


def test_a_shade_on_the_edge_of_a_column_is_counted_as_prometheus_counts_it():
    photos = drift.of_rows("a", [rows([8.0, 8.1])])
    assert photos.counts["brightness"][:2].tolist() == [1, 1]


def test_the_apis_metrics_say_the_same_of_a_photo_as_its_row(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png())
    detector = FakeDetector()
    with live_server(create_app(api_settings(), load_detector=lambda _: detector)) as (client, _):
        for _ in range(3):
            client.post("/predict", files={"file": ("a.png", path.read_bytes())}).raise_for_status()
        address = f"{client.base_url}/metrics"
        live = drift.of_metrics("api", drift.ask_metrics(address))
    looker = Looker(detector, Wanted(), ahead=1)
    row = next(iter(looker.rows([one_photo(path)])))
    looker.close()
    kept = drift.of_rows("rows", [pa.Table.from_pylist([row] * 3, schema=ROWS)])
    assert (live.answered, live.alarms, live.labels) == (kept.answered, kept.alarms, kept.labels)
    for measure in drift.MEASURES:
        assert np.array_equal(live.counts[measure.key], kept.counts[measure.key]), measure.title


@pytest.mark.parametrize("text", ["", "<html>", "weapon_api_files_total 1"])
def test_another_page_than_the_apis_metrics_is_refused(text):
    with pytest.raises(ArchiveError, match=r"does not answer as this API's /metrics does"):
        drift.of_metrics("http://x/metrics", text)


def test_an_api_that_is_down_is_a_sentence():
    with pytest.raises(ArchiveError, match="is the API up"):
        drift.ask_metrics("http://127.0.0.1:9/metrics")


def test_the_page_needs_no_other_file_and_shows_names_as_text():
    photos = Photos("<archive>", counts=drift.of_rows("", [rows([10.0] * 60)]).counts, answered=60)
    page = drift.render(photos, drift.of_rows("validation", [rows([90.0] * 60)]))
    assert "&lt;archive&gt;" in page
    assert "<archive>" not in page
    assert not re.search(r'(src|href)="', page)
    assert page.count("<svg") == 3
    assert "100% of the photos are darker than any validation photo." in page


def test_a_report_compares_an_archive_with_the_validation_split(tmp_path, small_model, capsys):
    synthetic.draw_synthetic(tmp_path / "drawn", train=12, test=2, seed=0)
    (tmp_path / "night.png").write_bytes(png(colour=(3, 3, 3)))
    parts = Parts(str(tmp_path / "rows"))
    detector = runtimes.load(small_model, runtime="torch")
    parts.settle({"weights": detector.card.weights_sha256, "tiles": "1x1"})
    looker = Looker(detector, Wanted(), ahead=1)
    row = next(iter(looker.rows([one_photo(tmp_path / "night.png")])))
    looker.close()
    parts.add(pa.Table.from_pylist([row], schema=ROWS))
    parts.flush()
    page = tmp_path / "deep" / "drift.html"
    words = ["report", str(tmp_path / "rows"), "--data", str(tmp_path / "drawn"), "--runtime", "torch"]
    archive.main([*words, "--model", str(small_model), "--output", str(page)])
    said = capsys.readouterr().out
    assert "Brightness: 100% of the photos are darker than any validation photo." in said
    assert said.strip().endswith(f"page: {page}")
    assert page.read_text().startswith("<!doctype html>")


def test_an_archive_of_another_model_is_not_compared(tmp_path, small_model):
    parts = Parts(str(tmp_path / "rows"))
    parts.settle({"weights": "others", "tiles": "1x1"})
    with pytest.raises(SystemExit) as ended:
        archive.main(["report", str(tmp_path / "rows"), "--data", str(tmp_path), "--model", str(small_model)])
    assert "looked at by another model" in str(ended.value)


def test_a_folder_that_is_no_archive_is_a_sentence(tmp_path):
    words = ["report", str(tmp_path), "--data", str(tmp_path), "--model", "weights/starter"]
    with pytest.raises(SystemExit) as ended:
        archive.main(words)
    assert "is no archive" in str(ended.value)
    assert Path(tmp_path).exists()
