"""Handlers that wait: they end when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from perdure.api.kernel.call import Call
from perdure.api.kernel.decoding import ClientLeft
from perdure.api.kernel.sse import wait_for_disconnect

T = TypeVar("T")


async def while_connected(call: Call, work: Coroutine[Any, Any, T]) -> T:
    """Run what may take long, and cancel it if the client leaves.

    Raises:
        ClientLeft: the client has left, so that nobody needs a response.
    """
    working = asyncio.ensure_future(work)
    left = asyncio.create_task(wait_for_disconnect(call.receive))
    try:
        await asyncio.wait({working, left}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        left.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
