"""Everything read from the environment or the command line, one class per program.

The only file that reads either. Importing it reads nothing: a program builds its class when it starts.
"""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class TrackerSettings(BaseSettings):
    """Where the MLflow tracker is and which registered model is meant."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    mlflow_tracking_uri: str = Field("http://127.0.0.1:5000", description="address of the MLflow tracker")
    model_name: str = Field("weapon-detector", description="registered model")
    model_version: str | None = Field(None, description="version to use; wins over MODEL_ALIAS")
    model_alias: str = Field("champion", description="alias to use when no version is given")
