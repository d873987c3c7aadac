"""The API serves a folder's model until the registry has one, and not after."""

from __future__ import annotations

from typing import Any

import pytest

from registry import VersionNotFound
from schemas import ModelName
from serving import FallbackSource, ServedModel


class Source:
    """Says an identity, or that there is no version."""

    def __init__(self, identity: str | None) -> None:
        self.identity = identity

    def newest(self) -> str:
        if self.identity is None:
            raise VersionNotFound("there is no such model")
        return self.identity

    def load(self, identity: str) -> ServedModel:
        detector: Any = None
        return ServedModel(detector, ModelName(name="weapon-detector"), f"{self.identity} gave {identity}")


def test_an_empty_registry_gives_the_folder_and_a_filled_one_takes_over():
    registered, folder = Source(None), Source("/starter")
    source = FallbackSource(registered, folder)
    assert source.load(source.newest()).source == "/starter gave /starter"
    registered.identity = "1"
    assert source.load(source.newest()).source == "1 gave 1"


def test_a_registry_that_loses_its_model_does_not_bring_the_folder_back():
    registered = Source("1")
    source = FallbackSource(registered, Source("/starter"))
    source.newest()
    registered.identity = None
    with pytest.raises(VersionNotFound):
        source.newest()
