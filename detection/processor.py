"""What this machine's processor is called, and what it multiplies in hardware."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}  # x86, then Arm


def multiplies_int8(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether the processor multiplies and sums int8 in one instruction.

    Without one, int8 takes several, is no faster than float, and may saturate: other numbers come out.
    Where a system does not tell, it is taken to: Apple's and Windows' machines of today do.
    """
    flags = _fields(cpuinfo).get("flags") or _fields(cpuinfo).get("Features")
    return flags is None or bool(INT8_FLAGS & set(flags.split()))


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """Return the processor's name as its maker gives it, as far as the system tells."""
    return _fields(cpuinfo).get("model name") or platform.processor() or platform.machine()


def _fields(cpuinfo: Path) -> dict[str, str]:
    """Return the first processor's fields; none where there is no such file."""
    try:
        first = cpuinfo.read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
