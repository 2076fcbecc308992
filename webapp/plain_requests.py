"""One plain request: the page answers the addresses of `hubmodels serve`, too, with the models that it has loaded."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from starlette._utils import get_route_path
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from hubmodels import BackboneError, ModelError, PictureError, PreparedPicture
from hubmodels.hub.catalog import Catalog
from hubmodels.line.line import chosen_detectors, sha256_of
from hubmodels.line.serve import MODEL, NOT_KEPT, Limits, Server
from webapp.inspection import inspect_picture
from webapp.page_log import NotLoggedError, PageLog


@dataclass(frozen=True)
class CategoryLine:
    """A category of the page; its models are loaded when a picture is judged."""

    catalog: Catalog
    label: str
    log: PageLog = field(default_factory=PageLog)
    drift = None  # pictures come from several places

    @property
    def methods(self) -> list[str]:
        """Names of the methods that are listed."""
        return [entry.method for entry in self.catalog.entries if entry.label == self.label]

    def judge(
        self, name: str, picture: bytes, rate: float | None = None, methods: Collection[str] | None = None
    ) -> dict:
        """As `Line.judge`; also returns the errors of a model that cannot be loaded and of the log."""
        try:
            prepared = PreparedPicture(picture)  # first, because a bad picture needs no models
            chosen = chosen_detectors(self.label, self.catalog.load(self.label), methods)
            inspection = inspect_picture(self.catalog, self.label, prepared, rate, list(chosen))
            self.log.inspection(name, picture, self.label, inspection, rate, self.catalog)
        except NotLoggedError as error:
            return {"picture": name, "error": {"kind": NOT_KEPT, "message": str(error)}}
        except PictureError as error:
            return {"picture": name, "error": {"kind": error.fault, "message": str(error)}}
        except (ModelError, BackboneError):  # the reason contains paths of the server
            words = f"a model of {self.label} cannot be loaded at present; the page shows the reason"
            return {"picture": name, "error": {"kind": MODEL, "message": words}}
        return {"picture": name, "sha256": sha256_of(picture)} | inspection.record(self.label, rate)


class CategoryLines(Mapping[str, CategoryLine]):
    """The categories of a catalog at present. A category that is gone is an error when a picture is judged."""

    def __init__(self, catalog: Catalog, log: PageLog) -> None:
        self._catalog, self._log = catalog, log

    def __getitem__(self, label: str) -> CategoryLine:
        return CategoryLine(self._catalog, label, self._log)

    def __iter__(self) -> Iterator[str]:
        return iter(self._catalog.categories())

    def __len__(self) -> int:
        return len(self._catalog.categories())


def open_server(
    catalog: Catalog, per_minute: int | None = None, token: str | None = None, log: PageLog | None = None
) -> Starlette:
    """The addresses of `hubmodels serve` for the models of a catalog.

    Args:
        per_minute: requests of one address; None = without a limit.
        token: that every request except /healthz must contain; None = none.
        log: every result is added to it.
    """
    return Server(CategoryLines(catalog, log or PageLog()), Limits(per_minute=per_minute), token).app()


class PlainRequests:
    """ASGI middleware. The server answers its own addresses, and the page answers all others."""

    def __init__(self, app: ASGIApp, server: Starlette) -> None:
        self._app, self._server = app, server
        self._paths = {route.path for route in server.routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_plain = scope["type"] == "http" and get_route_path(scope) in self._paths
        await (self._server if is_plain else self._app)(scope, receive, send)
