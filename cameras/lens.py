"""Whether a camera can see at all: a lens that is black, covered, or a picture that stands still."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cameras.events import LensTrouble
from detection import imaging

KINDS: dict[str, LensTrouble] = {imaging.TOO_DARK: "black", imaging.BLANK: "covered"}
LASTS_S = 5.0  # black or covered for so long: one bad picture is none
FROZEN_S = 60.0  # a living picture changes within it: a sensor's noise alone does that
SAME_WITHIN = 1  # shades of 256 by which coding one picture again may change it
SAMPLES = 60  # a side: pixels compared


class Lens:
    """Looks at one camera's pictures, one after another.

    Attributes:
        trouble: what hinders it now, None while it sees.
    """

    def __init__(self) -> None:
        self.trouble: LensTrouble | None = None
        self._unseen: tuple[LensTrouble, float] | None = None  # since when it shows nothing
        self._still: tuple[NDArray[np.int16], float] | None = None  # since when it shows the same

    def look(self, time_s: float, image: imaging.Image) -> LensTrouble | None:
        """Return what hinders the camera, by this picture and those before it; time_s in their order."""
        still_s = self._still_for(time_s, image)
        notes = imaging.notes_on(image)
        kind = KINDS[notes[0]] if notes else None
        if kind is None:
            self._unseen = None
            self.trouble = "frozen" if still_s >= FROZEN_S else None
            return self.trouble
        if self._unseen is None or self._unseen[0] != kind:
            self._unseen = kind, time_s
        lasts = time_s - self._unseen[1] >= LASTS_S
        self.trouble = kind if lasts else None
        return self.trouble

    def _still_for(self, time_s: float, image: imaging.Image) -> float:
        """Return for how many seconds every sampled pixel has been what it is now."""
        height, width = image.shape[:2]
        samples = image[:: max(1, height // SAMPLES), :: max(1, width // SAMPLES)].astype(np.int16)
        if self._still is not None:
            before, since = self._still
            if before.shape == samples.shape and np.abs(before - samples).max() <= SAME_WITHIN:
                return time_s - since
        self._still = samples, time_s
        return 0.0
