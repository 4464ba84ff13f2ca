"""Routes of harnesses."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from perdure.api.kernel.http import Call, Route
from perdure.api.routes.agents import CheckName, Search, reference
from perdure.app import harnesses as use
from perdure.app import previews as use_previews
from perdure.domain.harnesses import CreateHarness, Harness, HarnessExample, UpdateHarness
from perdure.domain.ids import check_id
from perdure.domain.paging import Listing
from perdure.domain.previews import HarnessPreview, PreviewHarness
from perdure.domain.resources import NameCheck, ResourceConfig, ResourceStats, policies_of


class ListHarnesses(Struct, frozen=True):
    """Query of the list of harnesses."""

    search: Annotated[
        Search | None,
        Meta(description="Text to find in the name, the display name or the description, case-insensitive."),
    ] = None
    include_archived: Annotated[bool, Meta(description="Whether to include archived harnesses.")] = False


class ImportHarness(Struct, frozen=True):
    """Query of the import of a harness."""

    example: Annotated[
        str, Meta(description="The name of the built-in example to import.", max_length=64)
    ] = field(name="from-example")


def harness_reference(call: Call) -> str:
    """The harness's id or name in the path."""
    return reference(call, "harness_id", "harness")


async def create_harness(call: Call) -> Harness:
    return await use.create_harness(call.app, call.caller, call.body)


async def list_harnesses(call: Call) -> Listing[Harness]:
    query: ListHarnesses = call.query
    return Listing(
        tuple(await use.all_harnesses(call.app, call.caller, query.search or None, query.include_archived))
    )


async def get_harness(call: Call) -> Harness:
    return await use.read_harness(call.app, call.caller, harness_reference(call))


async def update_harness(call: Call) -> Harness:
    return await use.change_harness(call.app, call.caller, harness_reference(call), call.body, call.if_match)


async def delete_harness(call: Call) -> None:
    await use.archive_harness(call.app, call.caller, harness_reference(call))


async def copy_harness(call: Call) -> Harness:
    return await use.copy_harness(call.app, call.caller, harness_reference(call))


async def import_harness(call: Call) -> Harness:
    query: ImportHarness = call.query
    return await use.import_harness(call.app, call.caller, query.example)


async def preview_harness(call: Call) -> HarnessPreview:
    return await use_previews.preview_harness(call.app, call.caller, call.body)


async def check_harness_name(call: Call) -> NameCheck:
    query: CheckName = call.query
    if query.exclude_id is not None:
        check_id(query.exclude_id, "harness", "exclude_id")
    return await use.check_harness_name(call.app, call.caller, query.name, query.exclude_id)


async def harness_config(call: Call) -> ResourceConfig:
    return policies_of(call.caller.role, "harness")


async def get_harness_stats(call: Call) -> ResourceStats:
    return await use.harness_stats(call.app, call.caller, harness_reference(call))


async def list_examples(call: Call) -> list[HarnessExample]:
    return use.harness_examples(call.app)


_HARNESS = {
    "name": "support",
    "system_prompt": "Answer briefly.",
    "capabilities": [{"ref": "session_file_system"}],
}
_ONE = "/v1/harnesses/{harness_id}"

ROUTES = (
    Route("POST", "/v1/harnesses", "create_harness", "Create a harness", "harnesses", create_harness, body=CreateHarness,
          body_example=_HARNESS, returns=Harness, status=201, errors=(404, 409)),
    Route("GET", "/v1/harnesses", "list_harnesses", "List harnesses", "harnesses", list_harnesses, query=ListHarnesses,
          returns=Listing[Harness]),
    Route("GET", "/v1/harness-examples", "list_examples", "List harnesses to begin with", "harnesses", list_examples,
          returns=tuple[HarnessExample, ...]),
    Route("GET", "/v1/harnesses/check-name", "check_harness_name", "Say whether a name is free", "harnesses", check_harness_name,
          query=CheckName, returns=NameCheck),
    Route("GET", "/v1/harnesses/config", "harness_config", "Say what the caller may do with harnesses", "harnesses",
          harness_config, returns=ResourceConfig),
    Route("POST", "/v1/harnesses/import", "import_harness", "Make the harness of an example", "harnesses", import_harness,
          query=ImportHarness, returns=Harness, status=201, errors=(404, 409)),
    Route("POST", "/v1/harnesses/preview", "preview_harness", "Show what the model would get of a harness", "harnesses",
          preview_harness, body=PreviewHarness, body_example={"system_prompt": "Answer briefly."}, returns=HarnessPreview,
          errors=(404,)),
    Route("GET", _ONE, "get_harness", "Get a harness by id or name", "harnesses", get_harness, returns=Harness, errors=(404,),
          etag=True),
    Route("PATCH", _ONE, "update_harness", "Change a harness; fields that are left out stay", "harnesses", update_harness,
          body=UpdateHarness, body_example={"description": "For the support team"}, returns=Harness,
          errors=(404, 409, 412), etag=True),
    Route("DELETE", _ONE, "delete_harness", "Archive a harness", "harnesses", delete_harness, status=204, errors=(404, 409)),
    Route("POST", _ONE + "/copy", "copy_harness", "Copy a harness", "harnesses", copy_harness, returns=Harness, status=201,
          errors=(404, 409)),
    Route("GET", _ONE + "/stats", "get_harness_stats", "Count what a harness's sessions come to", "harnesses", get_harness_stats,
          returns=ResourceStats, errors=(404,)),
)  # fmt: skip
