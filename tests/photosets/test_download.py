"""Fetching one folder of a repository: partial, sparse, resumable. The repository is a local bare one."""

import subprocess
import sys
from pathlib import Path

import pytest

from photosets import download
from photosets.download import DownloadError, download_folder

ROOT = Path(__file__).parents[2]
PARENT = "Weapons and similar handled objects"
NAME = "Sohas_weapon-Detection"
IMAGES = [f"images/armas ({number}).jpg" for number in range(7)]


def git(folder: Path, *arguments: str) -> str:
    names = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *names, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def url(tmp_path: Path) -> str:
    source = tmp_path / "source"
    for name in (*(f"{PARENT}/{NAME}/{image}" for image in IMAGES), "Knife_detection/big.jpg", "README.md"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode() * 50)
    git(source, "init", "--quiet")
    git(source, "add", "--all")
    git(source, "commit", "--quiet", "--message", "all")
    git(tmp_path, "clone", "--quiet", "--bare", "source", "bare.git")
    for key in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
        git(tmp_path / "bare.git", "config", key, "true")
    return (tmp_path / "bare.git").as_uri()


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def contents_present(clone: Path) -> int:
    """How many blobs the clone has fetched."""
    kinds = git(clone, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)")
    return kinds.split().count("blob")


def test_only_the_folder_and_the_readme_are_fetched(url, tmp_path):
    steps = []
    folder = download_folder(url, NAME, tmp_path / "data", progress=lambda *step: steps.append(step))
    assert folder == tmp_path / "data" / PARENT / NAME
    assert files(folder) == set(IMAGES)
    assert (folder / IMAGES[3]).read_bytes() == f"{PARENT}/{NAME}/{IMAGES[3]}".encode() * 50
    fetched = {name for name in files(tmp_path / "data") if not name.startswith(".git/")}
    assert fetched == {"README.md", *(f"{PARENT}/{NAME}/{image}" for image in IMAGES)}
    assert contents_present(tmp_path / "data") == len(IMAGES) + 1  # the rest of the repository stayed there
    assert git(tmp_path / "data", "status", "--porcelain") == ""
    assert steps == [(0, 7), (7, 7)]


class Unplugged(Exception):
    pass


def test_an_interrupted_download_goes_on_where_it_stopped(url, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "BATCH", 2)

    def unplug(present: int, wanted: int) -> None:
        if present == 4:
            raise Unplugged

    with pytest.raises(Unplugged):
        download_folder(url, NAME, tmp_path / "data", progress=unplug)
    (tmp_path / "data" / ".git" / "index.lock").touch()  # git was killed
    (tmp_path / "data" / PARENT / NAME / IMAGES[0]).write_bytes(b"half")
    (tmp_path / "data" / PARENT / NAME / IMAGES[1]).unlink()
    steps = []
    folder = download_folder(url, NAME, tmp_path / "data", progress=lambda *step: steps.append(step))
    assert steps[0] == (2, 7)
    assert steps[-1] == (7, 7)
    for image in IMAGES:
        assert (folder / image).read_bytes() == f"{PARENT}/{NAME}/{image}".encode() * 50


def test_a_complete_download_needs_no_network(url, tmp_path):
    download_folder(url, NAME, tmp_path / "data", progress=lambda *_: None)
    (tmp_path / "bare.git").rename(tmp_path / "away.git")
    steps = []
    download_folder(url, NAME, tmp_path / "data", progress=lambda *step: steps.append(step))
    assert steps == [(7, 7)]


def test_a_broken_connection_says_how_to_go_on(url, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "BATCH", 3)
    monkeypatch.setattr("time.sleep", lambda _: None)

    def cut(present: int, wanted: int) -> None:
        if present == 3:
            (tmp_path / "bare.git").rename(tmp_path / "away.git")

    with pytest.raises(DownloadError, match="Run the same command again"):
        download_folder(url, NAME, tmp_path / "data", progress=cut)
    (tmp_path / "away.git").rename(tmp_path / "bare.git")
    steps = []
    download_folder(url, NAME, tmp_path / "data", progress=lambda *step: steps.append(step))
    assert (steps[0], steps[-1]) == ((3, 7), (7, 7))


