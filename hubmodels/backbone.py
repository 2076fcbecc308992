"""The frozen ImageNet network: loaded once per process, shared by all heads, identified by a fingerprint.

A published head does not include its backbone (100 MB). Its config contains the timm id, the layers, and the SHA-256
of the tensors it was trained on. Weights are searched in this order: explicit path, bundled with this package, local
Hub cache, Hub. Weights with another fingerprint are refused, because a head gives no useful scores on the features of
another network (anomalib#2688: V2 instead of V1 weights cost several points).
"""

import copy
import hashlib
import logging
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor, fx, nn
from torch.nn.utils import fuse_conv_bn_eval

from hubmodels.compactnet import BUNDLED_WEIGHTS, COMPACT_BACKBONE, CompactNet
from hubmodels.hub.errors import CLIENT_ERRORS, in_words
from hubmodels.hub.files import LFS_START, WEIGHTS_FILE
from hubmodels.tiles import Field, receptive_fields

# of RGB in [0, 1]; timm has the same constants, but its import takes seconds
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

logger = logging.getLogger(__name__)

# By fingerprint and device, and by file. A backbone is freed when no detector uses it any more.
_shared: weakref.WeakValueDictionary[tuple, "Backbone"] = weakref.WeakValueDictionary()
_lock = threading.RLock()


class BackboneError(RuntimeError):
    """The backbone's weights are missing, unreadable, or not those that the head was trained on."""


class Backbone(nn.Module):
    """A timm network cut after the last layer used, frozen, always in eval mode, BatchNorm folded.

    Args:
        name: timm id with its weights tag, such as `wide_resnet50_2.tv_in1k`.
        layers: timm feature indices; in ResNets 2 and 3 are the outputs of `layer2` (stride 8) and `layer3` (16).
        weights: file that contains at least the tensors of the cut network, as safetensors.

    Attributes:
        fingerprint: SHA-256 over names, shapes and float32 values of the tensors in use before folding, so that it
            does not depend on the file format nor on layers that are not used.
        channels: channels of each feature map.
    """

    def __init__(self, name: str, layers: tuple[int, ...], weights: Path) -> None:
        super().__init__()
        self.name, self.layers = name, layers
        network = _read_network(name, layers, weights).float().eval().requires_grad_(False)
        self.channels = feature_channels(name, layers)
        self.fingerprint = fingerprint(network)
        self.channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"  # of its maps: Swin and similar networks
        self.network = fold_batch_norm(network).to(memory_format=torch.channels_last)  # CPUs convolve faster in it
        self.eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> one feature map (B, C, h, w) per layer.

        Raises:
            BackboneError: the network does not take images of this size, or its features are no maps.
        """
        try:
            maps = self.network(images)
        except AssertionError as error:  # transformers whose position codes have one size
            raise BackboneError(
                f"{self.name} takes no images of this size: {error} Give that as image size."
            ) from error
        if any(feature_map.ndim != 4 for feature_map in maps):
            raise BackboneError(f"{self.name} gives no two-dimensional feature maps: choose another backbone")
        return [feature_map.movedim(-1, 1) if self.channels_last else feature_map for feature_map in maps]

    @cached_property
    def fields(self) -> tuple[Field, ...] | None:
        """Stride and receptive field of each layer's map; None where a position can depend on the whole image."""
        return receptive_fields(self.network)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in eval mode: batch statistics of a frozen network must never follow the user's pictures."""
        return super().train(False)


@torch.inference_mode(False)  # autograd takes no tensors that were made in it, and `Backbone.fields` needs autograd
def load_backbone(
    name: str,
    layers: tuple[int, ...] = (2, 3),
    *,
    weights: str | Path | None = None,
    sha256: str | None = None,
    device: torch.device | str = "cpu",
) -> Backbone:
    """The process-wide backbone of that name: the same object for every head that needs the same weights.

    Args:
        weights: explicit file; by default bundled weights, then the local Hub cache, then the Hub.
        sha256: fingerprint that the weights must have; weights already in memory that have it are reused.

    Raises:
        BackboneError: no such network, no weights found, or another fingerprint than `sha256`.
    """
    layers, device = tuple(layers), torch.device(device)
    with _lock:
        found = _shared.get((name, layers, sha256, device))
        if found is not None:
            return found
        backbone = _shared.get((name, layers, sha256, torch.device("cpu"))) or _load(name, layers, weights)
        if sha256 is not None and backbone.fingerprint != sha256:
            raise BackboneError(
                f"the weights found for {name} have the fingerprint {backbone.fingerprint[:12]}..., but this model "
                f"was trained on {sha256[:12]}...: its scores would mean nothing. Give the right weights by "
                "`backbone_weights=FILE`."
            )
        return _share(backbone, device)


