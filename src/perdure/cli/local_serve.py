"""`perdure serve --local-model`: a server with the small model of the demo."""

from __future__ import annotations

from perdure.app.predefined import LocalModel
from perdure.cli.common import CommandFailed
from perdure.cli.local_model import MODEL_TITLE, cache_folder, start_local_model
from perdure.server import serve
from perdure.settings import Settings


async def serve_with_local_model(settings: Settings) -> None:
    """Start the model, then run the server with it. Nothing is downloaded.

    Raises:
        CommandFailed: the database is PostgreSQL: servers on other machines could not reach the model.
        Unavailable: the model is not installed, or did not start; the message says what to do.
    """
    if settings.database_url:
        raise CommandFailed(
            "--local-model needs the embedded database: servers that share a PostgreSQL database could not "
            "all reach the model. Run `python -m perdure.cli.local_model`, and register its address"
        )
    model = await start_local_model(cache_folder())
    try:
        await serve(settings, local_model=LocalModel(model.base_url, model.model_name, MODEL_TITLE))
    finally:
        await model.stop()
