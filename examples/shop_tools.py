"""The tools of a shop's support: orders, refunds, deliveries and reports.

Start it with `perdure serve --tools examples/shop_tools.py`, and enable it as `shop_tools`. The session needs
the secret SHOP_TOKEN.
"""

import os
from dataclasses import dataclass
from typing import Literal

from perdure.tools import NOT_DONE, Context, Later, ToolError, Verified, done, tool

SHOP = os.environ.get("SHOP_URL", "https://shop.example.com")


@dataclass
class Line:
    """One line of a report.

    Attributes:
        item: What was sold.
        pieces: How many of it.
    """

    item: str
    pieces: int = 1


@tool(read_only=True)
async def order_status(ctx: Context, order: str) -> dict[str, str]:
    """Look up the status of an order.

    Args:
        order: The order's number, such as A-1024.
    """
    answer = await ctx.http.get(f"{SHOP}/orders/{order}", headers=await authorization(ctx))
    if answer.status == 404:
        raise ToolError(f"There is no order {order}.")
    return answer.raise_for_status().json()


async def refunded(ctx: Context) -> Verified:
    """Ask the shop whether an interrupted refund took place: it knows refunds by their effect keys."""
    answer = await ctx.http.get(f"{SHOP}/refunds/{ctx.effect_key}", headers=await authorization(ctx))
    return NOT_DONE if answer.status == 404 else done(answer.raise_for_status().json())


@tool(approval=True, verify=refunded)
async def refund(ctx: Context, order: str, cents: int, reason: Literal["damaged", "late", "other"]) -> str:
    """Refund an order, in part or in full. A person approves it first.

    Args:
        order: The order's number.
        cents: The amount.
        reason: Why the customer gets it back.
    """
    ctx.progress(f"Refunding {cents} cents")
    body = {"order": order, "cents": cents, "reason": reason}
    answer = await ctx.http.post(f"{SHOP}/refunds", json=body, headers=await authorization(ctx))
    answer.raise_for_status()
    return f"Refunded {cents / 100:.2f}."


@tool
async def deliver(ctx: Context, order: str) -> Later:
    """Hand an order to the carrier, and wait until it is delivered.

    Args:
        order: The order's number.
    """
    callback = await ctx.callback(3 * 24 * 3600)
    body = {"order": order, "report_to": callback.url}
    answer = await ctx.http.post(f"{SHOP}/deliveries", json=body, headers=await authorization(ctx))
    answer.raise_for_status()
    return Later("callback", callback.deadline, f"{order} is on its way")


@tool(idempotent=True)
async def write_report(ctx: Context, month: str, lines: list[Line]) -> str:
    """Write the sales of a month to a file.

    Args:
        month: The month, such as 2026-05.
        lines: What was sold.
    """
    path = f"/reports/{month}.csv"
    rows = [f"{line.item},{line.pieces}" for line in lines]
    await ctx.files.write(path, "\n".join(["item,pieces", *rows]) + "\n")
    await ctx.session.update(tags=["report"])
    return f"The report is in {path}."


async def authorization(ctx: Context) -> dict[str, str]:
    """The header that the shop's API asks for. A helper: without `@tool`, no model can call it."""
    return {"Authorization": f"Bearer {await ctx.secret('SHOP_TOKEN')}"}
