"""What the services read from the environment and their command lines, once, when they start."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import load_dotenv
from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliImplicitFlag,
    CliPositionalArg,
    CliSubCommand,
    NoDecode,
    SettingsConfigDict,
    get_subcommand,
)

from arguments import parse_arguments

Device = Literal["auto", "cpu", "cuda"]  # what devices.choose_device takes
WantedRuntime = Literal["auto", "torch", "openvino", "onnx"]  # what runtimes.load takes


class TrackerSettings(BaseSettings):
    """Where the MLflow tracker is and which registered model is meant."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    mlflow_tracking_uri: str = Field("http://127.0.0.1:5000", description="address of the MLflow tracker")
    model_name: str = Field("weapon-detector", description="registered model")
    model_version: str | None = Field(None, description="version to use; wins over MODEL_ALIAS")
    model_alias: str = Field("champion", description="alias to use when no version is given")


KEY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,31}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class ApiSettings(TrackerSettings):
    """Serve one registered model over HTTP."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", protected_namespaces=(), cli_kebab_case=True, cli_prog_name="mlapi.py"
    )

    api_host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 inside a container")
    api_port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    api_bind_address: str | None = Field(
        None, description="address that a container's port is published on, where it is not API_HOST's"
    )
    api_allowed_hosts: Annotated[tuple[str, ...], NoDecode] | None = Field(
        None,
        description="comma-separated names by which the API may be called, * for all; by default this "
        "machine's own names on a loopback address, else all",
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="comma-separated NAME:KEY; when set, callers must send a KEY"
    )
    api_without_keys: bool = Field(
        False, description="let everybody who can reach the API use it; else it wants API_KEYS there"
    )
    api_caller_requests: int = Field(8, ge=1, description="requests of one caller under way at once")
    api_caller_requests_per_minute: int = Field(
        0, ge=0, description="requests of one caller in a minute; 0 = no limit"
    )
    model_dir: Path | None = Field(None, description="model folder to serve without any tracker")
    api_fallback_dir: Path | None = Field(
        None, description="model folder served while the registry has none or is away"
    )
    mlflow_public_uri: str | None = Field(
        None, description="the tracker's address as a person's browser reaches it, for links"
    )
    api_cache_dir: Path | None = Field(
        None, description="folder that keeps the last model served, for a start while the tracker is away"
    )
    api_watch_seconds: float = Field(15, gt=0, description="how often to ask whether the alias has moved")
    api_max_body_mb: float = Field(20, gt=0, description="largest request body, megabytes")
    api_max_files: int = Field(8, ge=1, description="files in one request at most")
    api_max_pixels: int = Field(
        40_000_000, ge=1, le=178_000_000, description="width x height of one picture at most"
    )
    api_queue_size: int = Field(16, ge=0, description="requests that may wait; beyond that the answer is 503")
    api_max_uploads: int = Field(32, ge=1, description="requests whose bodies may be in memory at once")
    api_deadline_seconds: float = Field(30, gt=0, description="time for one request, upload included")
    api_decode_seconds: float = Field(
        10,
        gt=0,
        description="time to unpack one picture; after that its decoder is ended, and the answer is 413",
    )
    api_workers: int = Field(
        3,
        ge=1,
        description="pictures looked at side by side: while one goes through the network, others are "
        "unpacked and sorted; on a graphics card those that wait go through it together, nine at most",
    )
    api_device: Device = Field("cpu", description="where the network runs; auto: cuda if there, else cpu")
    api_runtime: WantedRuntime = Field(
        "auto",
        description="what runs the network; auto: the model's fastest export that fits this machine, "
        "else PyTorch",
    )
    api_cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="comma-separated origins of web pages that may call; none by default"
    )
    label_studio_url: str | None = Field(
        None, description="address of the Label Studio whose pictures /label-studio/predict looks at"
    )
    label_studio_api_key: SecretStr | None = Field(
        None, description="access token of a person there, for pictures that want one"
    )
    api_log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least to log")

    @field_validator(
        "model_dir",
        "api_fallback_dir",
        "api_cache_dir",
        "mlflow_public_uri",
        "label_studio_url",
        "label_studio_api_key",
        mode="before",
    )
    @classmethod
    def _set_but_empty(cls, value: Any) -> Any:  # as compose passes what .env leaves out
        return value or None

    @field_validator("api_keys", "api_cors_origins", "api_allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return [part.strip() for part in value.split(",") if part.strip()]

    @field_validator("api_keys", mode="before")
    @classmethod
    def _some_key(cls, value: Any) -> Any:
        if value == "" or (isinstance(value, str) and not value.replace(",", " ").strip()):
            raise ValueError("is set but holds no key, which would open the door: name a key or unset it")
        return value

    @model_validator(mode="after")
    def _keys_can_be_sent(self) -> Self:  # of the whole: a field's error would repeat the keys
        for i, key in enumerate(self.named_keys.values(), start=1):
            if not (key and key.isascii() and key.isprintable()):
                raise ValueError(
                    f"API_KEYS: key {i} cannot be sent in an HTTP header: use letters and digits"
                )
        if len(self.named_keys) < len(self.api_keys):
            raise ValueError("API_KEYS: two keys have the same name")
        return self

    @model_validator(mode="after")
    def _strangers_need_keys(self) -> Self:
        reachable = self.api_bind_address or self.api_host
        if not (self.api_keys or self.api_without_keys or _is_loopback(reachable)):
            raise ValueError(
                f"whoever reaches {reachable} could use the API: set API_KEYS=NAME:LONG-RANDOM-TEXT, listen "
                "on 127.0.0.1, or say API_WITHOUT_KEYS=true"
            )
        return self

    @property
    def named_keys(self) -> dict[str, str]:
        """Secret by its holder's name; keys without one are called key-1, key-2 ..."""
        named = {}
        for i, key in enumerate(self.api_keys, start=1):
            name, colon, secret = key.get_secret_value().partition(":")
            if not (colon and KEY_NAME.fullmatch(name)):
                name, secret = f"key-{i}", key.get_secret_value()
            named[name] = secret
        return named

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Names by which the API may be called, in lower case; "*" for all."""
        if self.api_allowed_hosts is not None:
            return tuple(host.lower() for host in self.api_allowed_hosts)
        if not _is_loopback(self.api_bind_address or self.api_host):
            return ("*",)
        neighbours = ("api", "proxy") if self.api_bind_address else ()  # what the other containers call it
        return ("localhost", "127.0.0.1", "[::1]", *neighbours)

    @property
    def max_body_bytes(self) -> int:
        """The largest request body, bytes."""
        return int(self.api_max_body_mb * 1_000_000)


def api_settings(arguments: Sequence[str] | None = None) -> ApiSettings:
    """Return the API's settings: flags > environment > defaults."""
    return parse_arguments(ApiSettings, arguments)


