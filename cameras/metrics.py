"""What Prometheus reads of a watcher of cameras."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cameras.events import LensTrouble
from cameras.watcher import CameraState, Watcher
from schemas import Verdict

VERDICTS: tuple[Verdict, ...] = ("alarm", "unsure")


class _Metrics(Collector):
    """What Prometheus reads, counted when it asks."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def collect(self) -> Iterator[Metric]:
        states = self._watcher.states()
        gauges: dict[str, tuple[str, dict[str, float | None]]] = {
            "watch_camera_up": (
                "1 while the camera's pictures come",
                {name: float(state.stream.problem is None) for name, state in states.items()},
            ),
            "watch_camera_looked_at": (
                "1 while its pictures come, the API looks at them and what it finds can be kept",
                {
                    name: float(state.stream.problem is None and state.problem is None)
                    for name, state in states.items()
                },
            ),
            "watch_events_kept": (
                "1 while what the camera confirms can be written into the database of events",
                {name: float(state.is_kept) for name, state in states.items()},
            ),
            "watch_frames_per_second": (
                "Frames looked at, over the last ten seconds",
                {name: state.figures.looks_per_second for name, state in states.items()},
            ),
            "watch_delay_seconds": (
                "From the last frame's coming to the API's answer",
                {name: state.figures.delay_s for name, state in states.items()},
            ),
            "watch_last_frame_age_seconds": (
                "Since the last frame came",
                {name: state.stream.age_s for name, state in states.items()},
            ),
        }
        for name, (help_text, values) in gauges.items():
            gauge = GaugeMetricFamily(name, help_text, labels=["camera"])
            for camera, value in values.items():
                if value is not None:
                    gauge.add_metric([camera], value)
            yield gauge
        yield from self._counters(states)
        told = GaugeMetricFamily(
            "watch_destination_up", "1 while who is told of alarms gets them", labels=["destination"]
        )
        for destination, problem in self._watcher.told().items():
            told.add_metric([destination], float(problem is None))
        yield told

    @staticmethod
    def _counters(states: dict[str, CameraState]) -> Iterator[Metric]:
        frames = CounterMetricFamily("watch_frames", "Frames that came", labels=["camera"])
        looks = CounterMetricFamily("watch_looks", "Frames that the API looked at", labels=["camera"])
        lost = CounterMetricFamily("watch_reconnects", "Times a camera was lost", labels=["camera"])
        refused = CounterMetricFamily(
            "watch_refusals", "Frames that the API would not look at, after retries",
            labels=["camera", "status"],
        )  # fmt: skip
        confirmed = CounterMetricFamily(
            "watch_confirmed", "Objects that frames confirmed: alarms, suspicions",
            labels=["camera", "verdict"],
        )  # fmt: skip
        lens = GaugeMetricFamily(
            "watch_lens_trouble", "1 while a camera gives pictures and sees nothing",
            labels=["camera", "kind"],
        )  # fmt: skip
        troubles = CounterMetricFamily(
            "watch_lens_troubles", "Times a camera began to see nothing", labels=["camera", "kind"]
        )
        for name, state in states.items():
            figures = state.figures
            frames.add_metric([name], state.stream.pictures)
            looks.add_metric([name], figures.looks)
            lost.add_metric([name], state.stream.reconnects)
            for code in sorted({429, 503, *figures.refusals}):
                refused.add_metric([name, str(code)], figures.refusals.get(code, 0))
            for verdict, count in _by_verdict(state).items():
                confirmed.add_metric([name, verdict], count)
            for kind in get_args(LensTrouble):
                lens.add_metric([name, kind], float(state.lens == kind))
                troubles.add_metric([name, kind], figures.troubles.get(kind, 0))
        yield from (frames, looks, lost, refused, confirmed, lens, troubles)


def _by_verdict(state: CameraState) -> dict[str, int]:
    return {verdict: state.figures.confirmed.get(verdict, 0) for verdict in VERDICTS}


def metrics(watcher: Watcher) -> CollectorRegistry:
    """Return a registry of what Prometheus reads of a watcher and its process."""
    registry = CollectorRegistry()
    registry.register(_Metrics(watcher))
    ProcessCollector(registry=registry)
    return registry
