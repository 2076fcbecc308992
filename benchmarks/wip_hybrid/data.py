"""Cached features of the sets that the hybrid is developed on, and banks of damaged pictures."""
import sys, time
from pathlib import Path
import numpy as np, torch
from torch.nn import functional as F
from PIL import Image
from scipy import ndimage

ROOT = Path(__file__).parent
from hubmodels.backbone import load_backbone, normalisation
from hubmodels.folders import read_category
from hubmodels.front_end import align, to_image
from hubmodels.simplenet import SimpleNet
from training.batches import build_cache, extract, load_images
from training.foreground import foreground_masks
from training.parts.dataset import parts_categories
from training.synthesis import TextureSource, blend, draw_blend_weight, perlin_mask, perlin_field

SHARED = Path("/work/shared")
SETS = {"screw": "mvtec_ad/screw", "bottle": "mvtec_ad/bottle", "capsule": "mvtec_ad/capsule", "tile": "magnetic_tile/magnetic_tile",
        "commutator": "kolektor_sdd/commutator", "elpv": "elpv/solar_cell_mono"}
PARTS = ("pill", "cloth", "connector", "washer", "brushed_metal")
SIZE, FIT = 256, 250
WEIGHTS = {"resnet18.tv_in1k": SHARED / "weights/resnet18_tv_in1k_layer3.safetensors", "compactnet.distilled_in1k": None}

def category(name):
    if name in PARTS:
        return parts_categories([name])[0]
    return read_category(None, name, SHARED / "data" / SETS[name])

def make_detector(backbone):
    net = load_backbone(backbone, (2, 3), weights=WEIGHTS[backbone])
    mean, std = normalisation(backbone)
    return SimpleNet(backbone=backbone, backbone_sha256=net.fingerprint, mean=mean, std=std, image_size=SIZE).eval()

def maps(detector, images):
    out = [[c.clone() for c in extract(detector, images[i:i+16])] for i in range(0, len(images), 16)]
    return [torch.cat(m) for m in zip(*out)]

def cached(name, backbone):
    path = ROOT / "cache" / backbone / f"{name}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        cat, detector = category(name), make_detector(backbone)
        order = np.random.default_rng(0).permutation(len(cat.train))
        fit = order[: min(FIT, int(0.9 * len(order)))]
        train = load_images([cat.train[i] for i in fit], SIZE, SIZE)
        held = load_images([cat.train[i] for i in order[len(fit):len(fit) + 50]], SIZE, SIZE)
        test = load_images(list(cat.test), SIZE, SIZE)
        masks = None
        if cat.has_masks:
            masks = torch.zeros(len(cat.test), SIZE, SIZE, dtype=torch.uint8)
            for i, s in enumerate(cat.test):
                if s.label:
                    picture = s.read()
                    m = Image.fromarray(255 * s.read_mask((picture.height, picture.width))).resize((SIZE, SIZE), Image.Resampling.BOX)
                    a = np.asarray(m); masks[i] = torch.from_numpy((a > min(127, a.max() - 1)).astype(np.uint8))
        fg = foreground_masks([im.permute(1, 2, 0).numpy() for im in train])
        torch.save({"images": train, "held_images": held, "train": maps(detector, train), "held": maps(detector, held), "test": maps(detector, test),
                    "labels": [s.label for s in cat.test], "masks": masks, "kinds": [s.defect_type for s in cat.test],
                    "foreground": None if fg.masks is None else np.stack(fg.masks)}, path)
    return torch.load(path, weights_only=False)

# ---- damage

def mask_of(rng, foreground):
    for _ in range(100):
        m = perlin_mask(SIZE, rng)
        if foreground is not None:
            m = m & foreground
        if m.sum() >= 12:
            return m
    return m

def damage_local(i, data, rng, textures):
    im = pixels(data, i); m = mask_of(rng, fg(data, i))
    return blend(im, textures.draw(rng), m, draw_blend_weight(rng)), m

