"""Trials with many settings: python trials2.py SETS SPECS SEEDS [THREADS]; SPECS name entries of the table below."""
import sys, time, json
import numpy as np, torch
from torch import nn
from torch.nn import functional as F
import trials as t
from trials import Given, flat, measure, ROOT, scale_adaptor, white_adaptor, head_of, kmeans

def fit(g, adaptor="scale", shrink=.1, noise=.35, steps=500, batch=512, nbank=255, kinds=("local","paste","photo"), lr=1e-3, wd=1e-2,
        transplant=0, tscale=(.25, 1.), swap=0, ascent=0, far=0, ema=0., cov=0., use_noise=True, layerwise=False, seed_shift=0, smooth=0., density=None, bankw=1., halo=0):
    torch.manual_seed(g.seed + 1000 * seed_shift); D = g.x.shape[1]
    A = scale_adaptor(g.x) if adaptor == "scale" else white_adaptor(g.x, shrink)
    rows = [g.bank[k][0] for k in kinds]; bank = torch.cat(rows) if rows else None
    deltas = torch.cat([g.bank[k][1] for k in kinds]) if transplant else None
    if bank is not None: bank = A(bank)
    dz = (A(deltas) - A(torch.zeros(1, D))) if transplant else None
    x = A(g.x)
    if halo:
        from halo import halo as halo_rows
        hrows = A(halo_rows(g.name, g.backbone))
    if cov:
        S = torch.cov(x[torch.randperm(len(x))[:60000]].T); l, V = torch.linalg.eigh(S)
        scale = ((1 - cov) * torch.ones(D) + cov * l.clamp(min=0) * D / l.sum()).sqrt(); C = V * scale
    heads = nn.ModuleList([head_of(D)]) if not layerwise else nn.ModuleList([head_of(128), head_of(D - 128)])
    def run(z):
        if not layerwise: return heads[0](z)[:, 0]
        return heads[0](z[:, :128])[:, 0] + heads[1](z[:, 128:])[:, 0]
    opt = torch.optim.AdamW(heads.parameters(), lr=lr, weight_decay=wd)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    def negatives(z):
        parts = []
        if use_noise:
            e = torch.randn_like(z)
            if cov: e = e @ C.T
            v = z + noise * e
            if ascent:
                heads.eval(); r = noise * D ** .5
                v0 = v
                for _ in range(ascent):
                    v = v.detach().requires_grad_()
                    gr, = torch.autograd.grad(F.softplus(-run(v)).sum(), v)
                    v = v + .15 * r * gr / (gr.norm(dim=1, keepdim=True) + 1e-9)
                off = v.detach() - z; nn_ = off.norm(dim=1, keepdim=True); v = z + off * nn_.clamp(.85 * r, 1.7 * r) / nn_
                heads.train()
            parts.append(v)
        if bank is not None: parts.append(bank[torch.randint(len(bank), (nbank,))])
        if transplant:
            i = torch.randint(len(x), (transplant,)); s = torch.empty(transplant, 1).uniform_(*tscale)
            parts.append(x[i] + s * dz[torch.randint(len(dz), (transplant,))])
        if swap:
            a, b = x[torch.randint(len(x), (swap,))], x[torch.randint(len(x), (swap,))]
            parts.append(torch.cat([a[:, :128], b[:, 128:]], 1))
        if far:
            parts.append(torch.randn(far, D) * x.std(0) * 1.5)
        return parts
    heads.train()
    for step in range(steps):
        z = x[torch.randint(len(x), (batch,))]
        if halo: z = torch.cat([z[: batch - halo], hrows[torch.randint(len(hrows), (halo,))]])
        parts = [z, *negatives(z)]
        out = run(torch.cat(parts)).split([len(p) for p in parts])
        L = F.softplus(out[0]).mean() + sum(F.softplus(-o).mean() for o in out[1:]) / (1 if bankw == 1 else 1)
        opt.zero_grad(); L.backward(); opt.step(); sched.step()
    with torch.no_grad():
        z = x[torch.randperm(len(x))[:20000]]
        nb = nbank; parts = [z]
        if use_noise: parts.append(z + noise * (torch.randn_like(z) @ C.T if cov else torch.randn_like(z)))
        if bank is not None: parts.append(bank[torch.randperm(len(bank))[: len(z) // 2]])
        z = torch.cat(parts)
        for h, zz in zip(heads, [z] if not layerwise else [z[:, :128], z[:, 128:]]):
            hs = h[0](zz); h[1].running_mean.copy_(hs.mean(0)); h[1].running_var.copy_(hs.var(0))
    heads.eval()
    return lambda r: torch.cat([run(A(c)).detach() for c in r.split(65536)])

def z_of(s, ref): 
    v = s(ref); return v.mean(), v.std()

def fuse(g, *scorers, w=None):
    ref = g.x[torch.randperm(len(g.x), generator=torch.Generator().manual_seed(1))[:20000]]
    st = [z_of(s, ref) for s in scorers]; w = w or [1.] * len(scorers)
    return lambda r: sum(k * (s(r) - m) / d for k, s, (m, d) in zip(w, scorers, st))

SPECS = {
    "nn": lambda g: t.nn_bank(g), "F": lambda g: t.F_metric(g), "F128": lambda g: t.F_metric(g, rank=128), "Fall": lambda g: t.F_metric(g, kinds=("local","paste","photo")),
    "N0": lambda g: fit(g, kinds=()), "H0": lambda g: fit(g), "H1": lambda g: fit(g, "white", noise=.5),
    "H1s3": lambda g: fit(g, "white", shrink=.3, noise=.5), "H1s5": lambda g: fit(g, "white", shrink=.5, noise=.42),
    "H0cov": lambda g: fit(g, cov=.5), "H0n5": lambda g: fit(g, noise=.5), "H0n25": lambda g: fit(g, noise=.25), "H0n7": lambda g: fit(g, noise=.7),
    "H0s200": lambda g: fit(g, steps=200), "H0s1000": lambda g: fit(g, steps=1000), "H0s2000": lambda g: fit(g, steps=2000),
    "H0t": lambda g: fit(g, transplant=255), "H0tb": lambda g: fit(g, transplant=255, nbank=512), "H0b1": lambda g: fit(g, nbank=1024),
    "H0sw": lambda g: fit(g, swap=255), "H0ga": lambda g: fit(g, ascent=3), "H0far": lambda g: fit(g, far=128), "H0lw": lambda g: fit(g, layerwise=True),
    "B": lambda g: fit(g, use_noise=False), "Bt": lambda g: fit(g, use_noise=False, transplant=255),
    "H0loc": lambda g: fit(g, kinds=("local",)), "H0pas": lambda g: fit(g, kinds=("paste",)), "H0pho": lambda g: fit(g, kinds=("photo",)),
    "H0x3": lambda g: (lambda hs: (lambda r: sum(h(r) for h in hs) / 3))([fit(g, steps=300, seed_shift=i) for i in range(3)]),
    "B0": lambda g: fuse(g, fit(g), t.F_metric(g)), "B1": lambda g: fuse(g, fit(g, "white", noise=.5), t.F_metric(g)), "BN": lambda g: fuse(g, fit(g), t.nn_bank(g)),
    "H01": lambda g: fuse(g, fit(g), fit(g, "white", noise=.5)), "H01F": lambda g: fuse(g, fit(g), fit(g, "white", noise=.5), t.F_metric(g)),
}

def centroid(g, k=512, whiten=None):
    A = (lambda r: r) if whiten is None else white_adaptor(g.x, whiten)
    c, _, _ = kmeans(A(g.x), k, seed=g.seed)
    return lambda r: torch.cat([torch.cdist(A(p), c).amin(1) for p in r.split(16384)])

def nnp(g, dims=64, most=2000):
    x = g.x[torch.randperm(len(g.x), generator=torch.Generator().manual_seed(3))[:60000]]
    mu = x.mean(0); l, V = torch.linalg.eigh(torch.cov(x.T)); V = V[:, -dims:]
    b = ((g.x[torch.randperm(len(g.x), generator=torch.Generator().manual_seed(g.seed))[:most]]) - mu) @ V
    return lambda r: torch.cat([torch.cdist((p - mu) @ V, b).amin(1) for p in r.split(16384)])

def nnc(g, dims=64, most=2000, pool=60000, white=None):
    gen = torch.Generator().manual_seed(3 + g.seed)
    x = g.x[torch.randperm(len(g.x), generator=gen)[:pool]]
    mu = x.mean(0); l, V = torch.linalg.eigh(torch.cov(x.T)); V = V[:, -dims:]
    if white: V = V / (l[-dims:] + white * l.mean()).sqrt()
    y = (x - mu) @ V; sq = y.square().sum(1)
    chosen = [0]; near = torch.full((len(y),), float("inf"))
    for _ in range(most - 1):
        c = y[chosen[-1]]; near = torch.minimum(near, sq - 2 * (y @ c) + c @ c); chosen.append(int(near.argmax()))
    b = y[chosen]
    return lambda r: torch.cat([torch.cdist((p - mu) @ V, b).amin(1) for p in r.split(16384)])

SPECS |= {"nnc64_2k": lambda g: nnc(g), "nnc64_1k": lambda g: nnc(g, 64, 1000), "nnc128_1k": lambda g: nnc(g, 128, 1000), "nncw128_1k": lambda g: nnc(g, 128, 1000, white=1.), "nncw64_1kb": lambda g: nnc(g, 64, 1000, white=.3), "nncw64_2k": lambda g: nnc(g, 64, 2000, white=1.), "nncw64_1k": lambda g: nnc(g, 64, 1000, white=1.), "nnp64_2k": lambda g: nnp(g), "nnp64_4k": lambda g: nnp(g, 64, 4000), "nnp128_2k": lambda g: nnp(g, 128, 2000), "nnp96_1k": lambda g: nnp(g, 96, 1000), "H0ha": lambda g: fit(g, halo=128), "H0ha2": lambda g: fit(g, halo=255), "C512": lambda g: centroid(g), "C1k": lambda g: centroid(g, 1024), "C512w3": lambda g: centroid(g, 512, .3), "nn2k": lambda g: t.nn_bank(g, most=2000),
    "nn5k": lambda g: t.nn_bank(g, most=5000),
    "H0x3": lambda g: (lambda hs: (lambda r: sum(h(r) for h in hs) / 3))([fit(g, steps=500, seed_shift=i) for i in range(3)])}

def main():
    sets, specs, seeds = sys.argv[1].split(","), sys.argv[2].split(","), [int(s) for s in sys.argv[3].split(",")]
    torch.set_num_threads(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    bb = "compactnet.distilled_in1k"
    path = ROOT / "results2.jsonl"
    done = {(r["set"], r["method"], r["seed"]) for r in map(json.loads, path.read_text().splitlines())} if path.exists() else set()
    for name in sets:
        for seed in seeds:
            todo = [m for m in specs if (name, m, seed) not in done]
            if not todo: continue
            g = Given(name, bb, seed)
            for m in todo:
                s0 = time.time(); scorer = SPECS[m](g); took = time.time() - s0
                with torch.no_grad():
                    row, s = measure(g, scorer)
                    gen = torch.Generator().manual_seed(5)
                    held = flat(g.d["held"])
                    keep = {"test": s.half(), "held": scorer(held).view(-1, 32, 32).half(), "fit": scorer(g.x[torch.randperm(len(g.x), generator=gen)[:20000]]).half(),
                            "bank": {k: scorer(v[0][torch.randperm(len(v[0]), generator=gen)[:4000]]).half() for k, v in g.bank.items()}}
                    (ROOT / "scores").mkdir(exist_ok=True); torch.save(keep, ROOT / "scores" / f"{name}_{m}_{seed}.pt")
                row = {"set": name, "backbone": bb, "method": m, "seed": seed, **row, "fit_s": round(took, 1), "all_s": round(time.time() - s0, 1)}
                print(json.dumps(row), flush=True)
                with open(path, "a") as f: f.write(json.dumps(row) + "\n")
if __name__ == "__main__": main()
