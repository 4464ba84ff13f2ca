"""Routes of harnesses."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from perdure.api.kernel.call import Call, Chunked, json_list
from perdure.api.kernel.route import route
from perdure.api.routes.agents import CheckName, Search
from perdure.app import harnesses as use
from perdure.app import previews as use_previews
from perdure.domain.harnesses import CreateHarness, Harness, HarnessExample, UpdateHarness
from perdure.domain.ids import HarnessRef, check_id
from perdure.domain.paging import Listing
from perdure.domain.previews import HarnessPreview, PreviewHarness
from perdure.domain.resources import NameCheck, ResourceConfig, ResourceStats, policies_of


class ListHarnesses(Struct, frozen=True):
    """Query parameters of the list of harnesses."""

    search: Annotated[
        Search | None,
        Meta(description="Text to find in the name, the display name or the description, case-insensitive."),
    ] = None
    include_archived: Annotated[bool, Meta(description="Whether to include archived harnesses.")] = False


class ImportHarness(Struct, frozen=True):
    """Query parameters of the import of a harness."""

    example: Annotated[
        str, Meta(description="The name of the built-in example to import.", max_length=64)
    ] = field(name="from-example")


_HARNESS = {
    "name": "support",
    "system_prompt": "Answer briefly.",
    "capabilities": [{"ref": "session_file_system"}],
}


@route("POST", "/v1/harnesses", "harnesses", status=201, errors=(404, 409), body_example=_HARNESS)
async def create_harness(call: Call, body: CreateHarness) -> Harness:
    """Create a harness.

    It inherits from its parent, if it names one.
    """
    return await use.create_harness(call.app, call.caller, body, call.once)


@route("GET", "/v1/harnesses", "harnesses")
async def list_harnesses(call: Call, query: ListHarnesses) -> Chunked[Listing[Harness]]:
    """List harnesses.

    Built-in harnesses come first. Archived ones are included only with `include_archived`. The list leaves
    out `initial_files`: get a single harness for them.
    """
    return Chunked(
        json_list(use.all_harnesses(call.app, call.caller, query.search or None, query.include_archived))
    )


@route("GET", "/v1/harnesses/{harness_id}", "harnesses", errors=(404,), etag=True)
async def get_harness(call: Call, harness_id: HarnessRef) -> Harness:
    """Get a harness.

    `harness_id` may be the harness's id or its name.
    """
    return await use.read_harness(call.app, call.caller, harness_id)


@route(
    "PATCH",
    "/v1/harnesses/{harness_id}",
    "harnesses",
    errors=(404, 409, 412),
    body_example={"description": "For the support team"},
    etag=True,
)
async def update_harness(call: Call, harness_id: HarnessRef, body: UpdateHarness) -> Harness:
    """Update a harness.

    Omitted fields keep their values. Built-in harnesses cannot be changed: copy them instead. 400
    if the harness would inherit from itself, directly or through its parents.
    """
    return await use.change_harness(call.app, call.caller, harness_id, body, call.if_match)


@route("DELETE", "/v1/harnesses/{harness_id}", "harnesses", errors=(404, 409))
async def delete_harness(call: Call, harness_id: HarnessRef) -> None:
    """Archive a harness.

    The harness disappears from lists, and no new agent, session or harness can use it. Those that already use
    it continue to work. Built-in harnesses and the organization's default cannot be archived.
    """
    await use.archive_harness(call.app, call.caller, harness_id)


@route("POST", "/v1/harnesses/{harness_id}/copy", "harnesses", status=201, errors=(404, 409))
async def copy_harness(call: Call, harness_id: HarnessRef) -> Harness:
    """Copy a harness.

    The copy gets the next free name that ends in `-copy`. The copy of a built-in harness can be changed.
    """
    return await use.copy_harness(call.app, call.caller, harness_id, call.once)


@route("POST", "/v1/harnesses/import", "harnesses", status=201, errors=(404, 409))
async def import_harness(call: Call, query: ImportHarness) -> Harness:
    """Create a harness from an example.

    It gets the example's name. 409 if that name is taken.
    """
    return await use.import_harness(call.app, call.caller, query.example, call.once)


@route(
    "POST",
    "/v1/harnesses/preview",
    "harnesses",
    errors=(404,),
    body_example={"system_prompt": "Answer briefly."},
)
async def preview_harness(call: Call, body: PreviewHarness) -> HarnessPreview:
    """Preview a harness as the model would see it.

    Returns the assembled prompt and the tools, including those inherited from its parents. Stores nothing.
    """
    return await use_previews.preview_harness(call.app, call.caller, body)


@route("GET", "/v1/harnesses/check-name", "harnesses")
async def check_harness_name(call: Call, query: CheckName) -> NameCheck:
    """Check whether a harness's name is free.

    400 if the name is malformed. A free name is not reserved: another client can take it at any time.
    """
    exclude_id = None if query.exclude_id is None else check_id(query.exclude_id, "harness", "exclude_id")
    return await use.check_harness_name(call.app, call.caller, query.name, exclude_id)


@route("GET", "/v1/harnesses/config", "harnesses")
async def harness_config(call: Call) -> ResourceConfig:
    """Get the caller's permissions on harnesses.

    This depends on the caller's role in the organization.
    """
    return policies_of(call.caller.role, "harness")


@route("GET", "/v1/harnesses/{harness_id}/stats", "harnesses", errors=(404,))
async def get_harness_stats(call: Call, harness_id: HarnessRef) -> ResourceStats:
    """Get usage statistics of a harness.

    Covers all its sessions that have not been deleted.
    """
    return await use.harness_stats(call.app, call.caller, harness_id)


@route("GET", "/v1/harness-examples", "harnesses")
async def list_examples(call: Call) -> tuple[HarnessExample, ...]:
    """List the examples of harnesses.

    Returns those whose capabilities this server has.
    """
    return tuple(use.harness_examples(call.app))


ROUTES = (
    create_harness,
    list_harnesses,
    list_examples,
    check_harness_name,
    harness_config,
    import_harness,
    preview_harness,
    get_harness,
    update_harness,
    delete_harness,
    copy_harness,
    get_harness_stats,
)
