"""A model card as HTML. Cards are of strangers: nothing in them is executed, and nothing is loaded from elsewhere."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from hubmodels.pictures import PictureError, read_picture
from webapp.texts import data_url

MARKDOWN = MarkdownIt("js-default")  # raw HTML stays text, and no script becomes a link
WIDEST = 1200  # pixels of a picture
TOP, LAST = 2, 6  # levels that the card's headings are below the page's; the last level


def render_card(text: str, folder: Path) -> Markup:
    """The Markdown of a card as HTML.

    Its pictures are those in its folder; of others the description is left. Links lead to the web only.

    Args:
        folder: of the card.
    """
    tokens = MARKDOWN.parse(text)
    for token in tokens:
        if token.type.startswith("heading"):
            token.tag = f"h{min(LAST, int(token.tag[1:]) + TOP)}"
        if "right" in str(token.attrs.pop("style", "")):
            token.attrSet("class", "number")
        token.children = token.children and list(_safe(token.children, folder))
    return Markup(MARKDOWN.renderer.render(tokens, MARKDOWN.options, {}))  # the renderer escapes all text


def _safe(tokens: list[Token], folder: Path) -> Iterator[Token]:
    """The inline parts of a card."""
    is_web = True  # of the link that is open; links are not nested
    for token in tokens:
        if token.type == "image":
            yield _picture(token, folder)
            continue
        if token.type == "link_open":
            is_web = urlsplit(str(token.attrs["href"])).scheme in ("http", "https")
            token.attrs = {"href": token.attrs["href"], "target": "_blank", "rel": "noopener noreferrer"}
        if is_web or not token.type.startswith("link"):
            yield token


def _picture(token: Token, folder: Path) -> Token:
    """The picture as part of the page, or its description."""
    try:
        path = (folder / str(token.attrs["src"])).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError("it is elsewhere")
        picture = read_picture(path)
    except (PictureError, OSError, ValueError):
        return Token("text", "", 0, content=token.content)
    picture.thumbnail((WIDEST, WIDEST))
    token.attrs = {"src": data_url(picture, "JPEG", quality=85), "alt": ""}  # the renderer adds the description
    return token
