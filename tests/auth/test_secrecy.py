"""Credentials show in nothing that the authenticator says, holds for long, or raises."""

from __future__ import annotations

import gc
import logging
from hashlib import sha256
from typing import get_args
from urllib.parse import quote

import pytest

from sidecar.auth.cookie_cache import Form
from tests.auth.scene import KEY, SECRET, TOKEN, Scene, signed, with_key, with_session
from tests.auth.session_data import FORMS, payload


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


@pytest.mark.parametrize("form", get_args(Form))
async def test_what_a_cookie_says_of_a_session_is_repeated_nowhere(
    form: Form, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scene = Scene(cookie_cache=form)
    canary, said = "Zq7" * 10, []
    for number, trouble in enumerate((None, RuntimeError(canary), None)):
        scene.store.broken = trouble
        token = f"{canary}{number}"
        data = FORMS[form](payload(scene.clock, token=token, more=canary), scene.clock.time() + 60)
        for value in (data, data[:-1], b"%" + data):
            presented = with_session(token)
            presented.cookies = [presented.cookies[0] + b"; better-auth.session_data=" + value]
            said += [repr(scene.look(presented)), repr(await scene.decide(presented))]
        assert data.decode() not in caplog.text
    held = texts_held()
    await scene.close()
    for secret in (canary, SECRET.decode()):
        assert secret not in caplog.text
        assert not any(secret in text for text in said)
    assert not any(canary in text for text in held)


async def test_no_raw_credential_stays_in_memory(scene: Scene) -> None:
    """Only digests do, so that a core or a heap dump tells no key that can be used."""
    key, token = "Ab" * 32, "cD" * 16
    value = signed(token)
    for number in range(3):
        await scene.decide(with_key(f"{key}{number}"))
        await scene.decide(with_session(f"{token}{number}"))
    texts = texts_held()
    assert not any(key + "0" in text or token + "0" in text for text in texts)
    assert not any(quote(value) in text for text in texts)


def texts_held() -> list[str]:
    """Return the text in all dictionaries that there are, names and values."""
    gc.collect()
    return [
        text if isinstance(text, str) else text.decode("latin-1")
        for item in gc.get_objects()
        if isinstance(item, dict)
        for pair in list(item.items())
        for text in pair
        if isinstance(text, (str, bytes))
    ]
