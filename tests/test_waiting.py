"""The tests' own waiting: over when it happened, over when it cannot happen any more, and told why."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import conftest
import pytest
from conftest import answers, free_port, running, stop, wait_until


def start(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], text=True, stdout=subprocess.PIPE)


def test_what_came_true_is_returned():
    said: Iterator[object] = iter([None, [], "ready"])
    assert wait_until(lambda: next(said)) == "ready"


def test_what_never_comes_true_fails_in_the_end(monkeypatch, tmp_path):
    monkeypatch.setattr(conftest, "LONGEST_S", 0.1)
    (tmp_path / "log").write_text("still loading")
    with pytest.raises(pytest.fail.Exception, match=r"did not happen in 0\.1 s:\nstill loading"):
        wait_until(lambda: False, log=tmp_path / "log")


def test_a_server_that_died_is_told_at_once_with_its_last_words(tmp_path):
    command = [sys.executable, "-c", "print('x' * 9000); raise SystemExit('no model here')"]
    server = running(command, tmp_path / "log", ready=lambda: False, cwd=tmp_path)
    with pytest.raises(pytest.fail.Exception, match=r"ended with 1(?s:.*)no model here"), server:
        pytest.fail("the block must not begin")


def test_what_a_process_did_before_it_ended_counts(tmp_path):
    process = start(f"open({str(tmp_path / 'made')!r}, 'w')")
    process.wait()
    assert wait_until((tmp_path / "made").exists, process=process)


def test_a_server_is_gone_after_its_block(tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    url = f"http://127.0.0.1:{port}"
    with running(command, tmp_path / "log", ready=lambda: answers(url), cwd=tmp_path) as process:
        assert process.poll() is None
    assert process.returncode is not None
    assert not answers(url)


def test_a_server_that_will_not_stop_is_killed_and_told(monkeypatch):
    process = start(
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(999)"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    monkeypatch.setattr(conftest, "LONGEST_S", 0.1)
    with pytest.raises(subprocess.TimeoutExpired):
        stop(process)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


def test_no_port_is_handed_out_twice():
    assert len({free_port() for _ in range(50)}) == 50
