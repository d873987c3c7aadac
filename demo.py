"""The whole demo on this machine: tracker, API and page, started, watched and stopped together.

    make demo                           # or: python demo.py
    WEB_PORT=8600 make demo             # on another port; or: python demo.py --web-port 8600
    make demo CAMERAS=clip.mp4          # also watches a clip as if it were a camera; or an rtsp:// address

The Procfile says how each service is started; honcho runs them and prefixes what they print.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import requests
from honcho import environ
from honcho.manager import Manager
from honcho.printer import Message, Printer

from cameras.config import ConfigError, camera_at, load_cameras
from cameras.looking import first_picture
from cameras.streams import StreamError
from settings import DemoSettings, demo_settings, environment, service_environment

ROOT = Path(__file__).parent
NAMES = {"tracker": "MLflow tracker", "api": "API", "web": "page", "watch": "watcher of cameras"}
PORTS = {"mlflow_port": "tracker", "api_port": "api", "web_port": "web"}
PICTURE_SECONDS = 10  # within which a clip shows its first picture
LAST_LINES = 12  # of a service that died: enough for the end of a traceback
KILL_SECONDS = 10  # how long the services may take to stop when asked
PATIENCE_SECONDS = 120  # after which the demo says whom it is still waiting for


class DemoError(RuntimeError):
    """The demo cannot start; the message says why and what to do."""


def main() -> None:
    """Start the services, print their addresses when ready, and stop all of them together."""
    if sys.argv[1:] == ["register"]:
        return register_starter(demo_settings(ROOT / ".env"))
    if sys.argv[1:] == ["wait"]:
        return wait_for(f"http://127.0.0.1:{demo_settings(ROOT / '.env').api_port}/ready")
    settings = demo_settings(ROOT / ".env", sys.argv[1:])
    try:
        check_ports(settings)
        check_cameras(settings)
    except DemoError as error:
        raise SystemExit(f"error: {error}") from error
    settings.mlflow_data_dir.mkdir(parents=True, exist_ok=True)
    raise SystemExit(run_services(settings))


# --- before anything starts -------------------------------------------------------------------------


def check_ports(settings: DemoSettings) -> None:
    """Make sure that the three ports differ and are free.

    Raises:
        DemoError: they do not, or one is taken; the message names the variable to set.
    """
    ports = {variable.upper(): int(getattr(settings, variable)) for variable in PORTS}
    if len(set(ports.values())) < len(ports):
        given = ", ".join(f"{variable}={port}" for variable, port in ports.items())
        raise DemoError(f"the three services need three different ports, got {given}")
    for (variable, port), name in zip(ports.items(), PORTS.values(), strict=True):
        if not is_free(port):
            raise DemoError(
                f"port {port}, meant for the {NAMES[name]}, is taken by another program. "
                f"Stop that program, or choose another port: {variable}={port + 100} make demo"
            )


def is_free(port: int) -> bool:
    """Say whether a server could listen on port of this machine now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, after a restart
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def check_cameras(settings: DemoSettings) -> None:
    """Make sure that what is to be watched can be: each clip shows a picture; the network's may come later.

    Raises:
        DemoError: it cannot; the message says why.
    """
    given = settings.cameras.get_secret_value() if settings.cameras else ""
    if not given:
        return
    try:
        variables = environment()
        is_list = given.endswith(".toml")
        cameras = load_cameras(Path(given), variables) if is_list else (camera_at(given, variables),)
    except ConfigError as error:
        raise DemoError(f"CAMERAS: {error}") from error
    for camera in cameras:
        try:
            if not camera.is_network:
                first_picture(camera, stall_s=PICTURE_SECONDS)
        except StreamError as error:
            raise DemoError(f"CAMERAS: {camera.shown}: {error}") from error


def wait_for(address: str) -> None:
    """Return once a service answers 200 at address; the demo stops everything if the service dies."""
    while not answers(address):
        time.sleep(0.5)


def register_starter(settings: DemoSettings) -> None:
    """Wait for the tracker, then put the starter model into the registry if it has no model of that name."""
    wait_for(f"http://127.0.0.1:{settings.mlflow_port}/health")
    command = [sys.executable, "registry.py", "import", str(settings.starter_dir), "--if-none"]
    raise SystemExit(subprocess.run(command, check=False, cwd=ROOT).returncode)


# --- running ----------------------------------------------------------------------------------------


ANSWERED = re.compile(r'"logger": "mlapi.request".*"status": 200')  # twice a second from each camera


