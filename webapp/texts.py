"""All texts of the page by language (`texts.toml`), numbers as each language writes them, and the HTML templates.

Gradio translates the labels of components in the browser (`label("key")`). `translate` writes all other texts.
A further language is a further line in each text of `texts.toml`.
"""

import re
import tomllib
from base64 import b64encode
from decimal import Decimal, localcontext
from functools import partial
from io import BytesIO
from numbers import Integral
from pathlib import Path

import gradio as gr
from babel.numbers import format_decimal, format_percent
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from hubmodels.hub.catalog import Catalog
from hubmodels.pictures import MAX_PIXELS, MIN_SIDE, PictureError
from webapp.hosting import hide_folders
from webapp.own_parts import DATASET

_tabs = tomllib.loads((Path(__file__).parent / "texts.toml").read_text(encoding="utf-8"))
TEXTS = {key: text for tab in _tabs.values() for key, text in tab.items()}  # by key, then language
LANGUAGES = tuple(next(iter(TEXTS.values())))  # the first one is for visitors whose language is missing

FLOAT_DIGITS = 400  # more than any float has before the point; Decimal's usual 28 are too few for a stranger's scores
AS_IT_IS = {"decimal_quantization": False, "group_separator": False}  # Babel must not round or group digits

I18N = gr.I18n(**{code: {key: text[code] for key, text in TEXTS.items()} for code in LANGUAGES})
SAMPLES = "parts"  # data set of the bundled models, whose parts and defects have names in each language
LOOK = "look"  # the verdict of an unsure method: a person should look again
VERDICT_KEYS = {True: "defective", LOOK: "look_again", False: "good", None: "no_verdict"}
TONES = {True: "defective", LOOK: "look", False: "good", None: "unsure"}  # classes of the style sheets
SIGNS = {True: "✕", LOOK: "↻", False: "✓", None: "?"}  # the verdict must not depend on colour alone


class _Count(int):
    """An integer whose format can be the word for one and the word for any other number: "{n:part|parts}"."""

    def __format__(self, spec: str) -> str:
        one, has_words, others = spec.partition("|")
        if not has_words:
            return super().__format__(spec)
        return one if self == 1 else others


def label(key: str):
    """A text of a component, translated in the browser."""
    if key not in TEXTS:
        raise KeyError(key)
    return I18N(key)


def translate(key: str, language: str, **values: object) -> Markup:
    """A text in the visitor's language, as HTML: values are escaped, and numbers are written as in that language."""
    return Markup(TEXTS[key][language]).format(**{name: _shown(value, language) for name, value in values.items()})


def _shown(value: object, language: str) -> object:
    if isinstance(value, float):
        return number(value, language)
    return _Count(value) if isinstance(value, Integral) else value


def translate_plainly(key: str, language: str, **values: object) -> str:
    """A text in the visitor's language for a component that shows no HTML, such as a button."""
    return translate(key, language, **values).unescape()


def part_words(category: str, language: str) -> str:
    """A category as people call it: "parts / pill" is "Pill", "own / Oil-cap" is "Oil-cap"; others as they are."""
    dataset, _, name = category.partition(" / ")
    if dataset == SAMPLES and f"sample_{name}" in TEXTS:
        return translate_plainly(f"sample_{name}", language)
    return name if dataset == DATASET else category


def shows_words(shows: str, language: str) -> str:
    """What an example shows, such as the name of its defect."""
    key = f"sample_{shows}"
    return translate_plainly(key, language) if key in TEXTS else shows.replace("_", " ")


def explain_fault(error: Exception, language: str, catalog: Catalog) -> Markup:
    """The reason why a picture or model cannot be used, as HTML and without folders of the server."""
    fault = error.fault if isinstance(error, PictureError) else "disk" if isinstance(error, OSError) else "model"
    limit = format_decimal(MAX_PIXELS, locale=language)
    values = {"details": hide_folders(str(error), catalog), "limit": limit, "side": MIN_SIDE}
    return translate(f"fault_{fault}", language, **(values | getattr(error, "values", {})))


def number(value: float, language: str, digits: int = 3) -> str:
    """A number with so many significant digits. Large numbers are rounded to integers; there is no exponent."""
    with localcontext(prec=FLOAT_DIGITS):
        return format_decimal(_rounded(value, digits).normalize(), locale=language, **AS_IT_IS)


def fixed(value: float, language: str, decimals: int = 1) -> str:
    """A number with a fixed number of decimals, for a column of numbers."""
    return format_decimal(_to_decimals(value, decimals), f"0.{'0' * decimals}", language, group_separator=False)


def signed(value: float, language: str) -> str:
    """A difference with its sign and one decimal."""
    return format_decimal(_to_decimals(value, 1), "+0.0;-0.0", language, group_separator=False)


def points(share: float, language: str) -> str:
    """A share, or a difference of shares, times 100 with one decimal; with more if it would look like zero."""
    shown = fixed(100 * share, language)
    return shown if shown != fixed(0, language) else number(100 * share, language, 1) if share else shown


def p_value(p: float, language: str) -> str:
    """The p-value of a test, with enough digits to show that it differs from the usual limit."""
    return f"< {number(0.001, language)}" if p < 0.001 else distinct_numbers(p, 0.05, language)[0]


def percent(share: float, language: str, digits: int = 2) -> str:
    """A share in [0, 1] as per cent, with so many significant digits."""
    shown = (_rounded(100 * share, digits) / 100).normalize()
    return format_percent(shown, locale=language, **AS_IT_IS)


def distinct_numbers(value: float, other: float, language: str) -> tuple[str, str]:
    """Two numbers, with enough digits to show that they differ."""
    texts = ((number(value, language, digits), number(other, language, digits)) for digits in range(3, 10))
    return next((pair for pair in texts if pair[0] != pair[1]), (number(value, language), number(other, language)))


def language_of(request: gr.Request | None) -> str:
    """The browser's first language if the page has it, otherwise English; Gradio decides in the same way."""
    header = dict(request.headers).get("accept-language", "") if request else ""
    wanted = header.split(",")[0].split(";")[0].strip().lower().split("-")[0]
    return wanted if wanted in LANGUAGES else LANGUAGES[0]


def _to_decimals(value: float, decimals: int) -> Decimal:
    return Decimal(f"{value:.{decimals}f}") or Decimal(0)  # without the sign of -0.0


def _rounded(value: float, digits: int) -> Decimal:
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1]) if value else 0
    return Decimal(f"{value:.{max(0, digits - 1 - exponent)}f}")


# ---------------------------------------------------------------- HTML


STATIC = Path(__file__).parent / "static"
_environment = Environment(
    loader=FileSystemLoader(STATIC), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_environment.filters["parts"] = re.compile(r"(?<=[-_/])(?=\w)").split  # of a name, for line breaks


def render(name: str, language: str, **values: object) -> Markup:
    """A template with these values, and with the functions of `webapp.texts` for texts and numbers."""
    offered = (translate, part_words, shows_words, number, fixed, signed, points, p_value, percent)
    functions = {f.__name__: partial(f, language=language) for f in offered}
    return Markup(_environment.get_template(name).render(functions | {"language": language} | values))


def read_static(name: str) -> str:
    """A script or style sheet."""
    return (STATIC / name).read_text(encoding="utf-8")


def data_url(image: Image.Image, format: str = "PNG", **options: object) -> str:
    """A picture as part of the page: no request, and no file of a visitor on the server."""
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return f"data:image/{format.lower()};base64,{b64encode(buffer.getvalue()).decode()}"
