"""The OpenAPI document is valid, complete, and consistent with the routes and the types."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import quote

import jsonschema_rs
import msgspec
import pytest

from perdure.api.kernel.problems import Problem, problem_of
from perdure.api.kernel.route import Route
from perdure.api.openapi.docs_html import api_page, errors_page
from perdure.api.openapi.document import build_document
from perdure.api.openapi.error_codes import RESPONSES
from perdure.api.openapi.examples import Examples
from perdure.api.openapi.tags import TAGS
from perdure.domain.errors import InvalidInput, NotFound, PerdureError
from perdure.domain.events import EVENT_DATA
from perdure.domain.visible import LABEL_PATTERN
from perdure.routing import ThisProcess, all_routes
from perdure.settings import Settings

METHODS = ("get", "put", "post", "delete", "patch")


def every_route() -> tuple[Route, ...]:
    return all_routes(Settings(), ThisProcess())


ROUTES = every_route()
DOCUMENT = build_document(ROUTES, "1.2.3")
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
WITH_BODY = [route for route in ROUTES if route.body is not None]
WITH_RESPONSE = [
    route for route in ROUTES if route.returns is not None and route.content == "application/json"
]


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            assert method in METHODS
            yield method, path, operation


def at(*place: str) -> Any:
    """What stands at this place of the document."""
    return functools.reduce(lambda value, step: value[step], place, DOCUMENT)


HERE = "urn:document"
REGISTRY = jsonschema_rs.Registry([(HERE, DOCUMENT)], draft=jsonschema_rs.Draft202012)


def violations(value: Any, *place: str) -> list[str]:
    """What the schema at this place of the document has against a value."""
    pointer = quote("/".join(step.replace("~", "~0").replace("/", "~1") for step in place))
    validator = jsonschema_rs.Draft202012Validator({"$ref": f"{HERE}#/{pointer}"}, registry=REGISTRY)
    return [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(value)]


def test_a_violation_of_a_schema_and_of_one_that_it_refers_to_is_found() -> None:
    place = ("components", "schemas", "ErrorResponse")
    good = DOCUMENT["components"]["responses"]["Error404"]["content"]["application/problem+json"]["example"]
    assert violations(good, *place) == []
    assert violations({**good, "status": "404"}, *place) != []
    assert violations({**good, "error": {**good["error"], "code": 404}}, *place) != []


def test_the_document_is_valid_openapi_31() -> None:
    from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

    assert [
        f"{error.instance_path}: {error.message}"[:300]
        for error in OPENAPI_31_VALIDATOR.iter_errors(DOCUMENT)
    ] == []


def test_every_schema_is_a_valid_json_schema() -> None:
    dialect = "https://json-schema.org/draft/2020-12/schema"
    assert [
        name
        for name, schema in SCHEMAS.items()
        if not jsonschema_rs.meta.is_valid({**schema, "$schema": dialect})
    ] == []


def test_every_reference_leads_somewhere() -> None:
    text = msgspec.json.encode(DOCUMENT).decode()
    for section, name in set(re.findall(r'"#/components/(\w+)/([^"]+)"', text)):
        assert name in DOCUMENT["components"][section]


def test_the_document_has_every_route_once() -> None:
    assert {(method.upper(), path) for method, path, _ in operations()} == {
        (route.method, route.path) for route in ROUTES
    }
    assert len(DOCUMENT["paths"]) == len({route.path for route in ROUTES})


def test_operation_ids_are_unique_words() -> None:
    names = [route.operation_id for route in ROUTES]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[a-z]+(_[a-z]+)*", name)] == []


def test_every_operation_and_every_parameter_is_described() -> None:
    for _, _, operation in operations():
        name = operation["operationId"]
        assert operation["summary"], name
        assert operation.get("description"), f"{name}: describe it in its handler's docstring"
        for parameter in operation.get("parameters", ()):
            assert "$ref" in parameter or parameter.get("description"), (
                f"{name}: describe {parameter['name']} in api/openapi/document.py"
            )


def structs_in(hint: Any) -> Iterator[type[msgspec.Struct]]:
    """The structs that a type consists of, without those of their fields."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    origin = get_origin(hint)
    if origin is not None and origin is not Literal:
        yield from structs_in(origin)
        for each in get_args(hint):
            yield from structs_in(each)


