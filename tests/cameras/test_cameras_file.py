"""cameras.toml: what it takes, what it refuses in which sentence, and what it never shows."""

from __future__ import annotations

from datetime import time
from pathlib import Path

import pytest
from camera_parts import ROOT, camera

from cameras.config import ConfigError, camera_at, is_inside, load_cameras, of_shard, shown_address
from schemas import Box, Detection, ImageSize

LOGIN = {"TILL_USER": "keeper", "TILL_PASSWORD": "p@ss/w:rd", "DOOR_USER": "a", "DOOR_PASSWORD": "b"}


def load(tmp_path: Path, text: str, **environment: str):
    path = tmp_path / "cameras.toml"
    path.write_text(text)
    return load_cameras(path, environment)


def refusal(tmp_path: Path, text: str, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **environment)
    return str(caught.value)


def test_the_example_is_read():
    till, entrance = load_cameras(ROOT / "cameras.example.toml", LOGIN)
    assert (till.name, till.transport, till.rate, till.tiles, till.language) == (
        "till",
        "tcp",
        2.0,
        "1x1",
        "en",
    )
    assert (entrance.transport, entrance.rate, entrance.tiles, entrance.language) == ("udp", 4.0, "2x2", "ru")
    assert entrance.quiet == ((time(22), time(7)),)


def test_a_password_comes_from_the_environment_whole_and_is_shown_nowhere():
    till, _ = load_cameras(ROOT / "cameras.example.toml", LOGIN)
    assert till.address.get_secret_value() == "rtsp://keeper:p%40ss%2Fw%3Ard@192.168.1.20/stream1"
    assert till.shown == "rtsp://...@192.168.1.20/stream1"
    for shown in (repr(till), str(till), till.model_dump_json()):
        assert "p@ss" not in shown
        assert "p%40ss" not in shown


def test_a_host_and_a_path_from_the_environment_stay_as_they_are(tmp_path):
    text = '[[camera]]\nname = "a"\naddress = "rtsp://${LOGIN}@${PLACE}/${PATH_THERE}?key=${KEY}"\n'
    values = {"LOGIN": "u", "PLACE": "10.0.0.5:554", "PATH_THERE": "live/1", "KEY": "a&b"}
    (found,) = load(tmp_path, text, **values)
    assert found.address.get_secret_value() == "rtsp://u@10.0.0.5:554/live/1?key=a%26b"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://10.0.0.5:554/live", "rtsp://10.0.0.5:554/live"),
        ("rtsp://user:secret@10.0.0.5/live", "rtsp://...@10.0.0.5/live"),
        ("rtsp://user:sec/ret@10.0.0.5/live", "rtsp://...@10.0.0.5/live"),
        ("http://10.0.0.5/cgi?user=a&pwd=secret", "http://10.0.0.5/cgi"),
        ("/dev/video0", "/dev/video0"),
        ("clips/shop.mp4", "clips/shop.mp4"),
    ],
)
def test_an_address_is_shown_without_login_and_query(address, shown):
    assert shown_address(address) == shown


