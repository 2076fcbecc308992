"""The fast path against the official codes' steps written out in `tests/reference/explicit.py`: the same numbers."""

import pytest
import timm
import torch
from reference.explicit import predict, whole_backbone
from safetensors.torch import save_file
from torch import nn

from hubmodels import GLASS, SimpleNet, methods
from hubmodels.backbone import find_weights, fold_batch_norm, load_backbone
from hubmodels.compactnet import COMPACT_BACKBONE
from hubmodels.front_end import align, flatten
from hubmodels.heads import DiscriminatorHead, FoldedDiscriminator
from hubmodels.scoring import smooth_map
from training.config import PAPER_BACKBONE

METHODS = [d for row in methods.METHODS.values() if issubclass((d := row.detector).head_class, DiscriminatorHead)]


def randomise_norms(model):
    """Statistics and gains as training leaves them, not the neutral ones of a new network."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)


@pytest.fixture(scope="module")
def networks(request, tmp_path_factory):
    """The explicit network, and the settings of heads on ours with the same weights."""
    torch.manual_seed(0)
    if request.param == COMPACT_BACKBONE:
        path = find_weights(COMPACT_BACKBONE)
        explicit = whole_backbone(COMPACT_BACKBONE, path)
    else:
        explicit = whole_backbone(PAPER_BACKBONE)
        randomise_norms(explicit)
        path = tmp_path_factory.mktemp("weights") / "papers.safetensors"
        save_file(explicit.network.state_dict(), path)
    backbone = load_backbone(request.param, weights=path)  # kept as long as the fixture
    yield explicit, {"backbone": request.param, "backbone_sha256": backbone.fingerprint}


def trained_head(method, **settings):
    torch.manual_seed(1)
    detector = method(**settings)
    randomise_norms(detector.head.discriminator)
    return detector.eval()


def relative_error(ours, reference):
    return ((ours - reference).abs().max() / reference.abs().max()).item()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("networks", [PAPER_BACKBONE, COMPACT_BACKBONE], indirect=True, scope="module")
def test_scores_and_maps_equal_the_explicit_chain(networks, method, image_size=96):
    explicit, settings = networks
    detector = trained_head(method, image_size=image_size, **settings)
    images = torch.rand(1 if image_size == 288 else 2, 3, image_size, image_size)
    expected, expected_map = predict(explicit, detector, images)
    scores = detector(images)
    assert relative_error(scores, expected) < 2e-5
    assert relative_error(smooth_map(scores, image_size), torch.from_numpy(expected_map)) < 2e-5


@pytest.mark.parametrize(("method", "image_size"), [(SimpleNet, 224), (GLASS, 288)])
@pytest.mark.parametrize("networks", [COMPACT_BACKBONE], indirect=True, scope="module")
def test_they_do_for_larger_pictures(networks, method, image_size):
    test_scores_and_maps_equal_the_explicit_chain(networks, method, image_size)


def explicit_logits(detector, aggregated):
    features = align(aggregated)
    logits = detector.head.discriminate(detector.head.embed(flatten(features)))
    return logits.detach().view(len(features), *features.shape[2:])


@pytest.mark.parametrize("layers", [(2,), (2, 3), (1, 2, 3)])
def test_a_head_folds_for_any_number_of_layers(layers):
    detector = trained_head(SimpleNet, backbone="resnet18.tv_in1k", layers=layers, embed_dim=96)
    aggregated = [torch.randn(2, 96 // len(layers), 16 // 2**i, 12 // 2**i) for i in range(len(layers))]
    assert relative_error(detector.head.folded(aggregated), explicit_logits(detector, aggregated)) < 1e-5


@pytest.mark.parametrize("change", ["step", "statistics", "load", "double"])
def test_a_changed_head_is_folded_anew(change, make_detector):
    detector = make_detector(GLASS)
    aggregated = [torch.randn(1, 16, 8, 8), torch.randn(1, 16, 4, 4)]
    before = detector.head.folded(aggregated)
    if change == "step":
        with torch.no_grad():
            detector.head.adaptor.weight.add_(0.1)
    elif change == "statistics":
        detector.head.discriminator[1].running_mean.copy_(torch.full((detector.head.hidden_dim,), 0.3))
    elif change == "load":
        detector.load_state_dict({k: 1.5 * v for k, v in detector.state_dict().items()})
    else:
        detector.double()
        aggregated = [a.double() for a in aggregated]
    after = detector.head.folded(aggregated)
    assert relative_error(after, explicit_logits(detector, aggregated)) < 1e-5
    assert change == "double" or (after - before).abs().max() > 1e-3


def test_an_unchanged_head_is_folded_once_and_never_saved(make_detector):
    detector = make_detector(SimpleNet)
    names = set(detector.state_dict())
    assert detector.head.folded is detector.head.folded
    assert set(detector.state_dict()) == names


def test_a_detector_made_in_inference_mode_folds_too():
    with torch.inference_mode():
        detector = trained_head(SimpleNet, backbone="resnet18.tv_in1k", embed_dim=32)
        assert isinstance(detector.head.folded, FoldedDiscriminator)


@pytest.mark.parametrize("name", ["resnet18.tv_in1k", "efficientnet_b0.ra_in1k", "tf_efficientnet_b0.in1k"])
def test_networks_compute_the_same_whether_they_can_be_traced_or_not(name):
    """The last one cannot: its padding depends on the size of the picture."""
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, features_only=True, out_indices=(2, 3)).eval()
    randomise_norms(network)
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        for folded, plain in zip(fold_batch_norm(network)(images), network(images), strict=True):
            assert relative_error(folded, plain) < 1e-5


def test_folding_leaves_the_network_alone():
    network = timm.create_model("resnet18.tv_in1k", pretrained=False, features_only=True, out_indices=(2, 3)).eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