def every_struct() -> dict[str, type[msgspec.Struct]]:
    """All structs of requests and responses, by module and name."""
    found: dict[str, type[msgspec.Struct]] = {}
    kinds = [kind for route in ROUTES for kind in (route.body, route.returns, route.also, route.query)]
    wanted = [each for kind in (Problem, *EVENT_DATA.values(), *kinds) for each in structs_in(kind)]
    while wanted:
        struct = wanted.pop()
        name = f"{struct.__module__}.{struct.__name__}"
        if name not in found:
            found[name] = struct
            wanted += [each for hint in get_type_hints(struct).values() for each in structs_in(hint)]
    return found


STRUCTS = every_struct()


def test_every_field_is_described_where_it_is_declared() -> None:
    assert [
        f"{name}.{field}: give it Meta(description=...)"
        for name, struct in STRUCTS.items()
        for field, hint in get_type_hints(struct, include_extras=True).items()
        if field in struct.__struct_fields__
        and not any(getattr(each, "description", None) for each in getattr(hint, "__metadata__", ()))
    ] == []


def fields() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every field of every schema: the schema's name, the field's, and the field's schema."""
    for name, schema in SCHEMAS.items():
        for field, its_schema in schema.get("properties", {}).items():
            yield name, field, its_schema


def test_the_document_describes_every_field() -> None:
    assert [f"{name}.{field}" for name, field, schema in fields() if not schema.get("description")] == []


def test_every_example_of_a_field_fits() -> None:
    assert [
        (f"{name}.{field}", example, wrong)
        for name, field, schema in fields()
        for example in schema.get("examples", ())
        if (wrong := violations(example, "components", "schemas", name, "properties", field))
    ] == []


def test_every_tag_is_described() -> None:
    assert {tag["name"]: tag["description"] for tag in DOCUMENT["tags"]} == {
        route.tag: TAGS[route.tag] for route in ROUTES
    }


def test_no_description_is_left_over_from_a_removed_tag() -> None:
    assert set(TAGS) - {route.tag for route in ROUTES} == set()


def test_every_body_has_an_example_that_fits() -> None:
    for route in WITH_BODY:
        place = ("paths", route.path, route.method.lower(), "requestBody", "content", "application/json")
        content = at(*place)
        assert "example" in content, f"{route.operation_id}: give the route a body_example"
        assert violations(content["example"], *place, "schema") == [], route.operation_id
        msgspec.convert(content["example"], route.body)


def test_every_response_has_an_example_that_fits() -> None:
    for route in WITH_RESPONSE:
        answers = ("paths", route.path, route.method.lower(), "responses")
        place = (*answers, str(route.status), "content", "application/json")
        content = at(*place)
        if "example" not in content:
            Examples(SCHEMAS).of(content["schema"])  # names the field that has no example
        assert violations(content["example"], *place, "schema") == [], route.operation_id
        msgspec.json.decode(msgspec.json.encode(content["example"]), type=route.returns)


def test_every_error_has_an_example_that_fits_with_a_code_of_its_status() -> None:
    known = {each.code: each.status for each in RESPONSES}
    for name, answer in DOCUMENT["components"]["responses"].items():
        example = answer["content"]["application/problem+json"]["example"]
        assert violations(example, "components", "schemas", "ErrorResponse") == [], name
        problem = msgspec.convert(example, Problem)
        assert f"Error{problem.status}" == name
        assert known.get(problem.code, 502) == problem.status


def test_exports_have_examples() -> None:
    exports = [
        route for route in ROUTES if route.path.endswith("/export") and route.content != "application/json"
    ]
    assert {route.operation_id for route in exports} == {
        "export_agent", "export_model_calls", "export_session_jsonl",
    }  # fmt: skip
    for route in exports:
        assert DOCUMENT["paths"][route.path]["get"]["responses"]["200"]["content"][route.content]["example"]


