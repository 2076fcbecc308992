"""How sure the differences on labelled pictures are: intervals, tests and one sentence for each pair of methods."""

import re
from html import unescape
from itertools import combinations

import numpy as np
import pytest

from hubmodels.methods import METHODS
from hubmodels.paired_tests import auroc_interval, compare_auroc, mcnemar
from hubmodels.prediction import AnomalyPrediction
from hubmodels.samples import Sample
from webapp.compare_report import render_comparison
from webapp.labelled_results import LabelledResults
from webapp.texts import p_value, points, signed

TITLES = [method.title for method in METHODS.values()]
ONE, OTHER = TITLES[:2]
DASH = "\N{EN DASH}"


def predicted(level, calibrated=True):
    """A prediction at this level; its raw score is ten times it."""
    settings = (0.5, 10.0, 1.0, 0.0, 0.0) if calibrated else ()
    return AnomalyPrediction(10 * level, np.zeros((2, 2)), *settings)


def results_of(labels, calibrated=True, category="toy / widget", **levels):
    """Results of several methods; None = the method has no result for the picture."""
    results = LabelledResults()
    for index, label in enumerate(labels):
        sample = Sample(f"test/{index}.png", None, "crack" if label else "good", int(label))
        given = {name: values[index] for name, values in levels.items() if values[index] is not None}
        of = category[index] if isinstance(category, list) else category
        results.add(sample, of, {name: predicted(level, calibrated) for name, level in given.items()})
    return results


