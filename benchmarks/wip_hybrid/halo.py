"""Rows of cells near damage, but without any: bank(name) -> (m, D)."""
import sys, time
from scipy import ndimage
from data import *
def halo(name, backbone, seed=0, most=30000):
    path = ROOT / "cache" / backbone / f"{name}_halo{seed}.pt"
    if path.exists(): return torch.load(path, weights_only=False)
    data, detector, textures = cached(name, backbone), make_detector(backbone), TextureSource(SIZE)
    n = len(data["images"]); rows, t = [], time.time()
    for kind in KINDS:
        for start in range(0, n, 16):
            idx = range(start, min(n, start + 16)); ims, near = [], []
            for i in idx:
                out, m = KINDS[kind](i, data, np.random.default_rng([seed, list(KINDS).index(kind), 0, i]), textures)
                ims.append(torch.from_numpy(np.round(out * 255).astype(np.uint8)).permute(2, 0, 1))
                changed = np.abs(out - pixels(data, i)).max(-1) > 2 / 255
                any_ = (m | changed).reshape(32, 8, 32, 8).any((1, 3))
                near.append(ndimage.binary_dilation(any_, iterations=3, structure=np.ones((3, 3))) & ~any_)
            new = align(extract(detector, torch.stack(ims))).movedim(1, -1)
            rows.append(new[torch.from_numpy(np.stack(near))].clone())
    rows = torch.cat(rows); rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most]].clone()
    torch.save(rows, path); print(name, len(rows), round(time.time() - t), flush=True)
    return rows
if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1].split(","): halo(name, "compactnet.distilled_in1k")
