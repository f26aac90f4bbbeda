"""Credentials show in nothing that the authenticator says, holds for long, or raises."""

from __future__ import annotations

import gc
import logging
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.auth.scene import KEY, SECRET, TOKEN, signed, with_key, with_session

if TYPE_CHECKING:
    import pytest

    from tests.auth.scene import Scene


async def test_what_was_presented_has_no_readable_representation() -> None:
    presented = with_session()
    presented.api_keys = [KEY.encode()]
    assert KEY not in repr(presented)
    assert TOKEN not in repr(presented)


async def test_answers_and_logs_repeat_no_credential(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    for trouble in (None, RuntimeError(KEY, TOKEN)):
        scene.store.broken = trouble
        for presented in (with_key(KEY), with_key(KEY, KEY), with_session()):
            pending = scene.look(presented)
            said += [repr(pending), repr(await scene.decide(presented))]
        scene.clock.advance(20)
    digest = sha256(KEY.encode())
    for secret in (KEY, TOKEN, SECRET.decode(), digest.hexdigest(), repr(digest.digest())):
        assert secret not in caplog.text
        assert not any(secret in text for text in said)


async def test_no_raw_credential_stays_in_memory(scene: Scene) -> None:
    """Only digests do, so that a core or a heap dump tells no key that can be used."""
    key, token = "Ab" * 32, "cD" * 16
    value = signed(token)
    for number in range(3):
        await scene.decide(with_key(f"{key}{number}"))
        await scene.decide(with_session(f"{token}{number}"))
    gc.collect()
    held = [item for item in gc.get_objects() if isinstance(item, dict)]
    texts = [
        text if isinstance(text, str) else text.decode("latin-1")
        for item in held
        if item is not locals()
        for pair in list(item.items())
        for text in pair
        if isinstance(text, (str, bytes))
    ]
    assert not any(key + "0" in text or token + "0" in text for text in texts)
    assert not any(quote(value) in text for text in texts)
