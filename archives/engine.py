"""Ray Data runs the lookers: a pool of actors on this machine's cores, or on those of a cluster."""

from __future__ import annotations

import atexit
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

# Ray's own C++ part tells on the terminal that a pool's arguments lie in memory, as they shall.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # noqa: TID251 - told to Ray, not read by us

# isort: split
import ray
from ray.data import ActorPoolStrategy, DataContext

from archives.errors import ArchiveError
from archives.looking import Looker, Wanted
from archives.rows import ROWS
from archives.sources import first_line
from detection import runtimes
from serving.cores import granted_cores

ROOT = Path(__file__).parents[1]
# What a node needs of the project is its code; the model travels by itself.
LEFT_AT_HOME = [".git", ".venv", "runs", "data", "mlflow-data", "weights", "photos", "tests", "*.mp4"]
FEWEST, MOST = 16, 256  # photos in one piece of work
PIECES = 8  # of work for each actor at least, so that none is idle for long at the end
AHEAD = {"cpu": 1, "cuda": 8}  # photos decoded beside the one looked at; a card waits for many

Model = dict[str, bytes]  # a model folder's files


class Actor:
    """One process of the pool: a detector of its own, on one core or one card."""

    def __init__(self, model: list[Any], wanted: Wanted) -> None:
        with tempfile.TemporaryDirectory(prefix="model-") as folder:
            unpack(ray.get(model[0]), Path(folder))
            threads = 1 if wanted.device == "cpu" else 0
            detector = runtimes.load(
                Path(folder), runtime=wanted.runtime, device=wanted.device, threads=threads
            )
        self._looker = Looker(detector, wanted, ahead=AHEAD[wanted.device])
        atexit.register(self._looker.close)

    def __call__(self, photos: pa.Table) -> pa.Table:
        """Look at some photos."""
        return pa.Table.from_pylist(list(self._looker.rows(photos.to_pylist())), schema=ROWS)


def packed(folder: Path) -> Model:
    """Return a model folder's files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unpack(model: Model, folder: Path) -> None:
    """Write a model folder."""
    for name, content in model.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def connect(cluster: str | None) -> None:
    """Join a Ray cluster, or start one of this machine's cores.

    Raises:
        ArchiveError: nobody answers there.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if cluster is None:
            ray.init(num_cpus=granted_cores(), include_dashboard=False, **quiet)
        else:
            code = {"working_dir": str(ROOT), "excludes": LEFT_AT_HOME}
            ray.init(cluster, runtime_env=code, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ArchiveError(
            f"no Ray cluster answers at {cluster or 'this machine'} ({first_line(error)}): start one with "
            "`ray start --head` and give its address, or leave out --cluster; one that runs may want its "
            "token: set RAY_AUTH_MODE=token here, where ~/.ray/auth_token is the same"
        ) from error


def disconnect() -> None:
    """Leave the cluster; end it if it was this machine's."""
    ray.shutdown()


def look(
    photos: pa.Table, model: Path, wanted: Wanted, *, actors: int, tell: Callable[[str], None]
) -> Iterator[pa.Table]:
    """Yield rows of photos as they come, in no order.

    An actor or a machine that ends is replaced, and what it was at is done again.

    Args:
        photos: of sources.LISTED.
        model: its folder.
        wanted: how to look.
        actors: how many; 0: one for each core, or card, of the cluster.
        tell: takes a sentence.

    Raises:
        ArchiveError: the actors cannot work at all.
    """
    resource = "CPU" if wanted.device == "cpu" else "GPU"
    count = actors or int(ray.cluster_resources().get(resource, 0))  # type: ignore[no-untyped-call]
    if not count:
        raise ArchiveError(f"the cluster has no {resource} to look with")
    tell(f"{len(photos):,} photos, {count} at once")
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    size = max(FEWEST, min(MOST, len(photos) // (PIECES * count)))
    pieces = [photos.slice(start, size) for start in range(0, len(photos), size)]
    needs: dict[str, Any] = {"num_cpus": 1} if wanted.device == "cpu" else {"num_cpus": 1, "num_gpus": 1}
    dataset = ray.data.from_arrow(pieces).map_batches(
        Actor,
        batch_format="pyarrow",
        batch_size=None,
        compute=ActorPoolStrategy(min_size=1, max_size=count, initial_size=count),
        fn_constructor_args=([ray.put(packed(model))], wanted),
        **needs,
    )
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except ray.exceptions.RayError as error:
        raise ArchiveError(f"the actors cannot go on: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return what an actor said last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:300]