class TorchrunSettings(BaseSettings):
    """What torchrun tells each of its processes; the defaults are those of a single process."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    rank: int = Field(0, ge=0, description="this process among all")
    local_rank: int = Field(0, ge=0, description="this process on this machine")
    local_world_size: int = Field(1, ge=1, description="how many of them are on this machine")
    world_size: int = Field(1, ge=1, description="how many processes train together")


class WebSettings(BaseSettings):
    """What the page needs to know: where the API is, and what it may keep."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    api_url: str = Field("http://127.0.0.1:8000", description="address of the model API, as the page sees it")
    api_key: SecretStr | None = Field(None, description="key for an API with API_KEYS")
    api_timeout: float = Field(
        60.0, gt=0, allow_inf_nan=False, description="longest wait for one photo's answer, seconds"
    )
    api_max_body_mb: float = Field(
        20, gt=0, allow_inf_nan=False, description="largest photo the API takes, megabytes"
    )
    web_uploads_mb: float = Field(
        420,
        gt=0,
        allow_inf_nan=False,
        description="files of all visitors in the page's memory, megabytes; one on its way counts twice",
    )
    feedback_dir: Path | None = Field(None, description="folder for corrected photos; unset = no feedback")
    watch_events: SecretStr | None = Field(
        None, description="file (SQLite) or address of the database of cameras' events; unset = no review"
    )
    watch_event_days: float = Field(
        30, gt=0, allow_inf_nan=False, description="days after which the watcher deletes an event"
    )
    feedback_days: float = Field(
        365,
        gt=0,
        allow_inf_nan=False,
        description="days for which a corrected photo is kept; then it is deleted",
    )
    video_max_seconds: float = Field(
        60.0, gt=0, allow_inf_nan=False, description="longest video taken, seconds"
    )
    video_frames_per_second: float = Field(2.0, gt=0, le=10, description="frames looked at per second")

    @field_validator("api_url")
    @classmethod
    def _web_address(cls, value: str) -> str:
        if not re.match(r"https?://[^/]", value):
            raise ValueError("expected an address that begins with http:// or https://")
        return value


