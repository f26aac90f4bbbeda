from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.differential.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("nginx")) as nginx:
        yield nginx