def test_a_folder_that_is_not_there_is_named(url, tmp_path):
    with pytest.raises(DownloadError, match="folder Absent"):
        download_folder(url, "Absent", tmp_path / "data", progress=lambda *_: None)


def test_an_address_that_does_not_answer_is_a_sentence(tmp_path):
    with pytest.raises(DownloadError, match="git fetch did not work"):
        download_folder((tmp_path / "absent").as_uri(), NAME, tmp_path / "data", progress=lambda *_: None)


def test_a_folder_with_other_files_is_left_alone(url, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    with pytest.raises(DownloadError, match="holds other files"):
        download_folder(url, NAME, tmp_path / "data", progress=lambda *_: None)
    assert files(tmp_path / "data") == {"thesis.txt"}


def test_another_repository_is_left_alone(url, tmp_path):
    git(tmp_path / "source", "status")
    before = (tmp_path / "source" / ".git" / "config").read_text()
    with pytest.raises(DownloadError, match="choose another folder"):
        download_folder(url, NAME, tmp_path / "source", progress=lambda *_: None)
    assert (tmp_path / "source" / ".git" / "config").read_text() == before


def test_ones_own_full_clone_keeps_all_its_folders_and_changes(url, tmp_path):
    git(tmp_path, "clone", "--quiet", url, "own")
    own = tmp_path / "own"
    (own / "README.md").write_text("my notes")
    (own / PARENT / NAME / IMAGES[0]).write_bytes(b"my own photograph")
    (own / PARENT / NAME / IMAGES[1]).unlink()
    before = files(own)
    steps = []
    folder = download_folder(url, NAME, own, progress=lambda *step: steps.append(step))
    assert files(folder) == set(IMAGES)
    assert before - files(own) == set()
    assert (own / "README.md").read_text() == "my notes"
    assert (folder / IMAGES[0]).read_bytes() == b"my own photograph"
    assert (folder / IMAGES[1]).read_bytes() == f"{PARENT}/{NAME}/{IMAGES[1]}".encode() * 50
    assert steps == [(6, 7), (7, 7)]


@pytest.mark.parametrize("cone", ["--cone", "--no-cone"])
def test_ones_own_sparse_clone_shows_the_folder_beside_what_it_showed(url, tmp_path, cone):
    git(tmp_path, "clone", "--quiet", "--filter=blob:none", "--sparse", url, "own")
    own = tmp_path / "own"
    git(own, "sparse-checkout", "set", cone, "Knife_detection")
    before = {name for name in files(own) if not name.startswith(".git/")}
    assert "Knife_detection/big.jpg" in before
    folder = download_folder(url, NAME, own, progress=lambda *_: None)
    assert files(folder) == set(IMAGES)
    assert before <= files(own)
    assert git(own, "status", "--porcelain") == ""


def test_a_second_folder_is_fetched_beside_the_first(url, tmp_path):
    for name in ("Knife_detection", NAME, NAME):
        download_folder(url, name, tmp_path / "data", progress=lambda *_: None)
    fetched = {name for name in files(tmp_path / "data") if not name.startswith(".git/")}
    assert fetched >= {"README.md", "Knife_detection/big.jpg", f"{PARENT}/{NAME}/{IMAGES[0]}"}


def test_without_git_it_says_so(url, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DownloadError, match="expected git"):
        download_folder(url, NAME, tmp_path / "data", progress=lambda *_: None)


def test_the_command_fetches_and_says_what_comes_next(url, tmp_path):
    command = [sys.executable, str(ROOT / "dataset.py"), "download", "data", "--url", url]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train.py --data data" in done.stdout
    assert files(tmp_path / "data" / PARENT / NAME) == set(IMAGES)
    again = subprocess.run(
        [*command[:-1], "file:///absent"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert again.returncode == 1
    assert again.stderr.strip().splitlines()[-1].startswith("error: data is a clone of")
