"""Requests that are generated from the server's own OpenAPI document; the same ones in every run.

The generator takes a second to import, so tests import this module when they run, not when they are
collected.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import schemathesis
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.soak import SCALE, SOAKING

EXAMPLES = 20 * SCALE if SOAKING else 1
"""How many requests each operation gets beyond the systematic ones. The soak makes more of them."""

LEFT_OUT = {
    "stream_inbox": "its answers do not end; the stream has tests of its own",
    "stream_sse": "its answers do not end; the stream has tests of its own",
    "delete_account": "if it succeeds, no user is left to make requests",
    "sync_models": "it calls the provider's address and passes on its errors; it has tests of its own",
    "check_provider": "it calls the provider's address; it has tests of its own",
    "check_provider_credentials": "it calls whatever address is generated; it has tests of its own",
}


def not_held_against_it(case: schemathesis.Case, status: int = 0) -> list[Callable[..., bool | None]]:
    """The checks that say nothing about the answer to a request; `status`: the answer's, if it is known."""
    # The schemas cannot express every rule (that two fields exclude each other, for one), so a request that
    # is valid by its schema may still be refused.
    checks = [positive_data_acceptance]
    if status == 502 and "502" in case.operation.definition.raw["responses"]:
        checks.append(not_a_server_error)  # another server was asked, at an address that was generated
    # Plain text cannot have another type than a string: a number that is sent as text is a text.
    return [*checks, negative_data_rejection] if (case.media_type or "").startswith("text/") else checks


def _tested(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document without the header that selects an organization: the tests stay in one.

    It is a copy in full: walking through chains of requests writes links into it.
    """
    document = copy.deepcopy(document)
    paths = {
        path: {
            method: {
                **operation,
                "parameters": [
                    each
                    for each in operation.get("parameters", ())
                    if each.get("$ref") != "#/components/parameters/Organization"
                ],
            }
            for method, operation in item.items()
        }
        for path, item in document["paths"].items()
    }
    return {**document, "paths": paths, "servers": [{"url": "/"}]}


def schema_of(document: dict[str, Any]) -> BaseSchema:
    """The operations of a document, from which requests are generated."""
    load_all_checks()
    generation = GenerationConfig(
        max_examples=EXAMPLES,
        deterministic=True,
        database="none",
        # Unknown parameters are ignored, so they are not bad input.
        allow_extra_parameters=False,
        with_security_parameters=False,
    )
    projects = ProjectsConfig(default=ProjectConfig(generation=generation))
    return schemathesis.openapi.from_dict(
        _tested(document), config=SchemathesisConfig(seed=1, projects=projects)
    ).exclude(operation_id=list(LEFT_OUT))


def operations(schema: BaseSchema) -> list[APIOperation]:
    return [each.ok() for each in schema.get_all_operations()]


def check_operation(
    schema: BaseSchema, operation: APIOperation, check: Callable[[schemathesis.Case], object]
) -> None:
    """Generate the requests of one operation and check each answer."""

    def checked(case: schemathesis.Case) -> None:
        check(case)

    build_operation_test(
        config=schema.config,
        operation=operation,
        test_func=checked,
        given_kwargs={},
        feedback=FeedbackSources(),
    )()
