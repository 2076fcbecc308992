"""The OpenAPI document of `hubmodels serve` and of the demo: every path, what it takes, and what it answers."""

from collections.abc import Sequence

from hubmodels import __version__
from hubmodels.methods import METHODS

MOST_PICTURES = 32  # of one batch
NUMBER, SHARE = {"type": "number"}, {"type": "number", "minimum": 0, "maximum": 1}
WHOLE, TEXT, FLAG = {"type": "integer", "minimum": 0}, {"type": "string"}, {"type": "boolean"}
RATE = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
FILE = {"type": "string", "format": "binary"}
SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def _or_null(schema: dict) -> dict:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(**properties: dict) -> dict:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _ref(name: str) -> dict:
    return {"$ref": f"#/components/schemas/{name}"}


NUMBERS = _object(
    is_anomalous=_or_null(FLAG),
    is_unsure=_or_null(FLAG),
    p_value=_or_null(SHARE),
    image_score=NUMBER,
    threshold=_or_null(NUMBER),
    unsure_threshold=_or_null(NUMBER),
    score_level=_or_null(NUMBER),
    defects=_or_null(WHOLE),
    defect_share=_or_null(SHARE),
    latency_ms=_or_null(NUMBER),
    guaranteed_false_alarm_rate=_or_null(SHARE),
    false_alarm_rate_bound=_or_null(SHARE),
    least_size=_or_null(NUMBER),
)
DRIFT = _object(pictures=WHOLE, alarm=_or_null(WHOLE), cause=_or_null(TEXT), capital=NUMBER)
RESULT = _object(
    picture=TEXT,
    sha256=SHA256,
    category=TEXT,
    width=WHOLE,
    height=WHOLE,
    false_alarm_rate=_or_null(SHARE),
    appearance_matches=_or_null(FLAG),
    warnings={"type": "array", "items": TEXT},
    agree=_or_null(FLAG),
    verdicts=WHOLE,
    defective_verdicts=WHOLE,
    look_again=FLAG,
    methods={"type": "object", "additionalProperties": _ref("Numbers")},
)
RESULT["properties"]["drift"] = _ref("Drift")  # if the server watches it
SCHEMAS = {
    "Numbers": NUMBERS | {"description": "The numbers of one method; null where it has no calibration."},
    "Drift": DRIFT | {"description": "The alarm is the number of the picture that raised it."},
    "Result": RESULT | {"description": "The result of one picture; `methods` has the title of each method as key."},
    "Problem": _object(kind=TEXT, message=TEXT) | {"description": "The cause for programs and for people."},
    "Error": _object(error=_ref("Problem")),
    "BadPicture": _object(picture=TEXT, error=_ref("Problem")),
    "Results": _object(results={"type": "array", "items": {"anyOf": [_ref("Result"), _ref("BadPicture")]}}),
    "Categories": _object(
        categories={
            "type": "array",
            "items": _object(
                category=TEXT, methods={"type": "array", "items": {"type": "string", "enum": [*METHODS]}}
            ),
        }
    ),
    "Health": _object(status={"const": "ok"}, version=TEXT, categories=WHOLE, models=WHOLE),
}
ERRORS = {
    400: "The body is not valid multipart/form-data.",
    401: "The token is missing or wrong.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is of another type, or the picture has an unknown format.",
    422: "The picture, the category, the rate or a method cannot be used.",
    429: "The address has sent too many requests.",
    500: "The server failed; its log has the reason.",
    503: "Too many requests wait.",
}
WAITING = {429, 503}  # answers that say how long to wait
OF_READING, OF_JUDGING = (401, 413, 429, 500), tuple(ERRORS)


def document(labels: Sequence[str], with_token: bool, largest: int, place: str = "") -> dict:
    """The document of a server.

    Args:
        labels: of its categories.
        largest: bytes of a body.
        place: the sub-path or address under which a proxy serves it; empty = none.
    """
    choice = _choice(labels)
    paths = {
        "/judge": {"post": _judge(choice, largest)},
        "/judge/batch": {"post": _judge_batch(choice, largest)},
        "/categories": {"get": _get("Which categories and methods there are", "Categories", OF_READING)},
        "/healthz": {"get": _get("Whether the server works; needs no token", "Health", (500,)) | {"security": []}},
        "/metrics": {"get": _text("Counts in the text format 0.0.4 of Prometheus")},
        "/openapi.json": {"get": _operation("This document", _json({"type": "object"}), OF_READING)},
    }
    schemes = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if with_token else {}
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "hubmodels", "version": __version__, "description": "Judges pictures of parts."},
        "paths": paths,
        "components": {"schemas": SCHEMAS} | schemes,
    }
    whole |= {"security": [{"token": []}]} if with_token else {}
    return whole | ({"servers": [{"url": place}]} if place else {})


def _choice(labels: Sequence[str]) -> dict[str, dict]:
    """What every request may choose, in its form or its address."""
    return {
        "category": {"type": "string", "enum": list(labels), "description": "Needed if there are several."},
        "rate": RATE | {"description": "Accepted share of good parts called defective; default: the server's."},
        "methods": {"type": "string", "description": "Names with commas between them; default: all."},
    }


def _judge(choice: dict[str, dict], largest: int) -> dict:
    name = {"type": "string", "description": "Of the picture in the result, where the body is the picture."}
    bodies = {"multipart/form-data": _form(choice, FILE), "image/*": {"schema": FILE}}
    return _operation("Judge one picture", _json(_ref("Result")), OF_JUDGING) | {
        "parameters": _parameters(choice | {"name": name}),
        "requestBody": _body(bodies, largest),
    }


def _judge_batch(choice: dict[str, dict], largest: int) -> dict:
    files = {"type": "array", "items": FILE, "minItems": 1, "maxItems": MOST_PICTURES}
    return _operation("Judge several pictures, in their order", _json(_ref("Results")), OF_JUDGING) | {
        "parameters": _parameters(choice),
        "requestBody": _body({"multipart/form-data": _form(choice, files)}, largest),
    }


def _form(choice: dict[str, dict], pictures: dict) -> dict:
    return {"schema": {"type": "object", "properties": {"picture": pictures} | choice, "required": ["picture"]}}


def _body(content: dict, largest: int) -> dict:
    return {"required": True, "description": f"At most {largest:,} bytes.", "content": content}


def _parameters(schemas: dict[str, dict]) -> list[dict]:
    return [{"name": name, "in": "query", "schema": schema} for name, schema in schemas.items()]


def _get(summary: str, schema: str, errors: Sequence[int]) -> dict:
    return _operation(summary, _json(_ref(schema)), errors)


def _text(summary: str) -> dict:
    return _operation(summary, {"text/plain": {"schema": TEXT}}, OF_READING)


def _json(schema: dict) -> dict:
    return {"application/json": {"schema": schema}}


def _operation(summary: str, content: dict, errors: Sequence[int]) -> dict:
    good = {"200": {"description": "The answer.", "content": content}}
    return {"summary": summary, "responses": good | {str(status): _error(status) for status in errors}}


def _error(status: int) -> dict:
    wait = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
    headers = {"headers": wait} if status in WAITING else {}
    return {"description": ERRORS[status], "content": _json(_ref("Error"))} | headers