ONE = '[[camera]]\nname = "till"\naddress = "clip.mp4"\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "expected one [[camera]] or more"),
        ("camera = 3", "expected one [[camera]] or more"),
        ("[[camera]", "expected TOML"),
        ("[[kamera]]\nname = 'a'", "expected [[camera]] only, got kamera"),
        ("[[camera]]\nname = 'till'", "camera till: address: Field required"),
        (ONE + ONE, "two cameras are called till"),
        (ONE + "rate = 0", "camera till: rate: Input should be greater than 0"),
        (ONE + "rates = 2", "camera till: rates: Extra inputs are not permitted"),
        (ONE + "zones = [[[0, 0], [1, 1]]]", "camera till: zones.0: Tuple should have at least 3 items"),
        (
            ONE + "masks = [[[0, 0], [640, 0], [0, 480]]]",
            "camera till: masks.0.1.0: Input should be less than",
        ),
        (ONE + "quiet = ['at night']", 'expected hours such as "22:00-07:00"'),
        (ONE + "quiet = ['25:00-07:00']", "expected hours from 00:00 to 23:59"),
        (ONE + "needed = 6", "needed (6) is more than window (5)"),
        (ONE + "smallest = 0.5\nlargest = 0.1", "smallest must be less than largest"),
        (ONE + "language = 'fr'", "expected one of en, ru"),
        (ONE + "tiles = '4x4'", "camera till: tiles: Input should be"),
        (ONE + "shown = 'x'", "camera till: shown: no such setting"),
        ("[[camera]]\nname = 'a/b'\naddress = 'clip.mp4'", "camera a/b: name: String should match"),
        (
            "[[camera]]\nname = 'a'\naddress = 'ftp://x/y'",
            "expected rtsp, rtsps, http, https or a path, got ftp",
        ),
        ("[[camera]]\nname = 'a'\naddress = 'rtsp://${NO_SUCH}@x/y'", "set NO_SUCH in the environment"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence_that_names_the_camera(tmp_path, text, sentence):
    assert sentence in refusal(tmp_path, text)


def test_all_that_is_wrong_is_said_at_once_and_no_value_is_repeated(tmp_path):
    text = (
        "[[camera]]\nname = 'a'\naddress = 'rtsp://u:${PASSWORD}@x'\nrate = 99\n"
        "[[camera]]\nname = 'b'\naddress = 'ftp://u:${PASSWORD}@x'\n"
    )
    said = refusal(tmp_path, text, PASSWORD="hunter2")
    assert len(said.splitlines()) == 2
    assert "hunter2" not in said


def test_a_file_that_is_not_there_names_the_example(tmp_path):
    with pytest.raises(ConfigError, match=r"No such file.*cameras\.example\.toml"):
        load_cameras(tmp_path / "absent.toml", {})


# --- what counts -------------------------------------------------------------------------------------

SIZE = ImageSize(width=1000, height=500)


def at(x1: float, y1: float, x2: float, y2: float) -> Detection:
    return Detection(label="knife", dangerous=True, score=0.9, box=Box(x1=x1, y1=y1, x2=x2, y2=y2))


def test_zones_and_masks_go_by_the_middle_of_a_box():
    lower_half = ((0, 0.5), (1, 0.5), (1, 1), (0, 1))
    right_edge = ((0.9, 0), (1, 0), (1, 1), (0.9, 1))
    found = camera("x", zones=(lower_half,), masks=(right_edge,))
    assert found.counts(at(100, 240, 200, 300), SIZE)  # its middle is at .15, .54
    assert not found.counts(at(100, 200, 200, 260), SIZE)  # at .15, .46
    assert not found.counts(at(900, 300, 960, 400), SIZE)  # at .93, .7
    assert camera("x").counts(at(900, 0, 960, 40), SIZE)


def test_the_area_of_a_box_must_be_in_between():
    found = camera("x", smallest=0.01, largest=0.25)
    assert found.counts(at(0, 0, 100, 50), SIZE)  # 5,000 of 500,000: the least
    assert not found.counts(at(0, 0, 99, 50), SIZE)
    assert found.counts(at(0, 0, 500, 250), SIZE)
    assert not found.counts(at(0, 0, 501, 250), SIZE)


def test_a_polygon_with_a_bay_does_not_hold_the_bay():
    bay = ((0, 0), (1, 0), (1, 1), (0.5, 0.2), (0, 1))
    assert is_inside((0.5, 0.1), bay)
    assert not is_inside((0.5, 0.6), bay)
    assert is_inside((0.1, 0.6), bay)


@pytest.mark.parametrize(
    ("hours", "now", "is_quiet"),
    [
        ("22:00-07:00", time(23), True),
        ("22:00-07:00", time(6, 59), True),
        ("22:00-07:00", time(7), False),
        ("22:00-07:00", time(21, 59), False),
        ("12:00-13:00", time(12, 30), True),
        ("12:00-13:00", time(13), False),
    ],
)
def test_quiet_hours_may_reach_over_midnight(hours, now, is_quiet):
    assert camera("x", quiet=(hours,)).is_quiet(now) is is_quiet


# --- several watchers --------------------------------------------------------------------------------


def test_watchers_share_out_all_cameras_and_none_twice():
    cameras = [camera("x", name=f"camera {i}") for i in range(60)]
    shares = [[each.name for each in of_shard(cameras, f"{i}/3")] for i in (1, 2, 3)]
    assert sorted(name for share in shares for name in share) == sorted(each.name for each in cameras)
    assert all(10 <= len(share) <= 30 for share in shares)


def test_a_camera_stays_where_it_is_when_another_is_added():
    cameras = [camera("x", name=f"camera {i}") for i in range(20)]
    assert set(of_shard(cameras[:-1], "2/3")) <= set(of_shard(cameras, "2/3"))


@pytest.mark.parametrize("wrong", ["0/3", "4/3", "3", "a/b", "1/0"])
def test_a_shard_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match="expected a shard such as 1/3"):
        of_shard([], wrong)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("shop/clip.mp4", "clip.mp4"),
        ("(1) «копия».mp4", "1- -копия-.mp4"),
        ("..", "camera"),
        ("rtsp://keeper:hunter2@till/stream?key=hunter2", "camera"),
    ],
)
def test_an_address_alone_is_a_camera_with_a_name(address, name):
    found = camera_at(address, {})
    assert found.name == name
    assert "hunter2" not in found.shown


def test_an_address_alone_that_cannot_be_is_refused_without_its_password():
    with pytest.raises(ConfigError, match="expected rtsp") as caught:
        camera_at("ftp://keeper:hunter2@x", {})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="set TILL_PASSWORD in the environment"):
        camera_at("rtsp://keeper:${TILL_PASSWORD}@x", {})
