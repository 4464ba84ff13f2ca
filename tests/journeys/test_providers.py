"""Providers: validated when they are set up, their secrets encrypted, their options passed to the driver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from perdure.app import models as use_models
from perdure.app import providers as use
from perdure.app.model_sync import sync_models
from perdure.app.providers import policies
from perdure.domain.accounts import Caller
from perdure.domain.errors import Forbidden
from perdure.domain.providers import CreateModel, CreateProvider, UpdateModel, UpdateProvider
from tests.conformance.drivers.vendor import Vendor, open_vendor
from tests.inside import Gate, house_with
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, new_talk, text_in
from tests.vendors import CHAT, KEY, MESSAGES, answer, new_model, vendor_provider

HEADERS = {"X-Team": "blue-team", "X-Trace": "trace-secret-1"}


@pytest_asyncio.fixture
async def vendor() -> AsyncIterator[Vendor]:
    async with open_vendor() as opened:
        yield opened


async def patch(http: httpx.AsyncClient, provider: Json, body: Json, status: int = 200) -> Json:
    found = await http.patch(f"/v1/providers/{provider['id']}?check=false", json=body)
    assert found.status_code == status, found.text
    answered: Json = found.json()
    return answered


async def ask(http: httpx.AsyncClient, model: Json, text: str = "Hi.") -> list[Json]:
    """Run one turn with this model; return its events."""
    talk = await new_talk(http, model_id=model["id"])
    await talk.say(text)
    return await talk.logged_until("session.idled")


UNUSABLE: list[tuple[Json, str, str]] = [
    ({"base_url": "ftp://example.com"}, "base_url", "invalid_request"),
    ({"base_url": "http://"}, "base_url", "invalid_request"),
    ({"base_url": "http://[::1"}, "base_url", "invalid_request"),
    ({"base_url": "http://169.254.169.254/latest"}, "base_url", "invalid_request"),
    ({"base_url": "http://me:password@example.com/v1"}, "base_url", "secret_in_url"),
    ({"base_url": "https://example.com/v1?api-key=abc"}, "base_url", "secret_in_url"),
    ({"api_key": "two\r\nlines"}, "api_key", "invalid_request"),
    ({"api_key": "schlüssel"}, "api_key", "invalid_request"),
    ({"api_key": "   "}, "api_key", "invalid_request"),
    ({"api_key": "one", "credentials": {"api_key": "two"}}, "credentials.api_key", "invalid_request"),
    ({"credentials": {"region": "eu"}}, "credentials.region", "unknown_credential"),
    ({"options": {"bearer": True}}, "options.bearer", "invalid_request"),
    ({"options": {"headers": {"Host": "elsewhere"}}}, "options.headers", "invalid_request"),
    ({"options": {"headers": {"X-Long": " padded"}}}, "options.headers", "invalid_request"),
    (
        {"options": {"headers": {"Authorization": "Basic 1234"}}, "api_key": "k"},
        "options.headers",
        "invalid_request",
    ),
    (
        {"options": {"headers": {f"X-{number}": "v" for number in range(33)}}},
        "options.headers",
        "invalid_request",
    ),
    ({"options": {"max_token_field": "max_tokens"}}, "options", "invalid_request"),
    (
        {"trace": {"enabled": True, "session_url_template": "javascript:alert(1)"}},
        "trace.session_url_template",
        "invalid_request",
    ),
    ({"provider_type": "abacus"}, "provider_type", "unknown_provider_type"),
]


@pytest.mark.parametrize(("fields", "field", "code"), UNUSABLE, ids=lambda value: str(value)[:60])
async def test_invalid_settings_are_refused_at_once(
    api: httpx.AsyncClient, fields: Json, field: str, code: str
) -> None:
    before = (await api.get("/v1/providers")).json()
    body = {"name": "Wrong", "provider_type": "openai_completions", **fields}
    problem = await post(api, "/v1/providers", body, 400)
    assert (problem["field"], problem["code"]) == (field, code)
    assert "password" not in problem["detail"]
    assert (await api.get("/v1/providers")).json() == before


async def test_an_invalid_change_changes_nothing(api: httpx.AsyncClient) -> None:
    provider = await post(api, "/v1/providers", {"name": "Fine", "provider_type": "openai_completions"})
    for fields, field, code in UNUSABLE:
        problem = await patch(api, provider, {"name": "Changed", **fields}, 400)
        assert (problem["field"], problem["code"]) == (field, code)
    assert (await api.get(f"/v1/providers/{provider['id']}")).json() == provider


async def test_a_provider_is_returned_without_its_secrets(api: httpx.AsyncClient, vendor: Vendor) -> None:
    trace = {
        "enabled": True,
        "session_url_template": "https://traces.example.com/{session_id}",
        "generation_url_template": None,
    }
    provider = await vendor_provider(
        api,
        vendor,
        options={"headers": HEADERS, "max_tokens_field": "max_tokens", "include_usage": False},
        trace=trace,
    )
    assert provider["api_key_set"] is True
    assert provider["options"] == {"max_tokens_field": "max_tokens", "include_usage": False}
    assert provider["header_names"] == ["X-Team", "X-Trace"]
    assert provider["trace"] == trace
    assert [action["rel"] for action in provider["allowed_actions"]] == [
        "self",
        "models",
        "check",
        "update",
        "delete",
        "sync",
    ]
    changed = await patch(api, provider, {"name": "Renamed"})
    assert {**changed, "name": "Scripted", "updated_at": ""} == {**provider, "updated_at": ""}
    for path in (f"/v1/providers/{provider['id']}", "/v1/providers", "/v1/providers/config"):
        text = (await api.get(path)).text
        assert KEY not in text
        assert "blue-team" not in text


async def test_key_headers_and_options_reach_the_vendor(api: httpx.AsyncClient, vendor: Vendor) -> None:
    provider = await vendor_provider(api, vendor, options={"headers": HEADERS, "include_usage": False})
    model = await new_model(api, provider)
    vendor.will(answer(), answer())
    await ask(api, model)
    first = vendor.asked[-1]
    assert (first.headers["x-team"], first.headers["authorization"]) == ("blue-team", f"Bearer {KEY}")
    assert "stream_options" not in first.body
    changed = await patch(
        api,
        provider,
        {
            "options": {"headers": {"x-team": "red-team", "X-Trace": None}, "include_usage": None},
            "api_key": "another-key",
        },
    )
    assert changed["header_names"] == ["x-team"]
    assert "options" not in changed
    await ask(api, model)
    second = vendor.asked[-1]
    assert (second.headers["x-team"], second.headers["authorization"]) == ("red-team", "Bearer another-key")
    assert "x-trace" not in second.headers
    assert "stream_options" in second.body


async def test_credentials_are_the_key_by_another_name(api: httpx.AsyncClient, vendor: Vendor) -> None:
    provider = await vendor_provider(api, vendor, api_key=None, credentials={"api_key": "by-credentials"})
    model = await new_model(api, provider)
    vendor.will(answer(), answer())
    await ask(api, model)
    assert vendor.asked[-1].headers["authorization"] == "Bearer by-credentials"
    for body, is_set in (
        ({"credentials": {}}, True),
        ({"credentials": None}, False),
        ({"credentials": {"api_key": "again"}}, True),
        ({"api_key": None}, False),
    ):
        assert (await patch(api, provider, body))["api_key_set"] is is_set
    await ask(api, model)
    assert "authorization" not in vendor.asked[-1].headers


async def test_null_clears_optional_fields(api: httpx.AsyncClient) -> None:
    made = await post(
        api,
        "/v1/providers?check=false",
        {
            "name": "All",
            "provider_type": "anthropic",
            "api_key": "k",
            "options": {"headers": HEADERS, "bearer": True, "max_tokens": 5},
            "trace": {"enabled": False},
        },
    )
    cleared = await patch(api, made, {"options": None, "api_key": None, "trace": None})
    assert not {"options", "header_names", "trace"} & set(cleared)
    assert cleared["api_key_set"] is False
    assert (await api.patch(f"/v1/providers/{made['id']}", json={"name": None})).status_code == 400
    again = await api.patch(f"/v1/providers/{made['id']}", json={})
    assert again.json() == cleared


async def test_changing_the_type_requires_removing_options_that_the_new_type_lacks(
    api: httpx.AsyncClient,
) -> None:
    made = await post(
        api, "/v1/providers", {"name": "A", "provider_type": "anthropic", "options": {"bearer": True}}
    )
    problem = await patch(api, made, {"provider_type": "openai"}, 400)
    assert problem["field"] == "options.bearer"
    assert (await patch(api, made, {"provider_type": "openai", "options": {"bearer": None}}))[
        "provider_type"
    ] == "openai"


async def test_a_stored_secret_cannot_be_sent_to_another_address(
    api: httpx.AsyncClient, vendor: Vendor
) -> None:
    provider = await vendor_provider(api, vendor, options={"headers": HEADERS})
    for body in (
        {"base_url": "http://127.0.0.1:1/v1"},
        {"base_url": None},
        {"base_url": "http://127.0.0.1:1/v1", "api_key": "new"},
        {"base_url": "http://127.0.0.1:1/v1", "options": {"headers": {"X-Team": "green"}}},
        {"base_url": "http://127.0.0.1:1/v1", "credentials": {}, "options": None},
    ):
        problem = await patch(api, provider, body, 400)
        assert (problem["code"], problem["field"]) == ("secret_would_move", "base_url")
    assert (await patch(api, provider, {"base_url": f"{vendor.url}/another/path"}))["api_key_set"] is True
    moved = await patch(
        api, provider, {"base_url": "http://127.0.0.1:1/v1", "api_key": "new", "options": {"headers": None}}
    )
    assert (moved["api_key_set"], moved.get("header_names")) == (True, None)
    bare = await post(
        api, "/v1/providers", {"name": "Bare", "provider_type": "openai_completions", "base_url": vendor.url}
    )
    assert (await patch(api, bare, {"base_url": "http://127.0.0.1:1/v1"}))[
        "base_url"
    ] == "http://127.0.0.1:1/v1"


async def test_a_disabled_provider_is_not_used(http: httpx.AsyncClient, vendor: Vendor) -> None:
    provider = await vendor_provider(http, vendor)
    model = await new_model(http, provider)
    assert (await http.get(f"/v1/models/{model['id']}")).json()["healthy"] is True
    assert (await patch(http, provider, {"status": "disabled"}))["status"] == "disabled"
    assert (await http.get(f"/v1/models/{model['id']}")).json()["healthy"] is False
    events = await ask(http, model)
    assert (
        next(event for event in events if event["type"] == "llm.generation")["data"]["metadata"]["provider"]
        == "llmsim"
    )
    assert vendor.asked == []


VENDORS = ("gemini", "bedrock", "azure_openai", "openrouter", "mistral", "groq", "moonshot", "deepseek")
"""The types of vendors, which need a key."""
SERVERS = ("ollama", "vllm", "lm_studio", "litellm")
"""The types of servers that people run themselves, which may have one."""


async def test_the_forms_list_what_each_type_needs(api: httpx.AsyncClient) -> None:
    config = (await api.get("/v1/providers/config")).json()
    assert config["policies"] == {"provider.manage": True}
    forms = {each["driver"]: each["credential_schema"] for each in config["drivers"]}
    assert set(forms) == {"openai", "openai_completions", "anthropic", "llmsim", *VENDORS, *SERVERS}
    needed = {
        name: [(field["name"], field["field_type"], field["required"]) for field in form["fields"]]
        for name, form in forms.items()
    }
    assert needed == {
        "openai": [("api_key", "password", True)],
        "openai_completions": [("api_key", "password", False)],
        "anthropic": [("api_key", "password", True)],
        "llmsim": [],
        **{name: [("api_key", "password", True)] for name in VENDORS},
        **{name: [("api_key", "password", False)] for name in SERVERS},
    }
    assert all(form["instructions_markdown"] for form in forms.values())
    assert not any(each["supports_oauth"] for each in config["drivers"])
    assert (await api.get("/v1/models/config")).json() == {"policies": {"model.manage": True}}


def test_members_may_only_read() -> None:
    assert policies(Caller("org", "user", "member"), "provider") == {"provider.manage": False}
    assert policies(Caller("org", "user", "admin"), "model") == {"model.manage": True}


async def test_members_change_nothing(tmp_path: Path) -> None:
    async with house_with(Gate(1), tmp_path) as house:
        app, member = house.parts.app, Caller(house.owner.organization_id, house.owner.user_id, "member")
        (provider,), (model,) = await use.all_providers(app, member), await use_models.all_models(app, member)
        for attempt in (
            use.create_provider(app, member, CreateProvider("Mine", "llmsim")),
            use.change_provider(app, member, provider.id, UpdateProvider(name="Mine")),
            use.remove_provider(app, member, provider.id),
            use_models.create_model(app, member, provider.id, CreateModel("m", "M")),
            use_models.change_model(app, member, model.id, UpdateModel(enabled=False)),
            use_models.remove_model(app, member, model.id),
            sync_models(app, member, provider.id),
        ):
            with pytest.raises(Forbidden):
                await attempt
        assert await use.all_providers(app, member) == [provider]
        assert await use_models.all_models(app, member) == [model]


async def test_providers_of_another_organization_are_not_found(
    api: httpx.AsyncClient, vendor: Vendor
) -> None:
    provider = await vendor_provider(api, vendor)
    model = await new_model(api, provider)
    there = {"X-Org-Id": (await post(api, "/v1/orgs", {"name": "Elsewhere"}))["id"]}
    own = (
        await api.post("/v1/providers", json={"name": "Own", "provider_type": "llmsim"}, headers=there)
    ).json()
    for method, path, body in (
        ("POST", f"/v1/providers/{provider['id']}/sync-models", None),
        ("GET", f"/v1/providers/{provider['id']}/models", None),
        ("PATCH", f"/v1/providers/{provider['id']}", {"status": "disabled"}),
        ("PATCH", f"/v1/models/{model['id']}", {"enabled": False}),
    ):
        assert (await api.request(method, path, json=body, headers=there)).status_code == 404, path
    moved = await api.patch(f"/v1/models/{model['id']}", json={"provider_id": own["id"]})
    assert moved.status_code == 404
    assert vendor.asked == []


@pytest.mark.parametrize("stored", ["http://169.254.169.254/v1", "nonsense"])
async def test_settings_that_became_invalid_fail_the_turn_with_a_readable_error(
    tmp_path: Path, stored: str
) -> None:
    """Stored settings may come from an older version with other rules."""
    async with house_with(Gate(1), tmp_path) as house:
        await house.parts.database.write(
            lambda tx: tx.run("UPDATE providers SET provider_type = 'openai', base_url = ?", stored)
        )
        await house.say("Hi.")
        events = await house.until_idle()
        failed = next(event for event in events if event.type == "turn.failed").decoded()
        assert failed.error_code == "provider_misconfigured"
        assert "Simulated" in failed.error
        said = next(event for event in events if event.type == "output.message.completed").decoded().message
        assert "settings are not valid" in text_in(
            {"content": [{"type": "text", "text": said.content[0].text}]}
        )


# --- keys in the environment ---------------------------------------------------

KEYS = {"OPENAI_API_KEY": "sk-from-environment-1", "ANTHROPIC_API_KEY": "sk-ant-from-environment"}


async def models_of(server: Server) -> list[Json]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        found: list[Json] = (await client.get("/v1/models")).json()["data"]
        return found


async def test_keys_in_the_environment_set_up_their_vendors(database_url: str, tmp_path: Path) -> None:
    async with Server(tmp_path / "data", database_url=database_url, environment=KEYS) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            providers = (await client.get("/v1/providers")).json()["data"]
            default = (await client.get("/v1/orgs")).json()["data"][0]["default_model_id"]
            forms = {
                each["driver"]: each["credential_schema"]
                for each in (await client.get("/v1/providers/config")).json()["drivers"]
            }
        assert [(each["provider_type"], each["api_key_set"], each.get("base_url")) for each in providers] == [
            ("openai", False, None),
            ("anthropic", False, None),
        ]
        assert forms["openai"]["fields"][0]["required"] is False
        models = await models_of(server)
        assert [(each["source"], each["provider_type"], each["healthy"]) for each in models] == [
            ("predefined", "openai", True),
            ("predefined", "anthropic", True),
        ]
        assert default == models[0]["id"]
        assert all(each["profile"]["limits"] and each["profile"]["cost"] for each in models)
        await server.restart()
        assert [each["id"] for each in await models_of(server)] == [each["id"] for each in models]
        log = server.log.read_text()
    held = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir() if path.is_file())
    for key in KEYS.values():
        assert key not in log
        assert key.encode() not in held


async def test_a_vendor_that_is_already_set_up_is_not_changed(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        await use_simulated_model(client)
        await post(
            client,
            "/v1/providers?check=false",
            {"name": "Mine", "provider_type": "openai", "api_key": "mine"},
        )
    async with Server(tmp_path / "data", environment=KEYS) as server:
        assert [(each["provider_type"], each["source"]) for each in await models_of(server)] == [
            ("llmsim", "manual"),
            ("anthropic", "predefined"),
        ]


async def test_without_a_key_in_the_environment_a_vendors_models_are_not_healthy(
    api: httpx.AsyncClient,
) -> None:
    provider = await post(api, "/v1/providers", {"name": "No key", "provider_type": "openai"})
    model = await new_model(api, provider, "gpt-5-mini")
    path = f"/v1/models/{model['id']}"
    assert (await api.get(path)).json()["healthy"] is False
    await patch(api, provider, {"api_key": "now"})
    assert (await api.get(path)).json()["healthy"] is True


@pytest.mark.parametrize(
    ("wire", "marked"), [(MESSAGES, True), (CHAT, False)], ids=["anthropic", "openai_completions"]
)
async def test_prompts_are_marked_for_caching_if_the_vendor_needs_marks(
    api: httpx.AsyncClient, vendor: Vendor, wire: Any, marked: bool
) -> None:
    model = await new_model(api, await vendor_provider(api, vendor, wire))
    vendor.will(answer(wire=wire))
    await ask(api, model)
    assert ("cache_control" in str(vendor.sent)) is marked
