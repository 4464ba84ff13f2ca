"""Azure OpenAI's addresses: the v1 API, and the older API with deployments and an `api-version`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from yarl import URL

from perdure.domain.errors import InvalidInput
from perdure.llm.base_urls import path_segment
from perdure.llm.dialects import Dialect
from perdure.llm.driver import ListedModel, ProviderConfig
from perdure.llm.endpoint import Endpoint
from perdure.llm.openai_common import text_map

API_VERSION = "2024-10-21"
"""The version of the older API where the address names none: the last one that is not a preview."""

_V1 = "/openai/v1"
_MARK = "/deployments/"


class Deployment(Struct, frozen=True):
    """How the older API is called. `name` is the deployment of the address; None takes the model's name."""

    name: str | None = None
    models_path: str = "/models"

    def path(self, model: str) -> str:
        """Return the route of a call."""
        return f"{_MARK}{path_segment(self.name or model)}/chat/completions"

    def offered(self, listed: Sequence[ListedModel]) -> list[ListedModel]:
        """Return what can be called, of what the resource lists: the deployment, if the address names one."""
        return list(listed) if self.name is None else [ListedModel(self.name)]


def azure_endpoint(config: ProviderConfig, dialect: Dialect) -> tuple[Endpoint, Deployment | None]:
    """Return the endpoint of a resource, and how to call its deployments if it is the older API.

    An address without a path, and one that ends in `/openai` or `/openai/v1`, is the v1 API. One with an
    `api-version` or the path of a deployment is the older one.

    Raises:
        InvalidInput: the address is invalid.
    """
    try:
        url = URL((config.base_url or "").strip())
    except ValueError:
        raise InvalidInput("`base_url` must be an http or https URL", field="base_url") from None
    path, query = url.path.rstrip("/"), dict(url.query)
    path = path.removesuffix("/chat/completions").removesuffix("/responses").removesuffix("/models")
    root, mark, name = path.partition(_MARK)
    deployment: Deployment | None = None
    if mark or (query.get("api-version") and not path.endswith("/v1")):
        deployment = Deployment(name.partition("/")[0] or None)
        query.setdefault("api-version", API_VERSION)
        path = root if root.endswith("/openai") else f"{root}/openai"
    elif path in {"", "/openai", "/v1"}:
        path = _V1
    base = str(url.with_path(path).with_query(query or None))
    return Endpoint(
        base,
        _credentials(config, dialect),
        text_map(config.options.get("headers")),
        None,
        config.options.get("timeout_seconds"),
    ), deployment


def _credentials(config: ProviderConfig, dialect: Dialect) -> dict[str, str]:
    key = (config.api_key or "").strip()
    if not key:
        return {}
    header = dialect.key_header
    return {"Authorization": f"Bearer {key}"} if config.options.get("bearer") or not header else {header: key}