def drawn(methods, shifts, count=60, seed=0):
    """Labels, and levels of several methods on the same pictures."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    difficulty = rng.normal(size=count)
    levels = {
        m: 1 + s * (labels - 0.5) + 0.5 * difficulty + rng.normal(size=count)
        for m, s in zip(methods, shifts, strict=True)
    }
    return labels, levels


def rendered(results, language="en"):
    """The report without its drawings."""
    return unescape(str(render_comparison(results, lambda outcome: None, language)))


def sentences(report, start='<ul class="compare-tests">'):
    """With the numbers of the tests, from the fold."""
    part = re.search(rf"{start}(.*?)</ul>", report, re.DOTALL)
    return re.findall(r"<li>(?:<b>)?(.*?)(?:</b>)?</li>", part[1])


def summaries(report):
    """Without numbers, above the fold."""
    assert report.index("compare-pairs") < report.index("<details>")
    return sentences(report, 'class="compare-pairs">.*?<ul>')


def cells(report, one, other):
    """The texts of a row of the table of pairs."""
    row = re.search(rf'<th scope="row">{one}, {other}</th>(.*?)</tr>', report, re.DOTALL)[1]
    return [
        re.sub(r"\s*<small>(.*?)</small>", r" | \1", cell).strip()
        for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
    ]


# ---------------------------------------------------------------- pairs


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("count", [3, 5])
def test_each_pair_has_the_numbers_of_both_tests_and_a_sentence(language, count):
    labels, levels = drawn(TITLES[:count], (3, 1, 2, 1, 0.5)[:count])
    report = rendered(results_of(labels, **levels), language)
    assert len(sentences(report)) == count * (count - 1) / 2
    for one, other in combinations(TITLES[:count], 2):
        tested = compare_auroc([levels[one]], [levels[other]], labels)
        verdict = mcnemar(*((levels[name] > 1) == labels for name in (one, other)))
        low, high = (points(bound, language) for bound in tested.interval)
        words = {"en": "to", "de": "bis"}[language]
        first, p, pictures, *_, verdict_p = cells(report, one, other)
        assert first == f"{signed(100 * tested.value, language)} | {low} {words} {high}"
        assert (p, pictures, verdict_p) == (p_value(tested.p, language), "60", p_value(verdict, language))


def test_the_sentence_names_the_better_method_first():
    labels, levels = drawn((ONE, OTHER), (0.5, 3))
    tested = compare_auroc([levels[OTHER]], [levels[ONE]], labels)
    low, high = (f"{100 * bound:.1f}" for bound in tested.interval)
    difference = f"+{100 * tested.value:.1f} points (95% interval {low} to {high})."
    expected = f"{OTHER} is better than {ONE} on these pictures: image AUROC {difference}"
    report = rendered(results_of(labels, **levels))
    summary = f"{OTHER} separates good and defective parts better than {ONE} on these pictures."
    assert sentences(report) == [expected] and summaries(report) == [summary] and f"<b>{summary}</b>" in report
    assert cells(report, ONE, OTHER)[0].startswith("-")  # first minus second
    (german,) = sentences(rendered(results_of(labels, **levels), "de"))
    assert german.startswith(f"{OTHER} ist auf diesen Bildern besser als {ONE}: I-AUROC +")
    assert "95-%-Intervall" in german and f"{100 * tested.value:.1f}".replace(".", ",") in german


@pytest.mark.parametrize(("language", "words"), [("en", "No significant difference"), ("de", "Kein signifikanter")])
def test_a_difference_that_can_be_chance_is_called_so(language, words):
    labels, levels = drawn((ONE, OTHER), (1.2, 1))
    report = rendered(results_of(labels, **levels), language)
    (sentence,) = sentences(report)
    assert sentence.startswith(words) and "<b>" not in report.split("compare-pairs")[1].split("</ul>")[0]
    assert {"en": "more pictures can show one", "de": "Mehr Bilder können einen zeigen"}[language] in sentence
    (summary,) = summaries(report)
    assert {"en": "do not differ clearly", "de": "unterscheiden sich auf diesen Bildern nicht klar"}[
        language
    ] in summary


def test_clear_differences_come_first():
    labels, levels = drawn(TITLES[:3], (1.0, 1.1, 4))
    report = rendered(results_of(labels, **levels))
    assert ["is better than" in sentence for sentence in sentences(report)] == [True, True, False]
    assert ["better than" in summary for summary in summaries(report)] == [True, True, False]


@pytest.mark.parametrize(("language", "words"), [("en", "these trained models"), ("de", "diese trainierten Modelle")])
def test_a_note_limits_what_the_tests_are_about(language, words):
    labels, levels = drawn((ONE, OTHER), (1, 1))
    assert words in rendered(results_of(labels, **levels), language)


def test_only_pictures_of_both_methods_count():
    labels, levels = drawn((ONE, OTHER), (2, 1))
    some = [None if index % 5 == 0 else level for index, level in enumerate(levels[OTHER])]
    shared = np.array([level is not None for level in some])
    tested = compare_auroc([levels[ONE][shared]], [levels[OTHER][shared]], labels[shared])
    found = cells(rendered(results_of(labels, **{ONE: levels[ONE], OTHER: some})), ONE, OTHER)
    assert found[0].startswith(signed(100 * tested.value, "en")) and found[2] == "48"


def test_methods_without_a_common_picture_are_no_pair():
    labels = [0, 1] * 4
    halves = {ONE: [2.0] * 4 + [None] * 4, OTHER: [None] * 4 + [2.0] * 4}
    assert "compare-pairs" not in rendered(results_of(labels, **halves))


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1], [0, 0]])
def test_few_pictures_or_one_class_have_no_test(labels, language):
    levels = {ONE: np.linspace(0, 3, len(labels)), OTHER: np.linspace(3, 0, len(labels))}
    report = rendered(results_of(labels, **levels), language)
    needs = {"en": "two good and two defective pictures", "de": "zwei gute und zwei fehlerhafte Bilder"}[language]
    (sentence,) = sentences(report)
    assert summaries(report) == [sentence]
    assert needs in sentence and cells(report, ONE, OTHER)[:3] == [DASH, DASH, str(len(labels))]


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("other", [(0, 0.5, 2, 3), (3, 2, 0.5, 0), (1, 1, 1, 1)])
def test_a_difference_that_is_the_same_for_every_picture_has_no_test(other, language):
    """Its variance is 0, and a test would be sure of it with four pictures."""
    report = rendered(results_of([0, 0, 1, 1], **{ONE: (0, 0.2, 2, 3), OTHER: other}), language)
    (sentence,) = sentences(report)
    assert {"en": "the same for every picture", "de": "bei jedem Bild gleich"}[language] in sentence
    assert cells(report, ONE, OTHER)[:2] == [DASH, DASH]


def test_several_categories_are_compared_on_their_levels():
    """Raw scores of two categories cannot be compared without a calibration; those of one can."""
    labels, levels = drawn((ONE, OTHER), (3, 1))
    several = ["a", "b"] * 30
    pooled = rendered(results_of(labels, category=several, **levels))
    tested = compare_auroc([levels[ONE]], [levels[OTHER]], labels)
    assert cells(pooled, ONE, OTHER)[0].startswith(signed(100 * tested.value, "en"))
    raw = rendered(results_of(labels, calibrated=False, category=several, **levels))
    assert "without calibration" in sentences(raw)[0] and set(cells(raw, ONE, OTHER)) == {DASH}
    assert "Ohne Kalibrierung" in sentences(rendered(results_of(labels, False, several, **levels), "de"))[0]
    one_category = rendered(results_of(labels, calibrated=False, **levels))
    assert "is better than" in sentences(one_category)[0]
    assert cells(one_category, ONE, OTHER)[2:] == [DASH] * 6  # no verdicts


# ---------------------------------------------------------------- each method


@pytest.mark.parametrize(("language", "words"), [("en", "to"), ("de", "bis")])
def test_the_image_auroc_of_each_method_has_its_interval(language, words):
    labels, levels = drawn(TITLES[:3], (1, 2, 3))
    report = rendered(results_of(labels, **levels), language)
    for name in TITLES[:3]:
        low, high = (points(bound, language) for bound in auroc_interval(levels[name], labels))
        row = re.search(rf'<td class="word">{name}</td><td>([^<]*<small>.*?)</td>', report, re.DOTALL)[1]
        assert f"<small>{low} {words} {high}</small>" in row


def test_a_perfect_method_has_an_interval_too():
    results = results_of([0] * 5 + [1] * 15, **{ONE: [0.0] * 5 + [2.0] * 15})
    assert results.of(ONE).auroc_interval() == (pytest.approx(0.05 ** (1 / 5)), 1)
    assert "100%<small>54.9 to 100.0</small>" in rendered(results)


def test_one_class_has_no_interval():
    results = results_of([1] * 4, **{ONE: [0.0, 1, 2, 3]})
    assert results.of(ONE).auroc_interval() is None and "<small>" not in rendered(results)
