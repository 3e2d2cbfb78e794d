"""Fixtures: fake W&B servers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fake_wandb import FakeWandb


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., FakeWandb]]:
    """Return a function that starts a fake W&B server with options (see `FakeWandb`)."""
    servers: list[FakeWandb] = []

    def start(**options: Any) -> FakeWandb:
        servers.append(FakeWandb(tmp_path / f"server-{len(servers)}", **options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def fake_wandb(serve: Callable[..., FakeWandb]) -> FakeWandb:
    """Start a fake W&B server."""
    return serve()
