"""The HTTP routes of the server."""

import hmac
import re
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from swagger_ui_bundle import swagger_ui_path

from dapt.errors import UsageError, listed, shown
from dapt.inference.serving.answers import TYPES, check_answer
from dapt.inference.serving.intake import KINDS
from dapt.inference.serving.limits import Limits, Refused
from dapt.inference.serving.service import Service
from dapt.inference.serving.shelf import Shelf
from dapt.version import __version__

SHORTEST_TOKEN = 16
PAGE_FILES = {  # of the OpenAPI page, which loads nothing from other servers
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self' data: 'unsafe-inline'",
}
AnswerKind = Enum("AnswerKind", {kind: kind for kind in TYPES}, type=str)

REFUSALS = {
    413: "More bytes, points or clouds than the server takes",
    422: "A body or an option that cannot be used",
    429: "Too many requests are in progress",
    503: "Not answered in time, or short of memory",
}


def create_app(
    shelf: Shelf,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: frozenset[str] | None = None,
) -> FastAPI:
    """Create the server as an ASGI application.

    Args:
        shelf: The adapters to serve.
        limits: The limits of requests.
        token: The token that allows loading and unloading adapters; None to forbid both.
        hosts: The host names that requests may use; None for any. Restricting them protects from
            web pages whose domain name resolves to this machine (DNS rebinding).
    """
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise UsageError(f"the token must have at least {SHORTEST_TOKEN} characters")
    service = Service(shelf, limits or Limits())

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        service.close()

    app = FastAPI(
        title="dapt",
        version=__version__,
        description="Labels of point clouds by adapters of one frozen backbone.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.openapi_version = "3.0.3"  # the version that the page's script supports
    app.state.service = service
    _add_bounds(app, hosts)
    _add_prediction(app, service)
    _add_adapters(app, service, token)
    _add_observation(app, service)
    return app


def _add_bounds(app: FastAPI, hosts: frozenset[str] | None) -> None:
    """Add the checks that hold for every request, and the handlers of refused ones."""

    @app.middleware("http")
    async def bounds(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        name = re.sub(r":\d*$", "", request.headers.get("host", "")).strip("[]")
        if hosts is not None and name not in hosts:
            response = _said(Refused(400, f"this server does not answer to {shown(name)[:100]!r}"))
        else:
            response = await call(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return _said(error)

    @app.exception_handler(RequestValidationError)
    async def mistaken(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"])
        return _said(Refused(422, shown(f"{where}: {first['msg']}")[:300]))


def _said(error: Refused) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, error.status, error.headers)


def _add_prediction(app: FastAPI, service: Service) -> None:
    body = {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["points"],
                "properties": {"points": {"type": "array", "items": {}}},
            },
            "example": {"points": [[0.0, 0.0, 0.0], [0.1, 0.2, 0.3]]},
        },
    }

    @app.post(
        "/predict",
        response_class=Response,
        openapi_extra={"requestBody": {"required": True, "content": body}},
        responses={
            200: {"content": {kind: {} for kind in TYPES.values()}},
            **{status: {"description": what} for status, what in REFUSALS.items()},
        },
    )
    async def predict(
        request: Request,
        adapter: Annotated[
            str,
            Query(
                description="name of the adapter; not needed if there is only one", max_length=100
            ),
        ] = "",
        format: Annotated[
            str, Query(description=f"format of the body, if nothing else tells: {listed(KINDS)}")
        ] = "",
        category: Annotated[
            str, Query(description="category of the objects, for part segmentation", max_length=200)
        ] = "",
        answer: Annotated[
            AnswerKind, Query(description="json, or a file of labeled points")
        ] = AnswerKind.json,
    ) -> Response:
        """Label clouds: a file as the body or in a form, a .npy array, or JSON with `points`."""
        check_answer(answer.value, service.shelf.get(adapter).adapter.task.labels_points)
        content = await service.predict(request, adapter, format, category, answer.value)
        return Response(content, media_type=TYPES[answer.value])


def _add_adapters(app: FastAPI, service: Service, token: str | None) -> None:
    shelf = service.shelf
    bearer = HTTPBearer(auto_error=False, description="the server's token")

    async def may_change(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> None:
        if token is None:
            raise Refused(403, "adapters can be loaded and unloaded only if the server has a token")
        told = "" if given is None else given.credentials
        if not hmac.compare_digest(told.encode(), token.encode()):
            raise Refused(
                401,
                "this needs the server's token: Authorization: Bearer ...",
                {"WWW-Authenticate": "Bearer"},
            )

    @app.get("/adapters")
    async def list_adapters() -> list[dict]:
        """Describe each adapter: its task, its labels, and what its clouds must look like."""
        return [served.describe() for served in shelf]

    @app.put("/adapters/{name}", dependencies=[Depends(may_change)])
    async def load_adapter(name: str) -> dict:
        """Load an adapter from the server's folder, or reload it; calls in progress continue."""
        return await service.change(lambda: shelf.load(name).describe())

    @app.delete(
        "/adapters/{name}",
        dependencies=[Depends(may_change)],
        status_code=204,
        response_class=Response,
    )
    async def unload_adapter(name: str) -> None:
        """Unload an adapter; calls in progress continue."""
        await service.change(lambda: shelf.unload(name))


def _add_observation(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> dict:
        """Whether the server answers, and for how many adapters."""
        return {"status": "ok", "adapters": len(service.shelf)}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def page() -> Response:
        script, style, icon = (f"docs/{name}" for name in PAGE_FILES)
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title="dapt",
            swagger_js_url=script,
            swagger_css_url=style,
            swagger_favicon_url=icon,
        )

    @app.get("/docs/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        if name not in PAGE_FILES:
            raise HTTPException(404)
        content = (swagger_ui_path / name).read_bytes()
        return Response(content, media_type=PAGE_FILES[name])