def test_errors_are_problem_documents() -> None:
    for answer in DOCUMENT["components"]["responses"].values():
        schema = answer["content"]["application/problem+json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/ErrorResponse"}
    assert {"type", "title", "status", "detail", "instance", "code", "error"} <= set(
        SCHEMAS["ErrorResponse"]["properties"]
    )


def test_every_id_in_a_path_has_the_pattern_of_its_kind() -> None:
    for route in ROUTES:
        given = at("paths", route.path, route.method.lower()).get("parameters", ())
        parameters = {each["name"]: each for each in given if each.get("in") == "path"}
        assert set(parameters) == set(re.findall(r"{(\w+)}", route.path)), route.operation_id
        for name, prefix in route.ids.items():
            assert parameters[name]["schema"]["pattern"] == f"^{prefix}_[0-9a-f]{{32}}$", route.operation_id


def test_ids_in_bodies_have_the_pattern_of_their_kind() -> None:
    pattern = "^agent_[0-9a-f]{32}$"
    assert SCHEMAS["Session"]["properties"]["agent_id"]["anyOf"][0]["pattern"] == pattern
    assert SCHEMAS["Agent"]["properties"]["id"]["pattern"] == pattern
    # The vendor's name of the model, not an id.
    assert SCHEMAS["CreateModel"]["properties"]["model_id"]["pattern"] == LABEL_PATTERN


def test_public_operations_need_no_token_and_all_others_can_answer_401() -> None:
    for _, _, operation in operations():
        if operation.get("security") == []:
            assert "401" not in operation["responses"]
        else:
            assert {"400", "401", "403", "503"} <= set(operation["responses"])


def test_an_upsert_documents_both_of_its_statuses_and_a_creation_only_one() -> None:
    assert {"200", "201"} <= set(DOCUMENT["paths"]["/v1/agents"]["post"]["responses"])
    assert "200" not in DOCUMENT["paths"]["/v1/sessions"]["post"]["responses"]


def test_the_data_of_an_event_is_one_of_the_known_types() -> None:
    kinds = [each["$ref"] for each in SCHEMAS["Event"]["properties"]["data"]["anyOf"]]
    assert "#/components/schemas/TurnCompletedData" in kinds
    assert len(kinds) > 20


class Anchors(HTMLParser):
    """A page's anchors, its links, and whether its elements are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.scripts = 0
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links |= {value for name, value in attrs if name in ("href", "src") and value}
        self.scripts += tag == "script" or any(name.startswith("on") for name in given)
        if tag in ("section", "table", "details", "pre", "a", "code", "h2", "h3", "h4", "p", "nav", "ul"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag


@pytest.mark.parametrize("page", [api_page(DOCUMENT), errors_page()], ids=["api", "errors"])
def test_the_pages_load_nothing_from_other_hosts_and_have_no_scripts(page: str) -> None:
    found = Anchors(page)
    assert found.scripts == 0
    assert found.open == []
    assert len(set(found.ids)) == len(found.ids)
    assert [link for link in found.links if not link.startswith(("#", "/docs", "/api-doc/"))] == []
    assert {link[1:] for link in found.links if link.startswith("#")} - set(found.ids) == set()


def test_the_page_has_an_anchor_for_every_operation_and_every_type() -> None:
    ids = set(Anchors(api_page(DOCUMENT)).ids)
    assert {route.operation_id for route in ROUTES} | {f"type-{name}" for name in SCHEMAS} <= ids


def test_the_type_of_an_error_is_an_anchor_on_the_page_of_errors() -> None:
    ids = set(Anchors(errors_page()).ids)
    assert {error.code for error in RESPONSES} | {f"status-{error.status}" for error in RESPONSES} <= ids
    for error in (NotFound("session"), InvalidInput("x"), PerdureError("x")):
        assert problem_of(error, "/").type.removeprefix("/docs/errors#") in ids


def test_html_in_a_description_is_escaped_on_the_page() -> None:
    odd = {"Odd": {"description": "<script>alert(1)</script> & `<b>`"}}
    page = api_page({**DOCUMENT, "components": {**DOCUMENT["components"], "schemas": odd}})
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; <code>&lt;b&gt;</code>" in page
