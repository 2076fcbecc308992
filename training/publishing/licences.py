"""What the makers of a data set ask of its users: licence, credit, citation; and what follows for the weights."""

from dataclasses import dataclass

from hubmodels.compactnet import COMPACT_LICENCE

CC_BY_NC_SA = "CC BY-NC-SA 4.0"


@dataclass(frozen=True)
class DatasetTerms:
    """The terms of a data set; see `NOTICE.md`, which says the same.

    Attributes:
        title: the data set's name, as its makers write it.
        licence: of its pictures, in words.
        licence_id: the same as the Hub knows it; None where the Hub has no word for it.
        link: where the data set is published.
        tag: how models on the Hub name it.
        may_be_shown: whether its pictures may stand in a public card, given credit.
        citations: keys in `model_cards/citations.bib`.
    """

    title: str
    licence: str
    licence_id: str | None = None
    link: str | None = None
    tag: str | None = None
    may_be_shown: bool = False
    citations: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightsLicence:
    """The licence of trained weights: `id` as the Hub knows it, `name` where that is `other`, and in words."""

    id: str
    name: str | None
    words: str


KNOWN = {  # by the data set's part of a model's name
    "mvtec": DatasetTerms(
        "MVTec AD",
        CC_BY_NC_SA,
        "cc-by-nc-sa-4.0",
        "https://www.mvtec.com/company/research/datasets/mvtec-ad",
        "mvtec-ad",
        may_be_shown=True,
        citations=("bergmann2019mvtec", "bergmann2021mvtec"),
    ),
    "parts": DatasetTerms(
        "synthetic sample parts",
        "Apache-2.0",
        "apache-2.0",
        tag="synthetic",
        may_be_shown=True,
    ),
    "magnetic_tile": DatasetTerms(  # no licence file, so nothing that allows copies of its pictures
        "Magnetic tile defects",
        "free to use, with citation",
        link="https://github.com/abin24/Magnetic-tile-defect-datasets.",
        tag="magnetic-tile",
        citations=("huang2020tile",),
    ),
    "elpv": DatasetTerms(
        "ELPV",
        CC_BY_NC_SA,
        "cc-by-nc-sa-4.0",
        "https://github.com/zae-bayern/elpv-dataset",
        "elpv",
        may_be_shown=True,
        citations=("buerhop2018elpv", "deitsch2019elpv"),
    ),
}


def terms_of(dataset: str) -> DatasetTerms:
    """The terms of a data set; of one unknown here, that its pictures may be confidential."""
    return KNOWN.get(dataset) or DatasetTerms(dataset, "unknown to this library: ask who made the pictures")


def weights_licence(dataset: str, compact_backbone: bool) -> WeightsLicence:
    """Weights follow their training pictures, and the compact backbone, which is for non-commercial use."""
    terms = terms_of(dataset)
    non_commercial = terms.licence == CC_BY_NC_SA
    if terms.licence_id and (non_commercial or not compact_backbone):
        limit = ": non-commercial use only" if non_commercial else ""
        backbone = (
            "; the compact backbone that they need is for research and non-commercial use" if compact_backbone else ""
        )
        return WeightsLicence(terms.licence_id, None, f"{terms.licence}, as the training pictures{limit}{backbone}")
    pictures = "the terms of the training pictures apply"
    if compact_backbone:
        words = "research and non-commercial use only, as the compact backbone that they need"
        return WeightsLicence("other", COMPACT_LICENCE, f"{words}; and {pictures}")
    return WeightsLicence("other", "terms-of-the-training-pictures", pictures)