def web_settings() -> WebSettings:
    """Return the page's settings from the environment, or say in sentences what is wrong and exit 2."""
    return parse_arguments(WebSettings, [])


class WatchSettings(BaseSettings):
    """What the watcher of cameras needs to know; every flag is a variable too, such as WATCH_EVENTS."""

    model_config = SettingsConfigDict(
        env_prefix="WATCH_", frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True,
    )  # fmt: skip

    cameras: Path = Field(Path("cameras.toml"), description="which cameras there are")
    address: SecretStr | None = Field(
        None, description="one camera's address, or a clip, to watch instead of those of cameras.toml"
    )
    shard: str = Field("1/1", description="which of several watchers this is, such as 1/3: they share out")
    events: SecretStr | None = Field(
        None,
        description="file (SQLite) or address of the database that keeps events; unset = nothing is kept",
    )
    event_days: float = Field(
        30, gt=0, allow_inf_nan=False, description="days for which an event is kept; then it is deleted"
    )
    webhook: SecretStr | None = Field(None, description="address to which each alarm is posted as JSON")
    webhook_key: SecretStr | None = Field(None, description="key that signs what is posted (HMAC-SHA256)")
    mqtt: SecretStr | None = Field(
        None, description="broker for Home Assistant, such as mqtt://user:password@192.168.1.5:1883"
    )
    apprise: SecretStr | None = Field(
        None, description="comma-separated addresses of apprise: Telegram, e-mail and many others"
    )
    log_format: Literal["text", "json"] = Field("text", description="log lines for people, or JSON objects")
    host: str = Field("127.0.0.1", description="address to serve status and metrics on, if there is a port")
    port: int | None = Field(
        None, ge=1, le=65535, description="port of the status page, /metrics and /health; unset = none"
    )
    alerts_per_hour: int = Field(12, ge=1, description="alarms that each of these gets at most in an hour")
    alert_unsure: CliImplicitFlag[bool] = Field(False, description="tell them of what is unsure, too")
    blur_faces: bool = Field(True, description="whether faces in kept pictures are blurred; never a weapon")
    stall_seconds: float = Field(
        10, ge=1, le=600, description="longest wait for a camera's answer, and for its next picture"
    )
    api_url: str = Field(
        "http://127.0.0.1:8000", validation_alias="api_url", description="address of the model API"
    )
    api_key: SecretStr | None = Field(
        None, validation_alias="api_key", description="key for an API with API_KEYS"
    )
    api_timeout: float = Field(
        60.0, gt=0, allow_inf_nan=False, validation_alias="api_timeout",
        description="longest wait for one picture's answer, seconds",
    )  # fmt: skip


class TryCommand(BaseModel):
    """Try each camera, the API and the database, and say what is wrong; exit status 1 if something is."""


class RunCommand(BaseModel):
    """Watch until stopped (the default)."""


class EventsCommand(BaseModel):
    """List the events that are kept, newest first."""


class ReviewCommand(BaseModel):
    """Note what a person says of an event."""

    event: CliPositionalArg[str] = Field(description="its id, as the list shows it")
    verdict: CliPositionalArg[Literal["confirmed", "dismissed"]] = Field(description="a weapon, or none")
    by: str = Field(description="who says so")
    why: str = Field("", description="the reason, for the record")


class ExportEventsCommand(BaseModel):
    """Write the reviewed events as a data set root: confirmed with their box, dismissed as negatives."""

    folder: CliPositionalArg[Path] = Field(description="made if absent; train.py --data takes it")