def damage_paste(i, data, rng, textures):
    im = pixels(data, i); m = mask_of(rng, fg(data, i))
    j = i if rng.uniform() < .5 else int(rng.integers(len(data["images"])))
    src = pixels(data, j)
    dy, dx = rng.integers(16, SIZE - 16, 2)
    src = np.roll(src, (dy, dx), (0, 1)); src = np.rot90(src, int(rng.integers(4)))
    if rng.uniform() < .5: src = src[:, ::-1]
    a = 1.0 if rng.uniform() < .5 else rng.uniform(.4, .9)
    out = im.copy(); out[m] = a * src[m] + (1 - a) * im[m]
    return out, m

def damage_photo(i, data, rng, textures):
    im = pixels(data, i); m = mask_of(rng, fg(data, i))
    soft = ndimage.gaussian_filter(m.astype(np.float32), rng.uniform(.5, 3))
    soft = np.clip(soft / max(soft.max(), 1e-6), 0, 1)[..., None]
    u = rng.uniform()
    if u < .4: new = im * rng.uniform(.5, 1.5) + rng.uniform(-.25, .25)
    elif u < .6: new = ndimage.gaussian_filter(im, (s := rng.uniform(1, 4), s, 0))
    elif u < .8:
        amp = rng.uniform(3, 12)
        f = [ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), 12) for _ in range(2)]
        f = [amp * x / np.abs(x).max() for x in f]
        y, x = np.mgrid[:SIZE, :SIZE]
        new = np.stack([ndimage.map_coordinates(im[..., c], (y + f[0], x + f[1]), order=1, mode="reflect") for c in range(3)], -1)
    else: new = np.broadcast_to(rng.uniform(0, 1, 3).astype(np.float32), im.shape)
    return np.clip(im + soft * (new - im), 0, 1).astype(np.float32), m

KINDS = {"local": damage_local, "paste": damage_paste, "photo": damage_photo}

def pixels(data, i): return data["images"][i].permute(1, 2, 0).numpy().astype(np.float32) / 255
def fg(data, i): return None if data["foreground"] is None else data["foreground"][i]

def bank(name, backbone, seed=0, plan=(("local", 2), ("paste", 1), ("photo", 1))):
    """Features (m, D) of damaged cells by kind, and what the same cells had before."""
    path = ROOT / "cache" / backbone / f"{name}_bank{seed}.pt"
    if path.exists(): return torch.load(path, weights_only=False)
    data, detector, textures = cached(name, backbone), make_detector(backbone), TextureSource(SIZE)
    t = time.time(); n = len(data["images"]); factor = 2 if n < 100 else 1
    found = {k: ([], []) for k, _ in plan}
    for kind, times in plan:
        for lap in range(times * factor):
            for start in range(0, n, 16):
                idx = range(start, min(n, start + 16)); ims, covers = [], []
                for i in idx:
                    out, m = KINDS[kind](i, data, np.random.default_rng([seed, list(KINDS).index(kind), lap, i]), textures)
                    ims.append(torch.from_numpy(np.round(out * 255).astype(np.uint8)).permute(2, 0, 1))
                    covers.append(m.reshape(32, 8, 32, 8).mean((1, 3)) >= .25)
                new = align(extract(detector, torch.stack(ims))).movedim(1, -1)
                old = align([l[start:start + len(ims)] for l in data["train"]]).movedim(1, -1)
                c = torch.from_numpy(np.stack(covers))
                found[kind][0].append(new[c].clone()); found[kind][1].append((new - old)[c].clone())
    out = {k: tuple(torch.cat(v) for v in pair) for k, pair in found.items()}
    g = torch.Generator().manual_seed(seed)
    for k, (a, b) in out.items():
        p = torch.randperm(len(a), generator=g)[:40000]; out[k] = (a[p].clone(), b[p].clone())
    out["seconds"] = time.time() - t
    torch.save(out, path)
    return out

if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    for name in sys.argv[1].split(","):
        t = time.time(); d = cached(name, sys.argv[2]); b = bank(name, sys.argv[2])
        print(name, [tuple(x.shape) for x in d["train"]], len(d["labels"]), {k: len(v[0]) for k, v in b.items() if k != "seconds"}, round(time.time() - t), flush=True)
