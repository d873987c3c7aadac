"""Alert rules and board as Prometheus itself reads them: over a real watcher, and over hours made up."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from camera_parts import ROOT, api, camera, store, write_clip
from conftest import answers, free_port, running, wait_until

from cameras.alerts import Courier
from cameras.status import StatusServer
from cameras.watcher import Watcher
from tests.cameras.test_watcher import Heard, watched

__all__ = ["api", "store"]  # fixtures

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
pytestmark = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL), reason="needs Debian's prometheus: apt-get install prometheus"
)
MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "cameras.rules.yaml"
COMPARED = re.compile(r" (==|>) [\d.]+$")
# What makes each alert fire, and after how many minutes: series as promtool writes them, a value a minute.
ONE = '{job="watch", instance="w:8600", camera="till"%s}'
FIRES: dict[str, tuple[int, dict[str, str]]] = {
    "WatcherIsDown": (2, {'up{job="watch", instance="w:8600"}': "0x9"}),
    "CameraIsLost": (2, {"watch_camera_up" + ONE % "": "0x9"}),
    "NobodyLooksAtCamera": (3, {"watch_camera_up" + ONE % "": "1x9", "watch_looks_total" + ONE % "": "7x9"}),
    "EventsAreNotKept": (1, {"watch_events_kept" + ONE % "": "0x9"}),
    "CameraSeesNothing": (1, {"watch_lens_trouble" + ONE % ', kind="black"': "1x9"}),
    "CameraIsLookedAtLate": (5, {"watch_delay_seconds" + ONE % "": "5.1x9"}),
    "ApiRefusesPictures": (10, {"watch_refusals_total" + ONE % ', status="503"': "0+7x19"}),
    "CameraComesAndGoes": (11, {"watch_reconnects_total" + ONE % "": "0+1x60"}),
    "NobodyIsToldOfAlarms": (
        5, {'watch_destination_up{job="watch", instance="w:8600", destination="mqtt"}': "0x9"},
    ),
}  # fmt: skip
QUIET = {  # the same series of a watcher that is well
    'up{job="watch", instance="w:8600"}': "1x70",
    "watch_camera_up" + ONE % "": "1x70",
    "watch_looks_total" + ONE % "": "0+120x70",
    "watch_events_kept" + ONE % "": "1x70",
    "watch_lens_trouble" + ONE % ', kind="black"': "0x70",
    "watch_delay_seconds" + ONE % "": "0.4x70",
    "watch_refusals_total" + ONE % ', status="503"': "0+1x70",
    "watch_reconnects_total" + ONE % "": "0x60 10x10",
    'watch_destination_up{job="watch", instance="w:8600", destination="mqtt"}': "1x70",
}


def promtool(*words: object, given: str = "") -> str:
    """Run promtool, expect that it is content, and return what it says."""
    ended = subprocess.run(
        [str(PROMTOOL), *map(str, words)], input=given, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return group["rules"]


def alerts_at(folder: Path, minutes: int, series: dict[str, str]) -> str:
    """Return what promtool says of the alerts that fire then, where none is expected."""
    test = {
        "rule_files": [str(RULES)],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [
                    {"eval_time": f"{minutes}m", "alertname": rule["alert"], "exp_alerts": []}
                    for rule in rules()
                ],
            }
        ],
    }
    path = folder / "rules.test.yaml"
    path.write_text(yaml.safe_dump(test))
    ended = subprocess.run([str(PROMTOOL), "test", "rules", str(path)], text=True, capture_output=True)
    return ended.stdout + ended.stderr


def test_the_rules_are_rules():
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES)


def test_each_rule_is_tried():
    assert FIRES.keys() == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("alert", FIRES)
def test_what_a_rule_is_for_makes_it_fire_in_its_time_and_says_where(tmp_path, alert):
    minutes, series = FIRES[alert]
    (rule,) = [rule for rule in rules() if rule["alert"] == alert]
    early = alerts_at(tmp_path, max(0, minutes - 1), series)
    said = alerts_at(tmp_path, minutes, series)
    assert f'alertname="{alert}"' not in early or minutes == 0, early
    assert f'alertname="{alert}"' in said
    assert f'severity="{rule["labels"]["severity"]}"' in said
    (summary,) = set(re.findall(r'summary="((?:[^"\\]|\\.)*)"', said)) or {""}
    for shown, value in (("camera", "till"), ("instance", "w:8600"), ("kind", "black"), ("status", "503")):
        if f"$labels.{shown} " in rule["annotations"]["summary"]:
            assert value in summary
    assert "<no value>" not in summary


def test_a_watcher_that_is_well_raises_no_alert(tmp_path):
    assert "SUCCESS" in alerts_at(tmp_path, 65, QUIET)


# --- over a real watcher ------------------------------------------------------------------------------


@pytest.fixture
def watcher_url(api, store, tmp_path) -> Iterator[str]:
    clip = write_clip(tmp_path / "clip.mp4", range(20, 220, 10))
    with watched(api, camera(clip, rate=10), store=store, couriers=[Courier(store, Heard())]) as watcher:
        server = serve(watcher)
        wait_until(lambda: watcher.states()["till"].confirmed)
        yield server.url
        server.close()


def serve(watcher: Watcher) -> StatusServer:
    server = StatusServer(watcher, "127.0.0.1", free_port())
    server.start()
    return server


def test_what_the_watcher_says_is_well_formed(watcher_url):
    said = promtool("check", "metrics", given=requests.get(f"{watcher_url}/metrics", timeout=60).text)
    assert said == ""


def test_prometheus_evaluates_every_rule_and_every_panel_of_the_board(watcher_url, tmp_path):
    """A comparison may find nothing; what is compared is there."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "watch", "static_configs": [{"targets": [watcher_url.removeprefix("http://")]}]}
        ],
    }
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    promtool("check", "config", path)
    command = [
        str(PROMETHEUS), f"--config.file={path}", f"--storage.tsdb.path={tmp_path / 'series'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    log = tmp_path / "prometheus.log"

    def found(expression: str) -> list[dict[str, Any]]:
        answer = requests.get(f"{url}/api/v1/query", params={"query": expression}, timeout=60).json()
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    with running(command, log, ready=lambda: answers(f"{url}/-/ready"), cwd=tmp_path) as prometheus:
        wait_until(
            lambda: found("min(count_over_time(watch_camera_up[1m])) > 2"), process=prometheus, log=log
        )
        board = json.loads((MONITORING / "cameras.grafana.json").read_text())
        asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
        asked += [part for rule in rules() for part in rule["expr"].split(" and on (instance, camera) ")]
        for expression in asked:
            assert found(COMPARED.sub("", expression).replace("$camera", "till|.*x")), expression
        names = {each["metric"]["camera"] for each in found("group by (camera) (watch_camera_up)")}
        assert names == {"till"}  # what the board's list of cameras asks for

        def evaluated() -> list[dict[str, Any]]:
            (group,) = requests.get(f"{url}/api/v1/rules", timeout=60).json()["data"]["groups"]
            return [] if any(rule["health"] == "unknown" for rule in group["rules"]) else group["rules"]

        seen = wait_until(evaluated, process=prometheus, log=log)
    assert {rule["name"]: rule["health"] for rule in seen} == {rule["alert"]: "ok" for rule in rules()}
