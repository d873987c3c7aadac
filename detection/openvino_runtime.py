"""Runs an export with OpenVINO, on the processor. The only file of the serving path that imports openvino."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detection.card import DetectorError
from detection.exported import Seen
from schemas import Precision

# OpenVINO and NNCF report each import and conversion to their maker, unless they lack the package for it.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402

Floats = NDArray[np.float32]
SUFFIX = ".xml"  # of a graph's file; its weights lie beside it, in .bin
# One for the process, never let go: where a processor has AMX, a core moves the signal stack of the thread
# that first compiles with it, and back when it ends. Cores that end in another order than they began leave a
# stack that is gone, and the next signal ends the process.
CORE = ov.Core()


def read_graphs(files: Mapping[str, Path]) -> dict[str, ov.Model]:
    """Read graphs by their part's name.

    Raises:
        DetectorError: OpenVINO cannot read a file.
    """
    graphs = {}
    for part, path in files.items():
        try:
            graphs[part] = CORE.read_model(path)
        except RuntimeError as error:
            raise DetectorError(
                f"OpenVINO {ov.__version__} cannot read {path}: {first_line(error)}"
            ) from error
    return graphs


def first_line(error: Exception) -> str:
    """Return the last thing that a many-lined message of OpenVINO says."""
    return str(error).strip().rpartition("\n")[2].strip()


class OpenVinoGraphs:
    """The parts of a network, compiled for this processor.

    Args:
        graphs: look, head and, where there is one, second_look.
        precision: int8 leaves what is not quantised in float32; float computes in bfloat16 where the
            processor multiplies it.
        threads: processor threads; 0 for all.
        has_int8: whether the processor multiplies int8. On others sums of products would overflow, so that
            what is quantised is computed in float32 there.
    """

    def __init__(
        self, graphs: Mapping[str, ov.Model], *, precision: Precision, threads: int = 0, has_int8: bool = True
    ) -> None:
        options: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        if precision == "int8":
            options["INFERENCE_PRECISION_HINT"] = "f32"
        if not has_int8:
            options["LP_TRANSFORMS_MODE"] = False  # OpenVINO's documents do not name it
        try:
            self._compiled = {
                part: CORE.compile_model(graph, "CPU", options) for part, graph in graphs.items()
            }
        except RuntimeError as error:
            raise DetectorError(
                f"OpenVINO {ov.__version__} cannot compile the export: {first_line(error)}"
            ) from error
        self._own = threading.local()

    def _request(self, part: str) -> ov.InferRequest:
        """Return this thread's own request: what it answers stays until the thread asks again."""
        requests: dict[str, ov.InferRequest] = self._own.__dict__
        if part not in requests:
            requests[part] = self._compiled[part].create_infer_request()
        return requests[part]

    def look(self, batch: Floats) -> Seen:
        """Run backbone, pyramid and RPN head; the table stays where OpenVINO put it."""
        request = self._request("look")
        request.infer([batch], share_inputs=True, share_outputs=True)
        table, *levels = request.output_tensors
        values, half = [one.data for one in levels], len(levels) // 2
        return Seen(table, values[:half], values[half:])

    def head(self, table: object, index: NDArray[np.int32], weight: Floats) -> tuple[Floats, Floats]:
        """Run RoIAlign and box head."""
        logits, deltas = self._request("head").infer([table, index, weight], share_inputs=True).values()
        return logits, deltas

    def second_look(self, crops: Floats) -> Floats:
        """Run the crop classifier."""
        (logits,) = self._request("second_look").infer([crops], share_inputs=True).values()
        return np.asarray(logits)
