"""Base URLs as people have them, and how long their servers may be silent."""

from __future__ import annotations

import pytest

from perdure.llm.base_urls import base_urls, is_near, path_segment
from perdure.llm.driver import ProviderConfig
from perdure.llm.http import NEAR_READ_TIMEOUT, READ_TIMEOUT, Http
from perdure.llm.openai_common import endpoint_of

V1 = "https://h/v1"


@pytest.mark.parametrize(
    ("given", "base", "other"),
    [
        ("https://h", V1, "https://h"),
        (" https://h/ ", V1, "https://h"),
        ("https://h:8080", "https://h:8080/v1", "https://h:8080"),
        ("https://h/v1", V1, None),
        ("https://h/v1/", V1, None),
        ("https://h/v3", "https://h/v3", None),
        ("https://h/api/paas/v4", "https://h/api/paas/v4", None),
        ("https://h/v1beta/openai/", "https://h/v1beta/openai", None),
        ("https://h/inference", "https://h/inference", "https://h/inference/v1"),
        ("https://h/serving-endpoints/", "https://h/serving-endpoints", "https://h/serving-endpoints/v1"),
        ("https://h/deployments/x", "https://h/deployments/x", "https://h/deployments/x/v1"),
        ("https://h/v1/chat/completions", V1, None),
        ("https://h/v1/responses/", V1, None),
        ("https://h/v1/messages", V1, None),
        ("https://h/v1/completions", V1, None),
        ("https://h/v1/models", V1, None),
        ("https://h/v1/chat", V1, None),
        ("https://h//v1//", V1, None),
        ("https://h/chat", "https://h/chat", "https://h/chat/v1"),
        ("https://h/models", "https://h/models", "https://h/models/v1"),
        ("https://h/chat/completions", V1, "https://h"),
        ("https://h/x/chat/completions?api=7", "https://h/x?api=7", "https://h/x/v1?api=7"),
        ("https://h?api-version=7", "https://h/v1?api-version=7", "https://h?api-version=7"),
        ("https://h/v1#top", V1, None),
        ("https://v1.h/x", "https://v1.h/x", "https://v1.h/x/v1"),
    ],
)  # fmt: skip
def test_a_path_is_kept_and_a_bare_host_gets_a_version(given: str, base: str, other: str | None) -> None:
    assert base_urls(given) == (base, other)


@pytest.mark.parametrize(
    ("given", "base", "other"),
    [
        ("https://h", V1, "https://h"),
        ("https://h/v1/", V1, None),
        ("https://h/v1/messages", V1, None),
        ("https://h/messages", V1, "https://h"),
        ("https://h/anthropic", "https://h/anthropic/v1", "https://h/anthropic"),
    ],
)
def test_a_protocol_may_add_the_version_to_every_path(given: str, base: str, other: str | None) -> None:
    assert base_urls(given, versioned=True) == (base, other)


NEAR = (
    "localhost 127.0.0.1 [::1] 10.0.0.7 192.168.1.5 172.16.0.1 [fd12:3456::1] gpu-box box.local box.lan"
    " host.docker.internal 2130706433 100.64.0.1"
)
FAR = "api.openai.com 8.8.8.8 models.example.com local.example.com [2606:4700::1]"


@pytest.mark.parametrize(
    ("host", "near"), [*((host, True) for host in NEAR.split()), *((host, False) for host in FAR.split())]
)
async def test_servers_nearby_may_be_silent_for_longer(host: str, near: bool) -> None:
    assert is_near(host) is near
    endpoint = endpoint_of(ProviderConfig("openai", f"http://{host}:8000"))
    usual = NEAR_READ_TIMEOUT if near else READ_TIMEOUT
    assert Http()._timeout(endpoint).sock_read == usual
    assert Http(read_timeout=7)._timeout(endpoint).sock_read == 7
    own = endpoint_of(ProviderConfig("openai", f"http://{host}:8000", None, {"timeout_seconds": 5}))
    assert Http(read_timeout=7)._timeout(own).sock_read == 5


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("anthropic.claude-x-v1:0", "anthropic.claude-x-v1%3A0"),
        (
            "arn:aws:bedrock:us-east-1:1:inference-profile/x",
            "arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fx",
        ),
        ("..", "%2E%2E"),
        ("../x?y#z", "..%2Fx%3Fy%23z"),
        ("名", "%E5%90%8D"),
    ],
)
def test_a_name_is_one_segment_of_a_path(name: str, segment: str) -> None:
    assert path_segment(name) == segment
