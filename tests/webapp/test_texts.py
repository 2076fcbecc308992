"""Every text exists in all languages, and is used."""

import re
import string

import gradio as gr
import numpy as np
import pytest
from test_house import ROOT

from webapp.texts import (
    LANGUAGES,
    TEXTS,
    distinct_numbers,
    label,
    language_of,
    number,
    p_value,
    percent,
    points,
    signed,
    translate,
    translate_plainly,
)


def fields(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("key", TEXTS)
def test_each_text_is_in_every_language_with_the_same_values(key):
    assert set(TEXTS[key]) == set(LANGUAGES) and all(TEXTS[key].values())
    if not key.startswith("fault_"):  # German has its own words for what English quotes
        assert fields(TEXTS[key]["en"]) == fields(TEXTS[key]["de"])


def test_every_text_is_used():
    sources = [*(ROOT / "webapp").glob("*.py"), *(ROOT / "webapp" / "static").iterdir(), ROOT / "app.py"]
    written = "\n".join(path.read_text() for path in sources)
    built = re.findall(r'f"(\w+?_)\{', written) + re.findall(r'"(\w+_)" ~', written)  # keys put together at run time
    unused = [
        key
        for key in TEXTS
        if not re.search(rf"['\"]{key}['\"]", written) and not any(key.startswith(start) for start in built)
    ]
    assert unused == []


def test_values_are_escaped_and_numbers_written_as_the_language_does():
    assert translate("method_verdict", "en", method="<b>", verdict="x") == "&lt;b&gt;: x"
    assert translate("score_words", "de", score=number(0.25, "de"), threshold=0.5) == "0,25 (Schwelle 0,5)"
    assert translate_plainly("use_suggestion", "en", category="a & b") == "Inspect as a & b"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.0123456, "0.0123"), (12.34, "12.3"), (999.4, "999"), (1234.4, "1234"), (-0.5, "-0.5"), (0.0, "0")),
        *((1.2e-5, "0.000012"), (0.99996, "1"), (100.0, "100"), (9.999, "10"), (-1234567.0, "-1234567")),
    ],
)
def test_numbers_have_three_digits_and_no_exponent(value, text):
    assert number(value, "en") == text and number(value, "de") == text.replace(".", ",")


PLURALS = {
    "en": "pictures|parts|regions|pixels|defects|examples|rows|mistakes|methods|are",
    "de": "Bilder|Bildern|Teile|Teilen|Stellen|Pixeln|Fehlern|Beispiele|Zeilen|gute|guten|fehlerhafte|bekannten|sind",
}
NEVER_ONE = {  # three methods and more, or beyond a limit
    *("count_agree", "overlap_count", "compare_mistakes", "compare_measured"),
    *("batch_too_many", "teach_too_many", "teach_bad_many"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_is_no_plural(language):
    """Sentences such as "This comes from 1 pictures"."""
    plural = re.compile(rf"\b1 (?:good |known |new )?(?:{PLURALS[language]})\b|\b(?:are|sind) (?:es )?1\b")
    for key in TEXTS.keys() - NEVER_ONE:
        values = {name: 1 for name in fields(TEXTS[key][language])} | {"limit": 50, "most": 50}
        text = translate(key, language, **values)
        assert not plural.search(text), (key, text)


def test_words_follow_their_number():
    assert translate("outlined_some", "en", count=1, share="2%").startswith("1 region,")
    assert translate("outlined_some", "de", count=2, share="2%").startswith("2 Stellen,")
    assert translate("outlined_some", "en", count=np.int64(1), share="<").startswith("1 region, &lt;")
    words = translate_plainly("p_value_few", "en", count=0, size=1)
    assert words == "0 of 1 good part are at least this unusual"
    assert translate_plainly("p_value_few", "de", count=1, size=20).startswith("1 von 20 guten Teilen ist mindestens")


def test_only_numbers_have_words_for_one_and_more():
    """Gradio shows the texts of components as they are, without values."""
    for text in (text for texts in TEXTS.values() for text in texts.values()):
        specs = [spec for _, _, spec, _ in string.Formatter().parse(text) if spec]
        assert all(spec.count("|") == 1 and "{" not in spec for spec in specs), text


def test_the_largest_number_can_be_written():
    """The scores of a stranger's weights can have any size; the report of such a picture failed."""
    for language in LANGUAGES:
        assert number(3e38, language).startswith("3") and len(number(-1.7e308, language)) == 310


def test_numbers_that_differ_look_different():
    assert distinct_numbers(0.99996, 0.99992, "en") == ("1", "0.9999")
    assert distinct_numbers(1.5, 0.25, "de") == ("1,5", "0,25") and distinct_numbers(1.0, 1.0, "en") == ("1", "1")


def test_differences_have_a_sign_and_bounds_show_their_side_of_zero():
    assert [signed(value, "en") for value in (11.26, -0.04, 0.0, -2.0)] == ["+11.3", "+0.0", "+0.0", "-2.0"]
    assert [points(share, "de") for share in (0.0604, -0.02, 0.0, 1.0)] == ["6,0", "-2,0", "0,0", "100,0"]
    assert [points(share, "en") for share in (0.0002, -0.00004)] == ["0.02", "-0.004"]


def test_p_values_show_on_which_side_of_the_limit_they_are():
    shown = [p_value(p, "en") for p in (0.0009, 0.016, 0.0497, 0.04999, 0.05001, 0.941, 1.0)]
    assert shown == ["< 0.001", "0.016", "0.0497", "0.04999", "0.05001", "0.941", "1"]
    assert p_value(1e-9, "de") == "< 0,001"


def test_percents_do_not_break_from_their_sign():
    assert percent(1.0, "de") == "100\xa0%" and percent(0.0099, "de") == "0,99\xa0%" and percent(1.0, "en") == "100%"


def test_a_third_language_needs_no_code():
    assert (number(0.25, "fr"), percent(0.125, "fr", 3)) == ("0,25", "12,5\xa0%")
    for path in [*(ROOT / "webapp").glob("*.py"), *(ROOT / "webapp" / "static").iterdir()]:
        assert not re.search(r"""['"]de\b""", path.read_text()), path


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("fr-FR,fr;q=0.9,de;q=0.5,en;q=0.4", "en"),
        ("en-US", "en"),
        ("fr", "en"),
        ("", "en"),
        (";;,,<script>", "en"),
    ],
)
def test_the_browsers_first_language_decides_as_in_gradio(header, language):
    assert language_of(gr.Request(headers={"accept-language": header})) == language
    assert language_of(None) == "en"


def test_a_misspelt_label_is_found_at_the_start():
    with pytest.raises(KeyError):
        label("no_such_text")