class WatchCommand(WatchSettings):
    """Watch cameras through the model API; a possible weapon is an alarm that a person must confirm."""

    model_config = SettingsConfigDict(
        cli_kebab_case=True, cli_prog_name="watch.py", cli_avoid_json=True, cli_hide_none_type=True
    )

    dry_run: Path | None = Field(
        None, description="play this clip or folder of pictures, and print what would have been an alarm"
    )
    check: CliSubCommand[TryCommand]
    run: CliSubCommand[RunCommand]
    list: CliSubCommand[EventsCommand]
    review: CliSubCommand[ReviewCommand]
    export: CliSubCommand[ExportEventsCommand]


def watch_command(arguments: Sequence[str] | None = None) -> tuple[WatchCommand, BaseModel]:
    """Return the watcher's settings and its command, or say in sentences what is wrong and exit 2."""
    settings = parse_arguments(WatchCommand, arguments)
    command = get_subcommand(settings, is_required=False)
    return settings, command if isinstance(command, BaseModel) else RunCommand()


def environment() -> dict[str, str]:
    """Return the variables that an address in cameras.toml may name."""
    return dict(os.environ)


class DemoSettings(BaseSettings):
    """Start tracker, API and page on this machine, with cameras if asked for, and stop them together.

    Every flag is a variable too, also in the file .env: WEB_PORT=8600.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", cli_kebab_case=True, cli_prog_name="demo.py"
    )

    mlflow_port: int = Field(5000, ge=1, le=65535, description="port of the MLflow tracker")
    api_port: int = Field(8000, ge=1, le=65535, description="port of the API")
    web_port: int = Field(8501, ge=1, le=65535, description="port of the page")
    mlflow_data_dir: Path = Field(Path("mlflow-data"), description="folder of the tracker's data")
    starter_dir: Path = Field(Path("weights/starter"), description="model folder for an empty registry")
    cameras: SecretStr | None = Field(
        None,
        description="also watch this: a clip over and over, an rtsp:// address, or a cameras.toml",
    )


def demo_settings(env_file: Path, arguments: Sequence[str] = ()) -> DemoSettings:
    """Build the demo's settings from flags, environment and env_file, or say what is wrong and exit 2.

    The variables of env_file also reach the services, except where the environment has its own.
    """
    load_dotenv(env_file, override=False)
    return parse_arguments(DemoSettings, arguments)


def service_environment(settings: DemoSettings, *, python_folder: Path) -> dict[str, str]:
    """Return the environment in which the demo starts its services.

    Args:
        settings: the demo's own.
        python_folder: where the python is that the Procfile's commands shall find first.
    """
    no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    local = ",".join(filter(None, (no_proxy, "127.0.0.1", "localhost")))
    events = os.environ.get("WATCH_EVENTS") or str(settings.mlflow_data_dir.resolve() / "events.db")
    watched = {**watched_by(settings), "WATCH_EVENTS": events} if settings.cameras else {}
    return {
        **os.environ,
        "PATH": os.pathsep.join((str(python_folder), os.environ.get("PATH", os.defpath))),
        "NO_PROXY": local,
        "no_proxy": local,
        "PYTHONUNBUFFERED": "1",
        "MLFLOW_PORT": str(settings.mlflow_port),
        "API_PORT": str(settings.api_port),
        "WEB_PORT": str(settings.web_port),
        "MLFLOW_DATA_DIR": str(settings.mlflow_data_dir.resolve()),
        "STARTER_DIR": str(settings.starter_dir.resolve()),
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{settings.mlflow_port}",
        "API_URL": f"http://127.0.0.1:{settings.api_port}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **watched,
    }


def watched_by(settings: DemoSettings) -> dict[str, str]:
    """Return the variable by which watch.py gets the demo's cameras: their file, or one address."""
    given = settings.cameras.get_secret_value() if settings.cameras else ""
    if given.endswith(".toml"):
        return {"WATCH_CAMERAS": str(Path(given).resolve()), "WATCH_ADDRESS": ""}
    return {"WATCH_ADDRESS": given if "://" in given else str(Path(given).resolve())}
