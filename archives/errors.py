"""What can go wrong with an archive as a whole; what is wrong with one photo stands in its row."""

from __future__ import annotations


class ArchiveError(RuntimeError):
    """The archive cannot be looked at or reported on; the message says why and what to do."""
