"""Runs an export with ONNX Runtime, on the processor. The only file that imports onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from detection.card import DetectorError
from detection.exported import Seen

Floats = NDArray[np.float32]
SUFFIX = ".onnx"


class OnnxGraphs:
    """The parts of a network, as sessions of ONNX Runtime.

    Args:
        files: of look, head and, where there is one, second_look.
        threads: processor threads; 0 for all.
    """

    def __init__(self, files: Mapping[str, Path], *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others want the cores too
        options.log_severity_level = 3
        self._sessions: dict[str, Any] = {}
        for part, path in files.items():
            try:
                self._sessions[part] = onnxruntime.InferenceSession(
                    path, options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # its own classes are no part of its public names
                raise DetectorError(
                    f"ONNX Runtime {onnxruntime.__version__} cannot read {path}: {error}"
                ) from error

    def _run(self, part: str, *inputs: object) -> list[Floats]:
        session = self._sessions[part]
        names = [one.name for one in session.get_inputs()]
        outputs: list[Floats] = session.run(None, dict(zip(names, inputs, strict=True)))
        return outputs

    def look(self, batch: Floats) -> Seen:
        """Run backbone, pyramid and RPN head."""
        table, *levels = self._run("look", batch)
        half = len(levels) // 2
        return Seen(table, levels[:half], levels[half:])

    def head(self, table: object, index: NDArray[np.int32], weight: Floats) -> tuple[Floats, Floats]:
        """Run RoIAlign and box head."""
        logits, deltas = self._run("head", table, index, weight)
        return logits, deltas

    def second_look(self, crops: Floats) -> Floats:
        """Run the crop classifier."""
        return self._run("second_look", crops)[0]
