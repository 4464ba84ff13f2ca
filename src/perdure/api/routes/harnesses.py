"""Routes of harnesses."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from perdure.api.kernel.call import Call
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


_HARNESS = {
    "name": "support",
    "system_prompt": "Answer briefly.",
    "capabilities": [{"ref": "session_file_system"}],
}


@route("POST", "/v1/harnesses", "harnesses", status=201, errors=(404, 409), body_example=_HARNESS)
async def create_harness(call: Call, body: CreateHarness) -> Harness:
    """Create a harness.

    A harness inherits from its parent, if it names one.
    """
    return await use.create_harness(call.app, call.caller, body, call.once)


@route("GET", "/v1/harnesses", "harnesses")
async def list_harnesses(call: Call, query: ListHarnesses) -> Listing[Harness]:
    """List harnesses.

    The built-in ones come first.
    """
    return Listing(
        tuple(await use.all_harnesses(call.app, call.caller, query.search or None, query.include_archived))
    )


@route("GET", "/v1/harnesses/{harness_id}", "harnesses", errors=(404,), etag=True)
async def get_harness(call: Call, harness_id: HarnessRef) -> Harness:
    """Get a harness by id or name.

    By id, or by name.
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
    """Change a harness; fields that are left out stay.

    Built-in ones cannot be changed, only copied. A harness cannot inherit from itself, also not by way of
    others.
    """
    return await use.change_harness(call.app, call.caller, harness_id, body, call.if_match)


@route("DELETE", "/v1/harnesses/{harness_id}", "harnesses", errors=(404, 409))
async def delete_harness(call: Call, harness_id: HarnessRef) -> None:
    """Archive a harness.

    It is hidden from lists, and nothing new can stand on it; what does already goes on. Built-in ones stay.
    """
    await use.archive_harness(call.app, call.caller, harness_id)


@route("POST", "/v1/harnesses/{harness_id}/copy", "harnesses", status=201, errors=(404, 409))
async def copy_harness(call: Call, harness_id: HarnessRef) -> Harness:
    """Copy a harness.

    The copy gets the next free name that ends in `-copy`. That of a built-in harness can be changed.
    """
    return await use.copy_harness(call.app, call.caller, harness_id, call.once)


@route("POST", "/v1/harnesses/import", "harnesses", status=201, errors=(404, 409))
async def import_harness(call: Call, query: ImportHarness) -> Harness:
    """Make the harness of an example.

    Under the example's own name, which must be free.
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
    """Show what the model would get of a harness.

    With its parents: the prompt put together and the tools, as the model would get them.
    """
    return await use_previews.preview_harness(call.app, call.caller, body)


@route("GET", "/v1/harnesses/check-name", "harnesses")
async def check_harness_name(call: Call, query: CheckName) -> NameCheck:
    """Say whether a name is free.

    What is malformed as a name is refused; a free name can be taken by somebody else a moment later.
    """
    exclude_id = None if query.exclude_id is None else check_id(query.exclude_id, "harness", "exclude_id")
    return await use.check_harness_name(call.app, call.caller, query.name, exclude_id)


@route("GET", "/v1/harnesses/config", "harnesses")
async def harness_config(call: Call) -> ResourceConfig:
    """Say what the caller may do with harnesses.

    By the role that the caller has in the organization.
    """
    return policies_of(call.caller.role, "harness")


@route("GET", "/v1/harnesses/{harness_id}/stats", "harnesses", errors=(404,))
async def get_harness_stats(call: Call, harness_id: HarnessRef) -> ResourceStats:
    """Count what a harness's sessions come to.

    Over all its sessions that were not deleted.
    """
    return await use.harness_stats(call.app, call.caller, harness_id)


@route("GET", "/v1/harness-examples", "harnesses")
async def list_examples(call: Call) -> tuple[HarnessExample, ...]:
    """List harnesses to begin with.

    Those that this server has the capabilities for.
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