def _share(backbone: Backbone, device: torch.device) -> Backbone:
    """The backbone of these weights on the device, so that equal weights are in memory once per device."""
    key = (backbone.name, backbone.layers, backbone.fingerprint)
    original = _shared.setdefault((*key, torch.device("cpu")), backbone)
    if device.type == "cpu":
        return original
    moved = _shared.get((*key, device))
    if moved is None:
        moved = _shared[(*key, device)] = copy.deepcopy(original).to(device)
    return moved


def _load(name: str, layers: tuple[int, ...], weights: str | Path | None) -> Backbone:
    path = Path(weights) if weights is not None else find_weights(name)
    if not path.is_file():
        raise BackboneError(f"{path} is not a file: give the safetensors weights of {name}.")
    key = (name, layers, path.resolve(), path.stat().st_mtime_ns)
    backbone = _shared.get(key)
    if backbone is None:
        backbone = _shared[key] = Backbone(name, layers, path)
    return backbone


def find_weights(name: str) -> Path:
    """The weights of a timm network: bundled with this package, else in the local Hub cache, else from the Hub.

    Raises:
        BackboneError: unknown name, a name without a weights tag, or no weights and no network.
    """
    bundled = BUNDLED_WEIGHTS / f"{name}.safetensors"
    if bundled.is_file():
        return bundled
    repo_id = hub_repository(name)
    try:
        return Path(hf_hub_download(repo_id, WEIGHTS_FILE, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(hf_hub_download(repo_id, WEIGHTS_FILE))
    except CLIENT_ERRORS as error:
        raise BackboneError(
            f"the backbone weights of {name} are neither bundled nor in the local cache, and {repo_id} could not be "
            f"downloaded: {in_words(error)}. You can also give a file by `backbone_weights=FILE` "
            "(`--backbone-weights FILE`)."
        ) from error


def hub_repository(name: str) -> str:
    """Id of the Hub repository with a timm network's weights."""
    repo_id = _pretrained_cfg(name).hf_hub_id or "timm/"
    return repo_id + name if repo_id.endswith("/") else repo_id


@lru_cache
def feature_channels(name: str, layers: tuple[int, ...]) -> tuple[int, ...]:
    """Channels of each layer's feature map, known without any weights."""
    if name == COMPACT_BACKBONE:
        return tuple(CompactNet.CHANNELS[layer] for layer in layers)
    return tuple(_feature_info(name, layers).channels())


@lru_cache
def feature_strides(name: str, layers: tuple[int, ...] = (2, 3)) -> tuple[int, ...]:
    """Pixels of the image for one position of each layer's feature map, along either axis; needs no weights."""
    if name == COMPACT_BACKBONE:
        return tuple(CompactNet.STRIDES[layer] for layer in layers)
    with _timm_errors(name, layers):
        return tuple(_feature_info(name, layers).reduction())


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per RGB channel (pictures in [0, 1]) that the network was trained with."""
    if name == COMPACT_BACKBONE:
        return IMAGENET_MEAN, IMAGENET_STD
    cfg = _pretrained_cfg(name)
    return tuple(cfg.mean), tuple(cfg.std)


def fingerprint(network: nn.Module) -> str:
    """SHA-256 (hex) over names, shapes and float32 values of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):  # a counter that some files lack and inference never reads
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()


def _pretrained_cfg(name: str):
    import timm  # takes seconds, and the compact backbone does not need it

    # timm gives an untagged name its own favourite weights, which for wide_resnet50_2 are not the papers'.
    tags = timm.list_pretrained(f"{name.split('.')[0]}.*")
    if name not in tags:
        hint = f"choose one of {', '.join(tags)}" if tags else "see timm.list_pretrained()"
        raise BackboneError(f"{name!r} names no network and weights known to timm: {hint}.")
    return timm.get_pretrained_cfg(name)


def _feature_info(name: str, layers: tuple[int, ...]):
    """timm's description of the layers."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return _build(name, layers).feature_info


@contextmanager
def _timm_errors(name: str, layers: tuple[int, ...]) -> Iterator[None]:
    """Turns what timm raises for a network without such layers into a BackboneError."""
    try:
        yield
    except BackboneError:
        raise
    except (AssertionError, LookupError, RuntimeError) as error:
        raise BackboneError(f"{name} has no feature maps of the layers {layers}: {error}") from error


def _build(name: str, layers: tuple[int, ...]) -> nn.Module:
    if name == COMPACT_BACKBONE:
        return CompactNet(layers)
    import timm

    _pretrained_cfg(name)
    return timm.create_model(name, pretrained=False, features_only=True, out_indices=layers)


def _read_network(name: str, layers: tuple[int, ...], weights: Path) -> nn.Module:
    """The cut network with its tensors; of the file nothing else is read, nor is memory taken for the other layers."""
    with _timm_errors(name, layers), torch.device("meta"):
        network = _build(name, layers)
    tensors = _read_tensors(network, name, weights)
    if not _has_all(tensors, network):
        if isinstance(network, CompactNet):
            raise BackboneError(f"{weights.name} does not contain the weights of {name}: their shapes differ.")
        return _read_by_timm(name, layers, weights)
    copies = {key: tensor.clone() for key, tensor in tensors.items()}  # the file is mapped, and may change later
    network.load_state_dict(copies, assign=True)  # `to_empty` imports sympy, which takes a second
    return network


def _read_tensors(network: nn.Module, name: str, weights: Path) -> dict[str, Tensor]:
    """The network's tensors by its own names, which differ from the file's by dots and by what timm puts before."""
    names = {key: key.removeprefix("model.").replace(".", "_") for key in network.state_dict()}
    try:
        with safe_open(weights, "pt") as file:
            stored = {key.replace(".", "_"): key for key in file.keys()}
            tensors = {key: file.get_tensor(stored[plain]) for key, plain in names.items() if plain in stored}
    except (SafetensorError, OSError) as error:
        with weights.open("rb") as file:
            if file.read(len(LFS_START)) == LFS_START:
                raise BackboneError(f"{weights} is a pointer of Git LFS: run `git lfs pull` there.") from error
        raise BackboneError(f"{weights.name} is not a readable safetensors file: {error}") from error
    for key in names:
        if key.endswith("num_batches_tracked"):  # a counter that some files lack and inference never reads
            tensors.setdefault(key, torch.zeros((), dtype=torch.long))
    missing = [key for key in names if key not in tensors]
    if missing:
        raise BackboneError(
            f"{weights.name} does not contain the weights of {name}: {len(missing)} of {len(names)} tensors are "
            f"missing, for example {missing[0].removeprefix('model.')}."
        )
    return tensors


def _has_all(tensors: dict[str, Tensor], network: nn.Module) -> bool:
    """Whether the file's tensors are all that the network is made of, in its shapes."""
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    computed = {key for key, _ in network.named_buffers()} - set(shapes)  # by the network itself, as it is built
    return not computed and all(tensors[key].shape == shape for key, shape in shapes.items())


def _read_by_timm(name: str, layers: tuple[int, ...], weights: Path) -> nn.Module:
    """As timm does it: builds and reads the whole network, and converts the names in the file."""
    import timm

    overlay = dict(file=str(weights), custom_load=False)  # safetensors, also where the authors' own file is not
    with torch.random.fork_rng(devices=[]):  # a seeded run must not depend on whether a backbone is built or shared
        try:
            return timm.create_model(
                name, pretrained=True, features_only=True, out_indices=layers, pretrained_cfg_overlay=overlay
            )
        except (RuntimeError, LookupError, SafetensorError, OSError) as error:
            raise BackboneError(f"{weights.name} does not contain the weights of {name}: {error}") from error


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A frozen network with every BatchNorm folded into the convolution before it, where its graph can be traced.

    In eval mode both are affine, so the result is the same with fewer operations.

    Args:
        network: in eval mode; left unchanged, but parts of it are shared.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    try:
        traced = fx.symbolic_trace(network)
    except Exception as error:  # its operations depend on the picture: slower, not wrong
        logger.info("BatchNorm is not folded, because the network cannot be traced: %s", error)
        return network
    for node in list(traced.graph.nodes):
        convolution = node.args[0] if node.args else None
        if _calls(traced, node, nn.BatchNorm2d) and _calls(traced, convolution, nn.Conv2d):
            conv, norm = (traced.get_submodule(n.target) for n in (convolution, node))
            traced.set_submodule(convolution.target, fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(convolution)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _calls(network: fx.GraphModule, node: object, kind: type[nn.Module]) -> bool:
    """Whether a node calls a module of exactly this kind, which nothing else calls, for one other node."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.users) != 1:
        return False
    calls = [other for other in network.graph.nodes if other.op == "call_module" and other.target == node.target]
    return len(calls) == 1 and type(network.get_submodule(node.target)) is kind