class _Recorder(Printer):  # type: ignore[misc]
    """honcho's printer, which also keeps the last lines of each service.

    Args:
        with_cameras: print no line for each answered request, under which their alarms would be lost.
    """

    def __init__(self, *, with_cameras: bool = False) -> None:
        super().__init__(sys.stdout, colour=sys.stdout.isatty())
        self._with_cameras = with_cameras
        self.last_lines: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=LAST_LINES))
        self.first_stopped: str | None = None

    def write(self, message: Message) -> None:
        text = message.data if isinstance(message.data, str) else message.data.decode(errors="replace")
        if message.name != "system":
            self.last_lines[message.name].append(text.rstrip())
        elif " stopped (rc=" in text and self.first_stopped is None:
            self.first_stopped = text.split()[0]
        if self._with_cameras and message.name == "api" and ANSWERED.search(text):
            return
        # A closed terminal must not stop the stopping, nor must a signal that comes in the middle of a line:
        # honcho's handler prints too, and Python refuses to enter a stream twice (RuntimeError).
        with contextlib.suppress(OSError, RuntimeError):
            super().write(message)


class _Services(Manager):  # type: ignore[misc]
    """honcho's manager, which can be stopped at any moment and insists after KILL_SECONDS."""

    def __init__(self, printer: Printer, announcer: threading.Thread) -> None:
        super().__init__(printer)
        self._announcer = announcer

    def _start(self) -> None:
        super()._start()
        self._announcer.start()  # not before: honcho forks, and a fork wants a single thread

    def terminate(self) -> None:
        if not self._all_started():  # honcho knows no process ids yet: ask again shortly
            self._later(0.2, self.terminate)
            return
        self._later(KILL_SECONDS, self.kill)  # honcho itself would wait for ever if none of them stopped
        super().terminate()

    def _later(self, seconds: float, what: Any) -> None:
        timer = threading.Timer(seconds, what)
        timer.daemon = True
        timer.start()

    def sweep(self) -> None:
        """Kill whatever a service left behind in its process group."""
        for process in self._processes.values():
            with contextlib.suppress(KeyError, ProcessLookupError, PermissionError):
                os.killpg(process["pid"], signal.SIGKILL)


def run_services(settings: DemoSettings, procfile: Path = ROOT / "Procfile") -> int:
    """Run the services of procfile until a signal or until one service ends; return the exit code."""
    printer = _Recorder(with_cameras=bool(settings.cameras))
    stopped = threading.Event()
    announcer = threading.Thread(target=announce, args=(settings, stopped), daemon=True)
    services = _Services(printer, announcer)
    env = service_environment(settings, python_folder=Path(sys.executable).parent)
    for name, command in environ.parse_procfile(procfile.read_text()).processes.items():
        if name != "watch" or settings.cameras:
            services.add_process(name, command, env=env, cwd=str(ROOT))
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup means to outlive the terminal
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        services.loop()
    finally:
        stopped.set()
        services.sweep()
    return say_why(services.returncode, printer, with_cameras=bool(settings.cameras))


def say_why(returncode: int | None, printer: _Recorder, *, with_cameras: bool) -> int:
    """Print why the demo ended and return its exit code: 0 when a person stopped it, else 1."""
    if returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        print(f"Stopped: tracker, API{', page and cameras' if with_cameras else ' and page'}.", flush=True)
        return 0
    name = printer.first_stopped or "a service"
    print(
        f"\nerror: the {NAMES.get(name, name)} ended by itself (exit status {returncode}); all were stopped."
    )
    print("The last lines it printed:")
    print("\n".join(f"  {line}" for line in printer.last_lines[name]), flush=True)
    return 1


# --- waiting until ready ----------------------------------------------------------------------------


def announce(settings: DemoSettings, stopped: threading.Event) -> None:
    """Wait until tracker, API and page are ready, then print their addresses."""
    addresses = {
        "tracker": f"http://127.0.0.1:{settings.mlflow_port}/health",
        "api": f"http://127.0.0.1:{settings.api_port}/ready",
        "web": f"http://127.0.0.1:{settings.web_port}/_stcore/health",
    }
    reminder = time.monotonic() + PATIENCE_SECONDS
    waiting = dict(addresses)
    while waiting and not stopped.wait(0.5):
        waiting = {name: address for name, address in waiting.items() if not answers(address)}
        if waiting and time.monotonic() > reminder:
            reminder += PATIENCE_SECONDS
            print(f"Still waiting for: {', '.join(NAMES[name] for name in waiting)}", flush=True)
    if not waiting:
        print(ready_text(settings), flush=True)


def answers(address: str) -> bool:
    """Say whether a service answers 200 at address."""
    try:
        with requests.Session() as session:
            session.trust_env = False  # a proxy from the environment is no way to this machine
            return session.get(address, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def ready_text(settings: DemoSettings) -> str:
    """Return what to open once all is ready."""
    review = f"http://127.0.0.1:{settings.web_port}/?tab=Review"
    alarms = f"Alarms of the camera are printed here, and can be reviewed at {review}\n"
    return (
        "\nReady. Open the page and drop a photo on it:\n\n"
        f"    http://127.0.0.1:{settings.web_port}\n\n"
        f"  API documentation   http://127.0.0.1:{settings.api_port}/docs\n"
        f"  MLflow tracker      http://127.0.0.1:{settings.mlflow_port}\n\n"
        f"{alarms if settings.cameras else ''}"
        f"Ctrl-C stops {'all of them' if settings.cameras else 'all three'}.\n"
    )


if __name__ == "__main__":
    main()
