"""A process that runs and drops networks in OpenVINO can still be ended."""

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]

DROPPED_IN_THE_ORDER_THEY_WERE_MADE = dedent(
    """
    import faulthandler, gc, signal
    faulthandler.enable()  # a signal stack of Python's own, as in a test or under PYTHONFAULTHANDLER
    import openvino as ov
    from openvino import opset15 as ops
    from detection.openvino_runtime import OpenVinoGraphs

    def graphs():
        given = ops.parameter([1, 4], name="given")
        return OpenVinoGraphs({"look": ov.Model([ops.relu(given)], [given])}, precision="float", threads=1)

    networks = [graphs(), graphs(), graphs()]
    while networks:
        networks.pop(0)
        gc.collect()
    signal.signal(signal.SIGTERM, lambda *_: print("asked to end", flush=True))
    signal.raise_signal(signal.SIGTERM)
    """
)


def test_a_process_that_dropped_its_networks_hears_a_signal():
    ended = subprocess.run(
        [sys.executable, "-c", DROPPED_IN_THE_ORDER_THEY_WERE_MADE], cwd=ROOT, text=True, capture_output=True
    )
    assert (ended.stdout, ended.returncode) == ("asked to end\n", 0), ended.stderr
