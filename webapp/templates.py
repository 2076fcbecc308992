"""HTML of the page: Jinja templates in `static/`, which escape all values, and pictures inside the page."""

import re
from base64 import b64encode
from functools import partial
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from webapp.texts import fixed, number, percent, translate

STATIC = Path(__file__).parent / "static"
_environment = Environment(
    loader=FileSystemLoader(STATIC), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_environment.filters["parts"] = re.compile(r"(?<=[-_/])(?=\w)").split  # of a name, for line breaks


def render(name: str, language: str, **values: object) -> Markup:
    """A template with these values, and with the functions of `webapp.texts` for texts and numbers."""
    functions = {f.__name__: partial(f, language=language) for f in (translate, number, fixed, percent)}
    return Markup(_environment.get_template(name).render(functions | {"language": language} | values))


def read_static(name: str) -> str:
    """A script or style sheet."""
    return (STATIC / name).read_text(encoding="utf-8")


def data_url(image: Image.Image, format: str = "PNG", **options: object) -> str:
    """A picture as part of the page: no request, and no file of a visitor on the server."""
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return f"data:image/{format.lower()};base64,{b64encode(buffer.getvalue()).decode()}"
