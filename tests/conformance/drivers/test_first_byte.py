"""A model that another one can replace has little time for its first byte."""

from __future__ import annotations

import msgspec
import pytest

from perdure.domain.errors import ModelError
from perdure.llm import endpoint
from tests.conformance.drivers.conftest import Connect
from tests.conformance.drivers.protocols import Wire
from tests.conformance.drivers.vendor import Reply, Vendor
from tests.unit.llm.talk import Heard, ask, user


async def test_the_first_byte_may_have_a_time_of_its_own_at_public_addresses(
    vendor: Vendor, connect: Connect, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def call() -> str:
        request = msgspec.structs.replace(ask(user("Hi")), first_byte=0.2)
        return (await connect(wire.provider_type).generate(request, Heard())).text

    vendor.will(Reply(wire.answer(["ok"])))
    monkeypatch.setattr(endpoint, "is_near", lambda host: False)
    vendor.will(Reply(before="hang"))
    assert await call() == "ok"
    with pytest.raises(ModelError) as failure:
        await call()
    assert (failure.value.code, failure.value.transient) == ("provider_timeout", True)
