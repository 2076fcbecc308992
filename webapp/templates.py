"""HTML of the page: Jinja templates of `static/`, which escape what comes from outside; pictures in it."""

from base64 import b64encode
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

STATIC = Path(__file__).parent / "static"
_environment = Environment(loader=FileSystemLoader(STATIC), autoescape=True, undefined=StrictUndefined)


def render(name: str, **values: object) -> Markup:
    """The template filled in."""
    return Markup(_environment.get_template(name).render(values))


def read_static(name: str) -> str:
    """A script or style sheet."""
    return (STATIC / name).read_text(encoding="utf-8")


def data_url(image: Image.Image, format: str = "PNG", **options: object) -> str:
    """A picture inside the page: nothing to fetch, and nothing of a visitor's that lies on the server."""
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return f"data:image/{format.lower()};base64,{b64encode(buffer.getvalue()).decode()}"
