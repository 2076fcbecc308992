"""Licences of data sets and of the weights trained on them: credit, citation, and whether pictures may be shown."""

from dataclasses import dataclass

CC_BY_NC_SA = "CC BY-NC-SA 4.0"
IMAGENET = (
    "The compact backbone imitates a network trained on ImageNet, whose pictures are for non-commercial research: "
    "decide yourself whether this matters for weights"
)


@dataclass(frozen=True)
class DatasetLicence:
    """The licence of a data set; `NOTICE.md` lists the same.

    Attributes:
        title: the data set's name, as its makers write it.
        licence: of its pictures, in words.
        licence_id: its id on the Hub; None if the Hub has none.
        link: where the data set is published.
        tag: how models on the Hub name it.
        may_be_shown: whether a public card may show its pictures, with credit.
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
    """The licence of trained weights: `id` on the Hub, `name` if the id is `other`, and in words."""

    id: str
    name: str | None
    words: str


LICENCES = {  # by the data set's part of a model's name
    "mvtec": DatasetLicence(
        "MVTec AD",
        CC_BY_NC_SA,
        "cc-by-nc-sa-4.0",
        "https://www.mvtec.com/company/research/datasets/mvtec-ad",
        "mvtec-ad",
        may_be_shown=True,
        citations=("bergmann2019mvtec", "bergmann2021mvtec"),
    ),
    "parts": DatasetLicence("synthetic sample parts", "Apache-2.0", "apache-2.0", tag="synthetic", may_be_shown=True),
    "magnetic_tile": DatasetLicence(  # no licence file, so nothing that allows copies of its pictures
        "Magnetic tile defects",
        "free to use, with citation",
        link="https://github.com/abin24/Magnetic-tile-defect-datasets.",
        tag="magnetic-tile",
        citations=("huang2020tile",),
    ),
    "elpv": DatasetLicence(
        "ELPV",
        CC_BY_NC_SA,
        "cc-by-nc-sa-4.0",
        "https://github.com/zae-bayern/elpv-dataset",
        "elpv",
        may_be_shown=True,
        citations=("buerhop2018elpv", "deitsch2019elpv"),
    ),
    "kolektor_sdd": DatasetLicence(
        "KolektorSDD",
        CC_BY_NC_SA,
        "cc-by-nc-sa-4.0",
        "https://www.vicos.si/resources/kolektorsdd/",
        "kolektor-sdd",
        may_be_shown=True,
        citations=("tabernik2020kolektor",),
    ),
}


def dataset_licence(dataset: str) -> DatasetLicence:
    """The licence of a data set; pictures of an unknown one are treated as confidential."""
    return LICENCES.get(dataset) or DatasetLicence(dataset, "unknown to this library: ask who made the pictures")


def weights_licence(dataset: str, compact_backbone: bool, foreign_textures: bool = False) -> WeightsLicence:
    """The licence that follows from the training pictures, and from textures that were pasted into free ones."""
    data, note = dataset_licence(dataset), f". {IMAGENET}" if compact_backbone else ""
    if data.licence == CC_BY_NC_SA:
        words = f"{data.licence}, as the training pictures: non-commercial use only{note}"
        return WeightsLicence(data.licence_id, None, words)
    if data.licence_id and not foreign_textures:
        return WeightsLicence(data.licence_id, None, f"{data.licence}, as the training pictures{note}")
    return WeightsLicence("other", "terms-of-the-training-pictures", f"the terms of the training pictures apply{note}")
