"""archive.py: photos wherever they lie, one row for each, whatever ends a pass; and the API's own answers."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import free_port
from fake_detector import FakeDetector, api_settings, live_server, png
from moto.server import ThreadedMotoServer

import archive
from archives import engine, scanning
from archives.errors import ArchiveError
from archives.looking import Looker, Wanted
from archives.rows import ROWS, Parts
from archives.scanning import duration
from archives.sources import Broken, Unreadable, listed, read_photo, shown
from detection import runtimes
from detection.appearance import appearance
from serving.app import create_app

ROOT = Path(__file__).parents[2]
PHOTOS = sorted((ROOT / "photos").glob("0*.jpg"))[:5]


# --- where photos lie -----------------------------------------------------------------------------------


def shard(path: Path, members: dict[str, bytes]) -> Path:
    """Write a tar shard as WebDataset lays it out."""
    with tarfile.open(path, "w") as packed:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    return path


def names(address: str) -> list[str]:
    tables = [found for found in listed(address) if isinstance(found, pa.Table)]
    return [name for table in tables for name in table["photo"].to_pylist()]


def contents(address: str) -> list[bytes]:
    tables = [found for found in listed(address) if isinstance(found, pa.Table)]
    rows = [row for table in tables for row in table.to_pylist()]
    return [read_photo(row["address"], row["path"], row["offset"], row["size"]) for row in rows]


def test_a_folder_is_searched_to_the_bottom_for_pictures_and_shards(tmp_path):
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "b.PNG").write_bytes(b"b")
    (tmp_path / "deep" / "deeper" / "a.jpg").write_bytes(b"a")
    for other in ("notes.txt", "._b.png", ".hidden.jpg"):
        (tmp_path / other).write_bytes(b"no picture")
    shard(
        tmp_path / "deep" / "0.tar", {"k1.jpg": b"in the shard", "k1.json": b"{}", "sub/k2.webp": b"second"}
    )
    assert names(str(tmp_path)) == [
        f"{tmp_path}/b.PNG", f"{tmp_path}/deep/deeper/a.jpg", f"{tmp_path}/deep/0.tar/k1.jpg",
        f"{tmp_path}/deep/0.tar/sub/k2.webp",
    ]  # fmt: skip
    assert contents(str(tmp_path)) == [b"b", b"a", b"in the shard", b"second"]


def test_one_file_is_a_source_too(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    assert names(str(tmp_path / "a.jpg")) == [f"{tmp_path}/a.jpg"]
    packed = shard(tmp_path / "s.tar", {"k.jpg": b"k"})
    assert names(str(packed)) == [f"{packed}/k.jpg"]


def test_a_shard_that_is_cut_off_gives_what_is_whole_and_a_sentence_for_the_rest(tmp_path):
    packed = shard(tmp_path / "s.tar", {"a.jpg": b"a" * 2000, "b.jpg": b"b" * 2000})
    packed.write_bytes(packed.read_bytes()[: 512 + 2048 + 512 + 700])
    assert names(str(packed)) == [f"{packed}/a.jpg", f"{packed}/b.jpg"]
    with pytest.raises(Unreadable, match="the shard ends 1,300 bytes before the photo does"):
        contents(str(packed))


def test_a_shard_with_a_damaged_table_of_contents_is_named(tmp_path):
    packed = shard(tmp_path / "s.tar", {"a.jpg": b"a" * 600, "b.jpg": b"b" * 600})
    damaged = bytearray(packed.read_bytes())
    damaged[512 + 1024 : 512 + 1024 + 512] = b"x" * 512
    packed.write_bytes(damaged)
    found = list(listed(str(packed)))
    assert names(str(packed)) == [f"{packed}/a.jpg"]
    assert isinstance(found[-1], Broken)
    assert "breaks off" in found[-1].sentence


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "found none"),
        (lambda folder: folder.rmdir(), "cannot be listed"),
        (lambda folder: (folder / "s.tar.gz").write_bytes(b""), "compressed tar file"),
    ],
)
def test_a_folder_that_is_no_archive_is_refused_in_a_sentence(tmp_path, make, said):
    folder = tmp_path / "photos"
    folder.mkdir()
    make(folder)
    with pytest.raises(ArchiveError, match=said):
        names(str(folder))


def test_an_address_of_no_known_kind_is_refused():
    with pytest.raises(ArchiveError, match="expected a folder, a tar file or an address such as s3"):
        names("carrier-pigeon://roof")


def test_an_address_is_shown_without_its_keys_and_options():
    assert shown("s3://key:secret@bucket/2026?endpoint_override=x") == "s3://bucket/2026"
    assert shown("/photos/what?.jpg") == "/photos/what?.jpg"


# --- one pass -------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.png").write_bytes(png(colour=(30 * i, 90, 120)))
    return folder


def look_here(photos: pa.Table) -> Iterator[pa.Table]:
    """Look with a fake detector in this process, one photo after the other."""
    looker = Looker(FakeDetector(), Wanted(), ahead=2)
    try:
        for row in looker.rows(photos.to_pylist()):
            yield pa.Table.from_pylist([row], schema=ROWS)
    finally:
        looker.close()


def kept(parts: Parts) -> list[dict[str, Any]]:
    return sorted(
        (row for table in parts.tables() for row in table.to_pylist()), key=lambda row: row["photo"]
    )


def scan(parts: Parts, *sources: Path, look=look_here) -> tuple[scanning.Progress, list[str]]:
    parts.settle({"weights": "w"})
    told: list[str] = []
    return scanning.scan([str(source) for source in sources], parts, look, told.append), told


def test_every_photo_gets_a_row(tmp_path, photos):
    parts = Parts(str(tmp_path / "rows"))
    progress, _ = scan(parts, photos)
    rows = kept(parts)
    assert [row["photo"] for row in rows] == [f"{photos}/{i}.png" for i in range(6)]
    assert {(row["verdict"], row["alarm"], row["width"], row["height"]) for row in rows} == {
        ("alarm", True, 40, 30)
    }
    assert (progress.over, progress.alarms, progress.failures) == (6, 6, 0)
    assert len(pq.read_table(tmp_path / "rows")) == 6  # as anybody reads a folder of Parquet


def test_what_cannot_be_looked_at_is_a_row_with_a_sentence(tmp_path, photos):
    (photos / "1.png").write_bytes(b"no picture")
    (photos / "2.png").unlink()
    (photos / "2.png").symlink_to(photos / "gone.png")
    parts = Parts(str(tmp_path / "rows"))
    shard(photos / "z.tar", {"a.png": png()}).write_bytes(b"\1" * 2048)
    progress, told = scan(parts, photos)
    failures = {Path(row["photo"]).name: row for row in kept(parts) if row["error"]}
    assert failures["1.png"]["error"] == "not-an-image"
    assert failures["1.png"]["sentence"].endswith(".")
    assert failures["z.tar"]["error"] == "broken-shard"
    assert progress.failures == len(failures)
    assert all(row["verdict"] is None for row in failures.values())
    assert any("breaks off" in sentence for sentence in told)


def test_a_pass_that_was_stopped_goes_on_where_it_was(tmp_path, photos):
    looked: list[str] = []

    def stop_after_two(given):
        for rows in look_here(given):
            looked.extend(rows["photo"].to_pylist())
            yield rows
            if len(looked) == 2:
                raise KeyboardInterrupt

    parts = Parts(str(tmp_path / "rows"))
    with pytest.raises(KeyboardInterrupt):
        scan(parts, photos, look=stop_after_two)
    again = Parts(str(tmp_path / "rows"))
    progress, told = scan(again, photos, look=stop_after_two)
    assert "2 of them have a row from an earlier start" in told
    assert progress.total == 4
    assert sorted(looked) == [row["photo"] for row in kept(again)] == [f"{photos}/{i}.png" for i in range(6)]


def test_failures_are_looked_at_again_only_when_asked_for(tmp_path, photos):
    (photos / "1.png").write_bytes(b"no picture")
    scan(Parts(str(tmp_path / "rows")), photos)
    (photos / "1.png").write_bytes(png())
    parts = Parts(str(tmp_path / "rows"))
    assert scan(parts, photos)[0].total == 0
    assert parts.forget_failures() == 1
    assert scan(parts, photos)[0].total == 1
    assert [row["error"] for row in kept(parts)] == [None] * 6


def test_a_source_named_twice_is_looked_at_once(tmp_path, photos):
    assert scan(Parts(str(tmp_path / "rows")), photos, photos)[0].total == 6


def test_rows_of_another_model_do_not_come_among_them(tmp_path):
    parts = Parts(str(tmp_path / "rows"))
    parts.settle({"weights": "w", "tiles": "1x1"})
    with pytest.raises(ArchiveError, match="holds an archive with another tiles"):
        parts.settle({"weights": "w", "tiles": "2x2"})


def test_a_damaged_file_of_rows_is_named(tmp_path, photos):
    parts = Parts(str(tmp_path / "rows"))
    scan(parts, photos)
    Path(parts.paths()[0]).write_bytes(b"PAR1")
    with pytest.raises(ArchiveError, match=r"part-.* is damaged .*: delete it"):
        parts.done()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.6, "1 min 0 s"), (3725, "1 h 2 min"), (2 * 86400 + 7200, "2 d 2 h")],
)
def test_a_time_is_said_in_the_units_that_matter(seconds, said):
    assert duration(seconds) == said


# --- a bucket -------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch) -> Iterator[str]:
    """A bucket with two photos and a shard; its address without the path."""
    for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)
    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="till")
        for name in ("2026/a.png", "2026/b.png"):
            client.put_object(Bucket="till", Key=name, Body=png())
        client.put_object(Bucket="till", Key="other/c.png", Body=png())
        yield f"s3://till/{{}}?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
    finally:
        server.stop()


def test_a_bucket_is_read_and_written_like_a_folder(bucket):
    parts = Parts(bucket.format("rows"))
    parts.settle({"weights": "w"})
    progress = scanning.scan([bucket.format("2026")], parts, look_here, lambda _: None)
    assert progress.over == 2
    assert [row["photo"] for row in kept(parts)] == ["s3://till/2026/a.png", "s3://till/2026/b.png"]
    again = Parts(bucket.format("rows"))
    assert scanning.scan([bucket.format("2026")], again, look_here, lambda _: None).total == 0


def test_a_bucket_that_refuses_says_so(bucket):
    with pytest.raises(ArchiveError, match=r"s3://elsewhere/2026 cannot be listed: .*keys may list"):
        names(bucket.replace("till", "elsewhere").format("2026"))


# --- the answers ----------------------------------------------------------------------------------------


def test_a_photo_gets_the_answer_that_the_api_gives(tmp_path):
    starter = ROOT / "weights" / "starter"
    with live_server(create_app(api_settings(model_dir=starter))) as (client, _):
        sent = [("file", (path.name, path.read_bytes(), "image/jpeg")) for path in PHOTOS]
        answers = client.post("/predict", files=sent).raise_for_status().json()["results"]
    looker = Looker(runtimes.load(starter, threads=1), Wanted(), ahead=1)
    photos = [table for path in PHOTOS for table in listed(str(path)) if isinstance(table, pa.Table)]
    rows = list(looker.rows(row for table in photos for row in table.to_pylist()))
    looker.close()
    assert any(answer["detections"] for answer in answers)
    for row, answer in zip(rows, answers, strict=True):
        found = answer["detections"]
        assert (row["width"], row["height"]) == tuple(answer["image_size"].values())
        assert (row["verdict"], row["alarm"], row["notes"]) == (answer["verdict"], answer["alarm"], [])
        assert row["labels"] == [one["label"] for one in found]
        assert row["dangerous"] == [one["dangerous"] for one in found]
        # As many threads as cores add in another order than one.
        assert row["scores"] == pytest.approx([one["score"] for one in found], abs=1e-4)
        boxes = [[one["box"][side] for side in ("x1", "y1", "x2", "y2")] for one in found]
        assert np.allclose(np.reshape(row["boxes"], (-1, 4)), np.reshape(boxes, (-1, 4)), atol=0.05)


# --- Ray ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_actor_that_dies_loses_no_photo(tmp_path, small_model):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:02}.png").write_bytes(png(colour=(5 * i, 90, 120)))
    (photos,) = listed(str(folder))
    assert isinstance(photos, pa.Table)
    engine.connect(None)
    try:
        rows: list[dict[str, Any]] = []
        wanted = Wanted(runtime="torch")
        for table in engine.look(photos, small_model, wanted, actors=1, tell=lambda _: None):
            if not rows:
                (actor,) = actors()
                actor.kill()
            rows += table.to_pylist()
    finally:
        engine.disconnect()
    assert sorted(row["photo"] for row in rows) == [f"{folder}/{i:02}.png" for i in range(40)]
    assert {row["error"] for row in rows} == {None}
    assert {row["runtime"] for row in rows} == {"torch float"}


def actors() -> list[psutil.Process]:
    """The processes of the pool."""
    mine = psutil.Process(os.getpid()).children(recursive=True)
    return [process for process in mine if "MapWorker" in " ".join(process.cmdline())]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scan", "nowhere", "--model", "weights/starter"], "nowhere cannot be listed"),
        (["scan", "photos", "--model", "photos"], "model.json"),
        (
            ["scan", "photos", "--model", "weights/starter", "--cluster", "127.0.0.1:1"],
            "no Ray cluster answers",
        ),
    ],
)
def test_bad_input_is_a_sentence(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(engine, "connect", _refuse_addresses)
    monkeypatch.setattr(engine, "disconnect", lambda: None)
    with pytest.raises(SystemExit) as ended:
        archive.main([*words, "--output", str(tmp_path / "rows")])
    assert said in str(ended.value)


def test_a_cluster_that_does_not_answer_may_want_its_token(monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(ArchiveError, match=r"at 10\.0\.0\.1:6379 .*ray start --head.*RAY_AUTH_MODE=token"):
        engine.connect("10.0.0.1:6379")


def _refuse_addresses(cluster):
    if cluster is not None:
        raise ArchiveError("no Ray cluster answers")


# --- how a picture looks --------------------------------------------------------------------------------


def test_a_picture_is_as_bright_as_its_mean_shade():
    half = np.zeros((300, 400, 3), np.uint8)
    half[:, 200:] = 200
    assert appearance(half).brightness == pytest.approx(100, abs=1)
    assert appearance(np.full((7, 5, 3), 90, np.uint8)).brightness == pytest.approx(90, abs=0.01)


def test_a_plain_picture_has_no_sharpness_and_a_blurred_one_less():
    assert appearance(np.full((200, 200, 3), 90, np.uint8)).sharpness == 0
    assert appearance(np.full((1, 1, 3), 90, np.uint8)).sharpness == 0
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    blurred = ((noise[1:, 1:].astype(int) + noise[:-1, :-1]) // 2).astype(np.uint8)
    assert 0 < appearance(blurred).sharpness < appearance(noise).sharpness
