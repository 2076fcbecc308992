"""All that the page says, in English and German (`texts.toml`); the browser's language decides.

Labels of components are translated by Gradio in the browser (`label("key")`), what the server writes by `say`.
"""

import tomllib
from html import escape, unescape
from pathlib import Path

import gradio as gr  # noqa: TID251

from hubmodels.pictures import MAX_PIXELS, MIN_SIDE, PictureError

LANGUAGES = ("en", "de")
_tabs = tomllib.loads((Path(__file__).parent / "texts.toml").read_text(encoding="utf-8"))
TEXTS = {key: text for tab in _tabs.values() for key, text in tab.items()}  # by key, then language

I18N = gr.I18n(**{code: {key: text[code] for key, text in TEXTS.items()} for code in LANGUAGES})
VERDICT_KEYS = {True: "defective", False: "good", None: "no_verdict"}
TONES = {True: "defective", False: "good", None: "unsure"}  # classes of the style sheets
SIGNS = {True: "✕", False: "✓", None: "?"}  # so that nobody needs the colour


def label(key: str):
    """A text of a component, translated in the browser."""
    if key not in TEXTS:
        raise KeyError(key)
    return I18N(key)


def say(key: str, language: str, **values: object) -> str:
    """A text in the visitor's language, as HTML: values are escaped, numbers written as that language does."""
    shown = {name: escape(number(v, language) if isinstance(v, float) else str(v)) for name, v in values.items()}
    return TEXTS[key][language].format(**shown)


def say_plainly(key: str, language: str, **values: object) -> str:
    """A text in the visitor's language for a component that shows no HTML, such as a button."""
    return unescape(say(key, language, **values))


def say_fault(error: Exception, language: str) -> str:
    """Why a picture or model cannot be used, as HTML."""
    fault = error.fault if isinstance(error, PictureError) else "model"
    limits = {"limit": f"{MAX_PIXELS:,}".replace(",", " "), "side": MIN_SIDE}
    return say(f"fault_{fault}", language, details=error, **limits)


def number(value: float, language: str, digits: int = 3) -> str:
    """A number with so many significant digits, large ones rounded to the unit, and never with an exponent."""
    decimals = max(0, digits - 1 - int(f"{value:.{digits - 1}e}".split("e")[1])) if value else 0
    text = f"{value:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace(".", ",") if language == "de" else text


def apart(value: float, other: float, language: str) -> tuple[str, str]:
    """Two numbers with as many digits as show that they differ."""
    texts = ((number(value, language, digits), number(other, language, digits)) for digits in range(3, 10))
    return next((pair for pair in texts if pair[0] != pair[1]), (number(value, language), number(other, language)))


def percent(share: float, language: str, digits: int = 2) -> str:
    """A share in [0, 1] as per cent."""
    return f"{number(100 * share, language, digits)}\N{NO-BREAK SPACE}%"


def language_of(request: gr.Request | None) -> str:
    """The browser's first language where we speak it, else English: as Gradio decides for the labels."""
    header = dict(request.headers).get("accept-language", "") if request else ""
    asked = header.split(",")[0].split(";")[0].strip().lower().split("-")[0]
    return asked if asked in LANGUAGES else LANGUAGES[0]
