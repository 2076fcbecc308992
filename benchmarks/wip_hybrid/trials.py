"""Trials: python trials.py SETS BACKBONE METHODS SEEDS [THREADS]; appends rows to results.jsonl."""
import sys, time, json, math
from pathlib import Path
import numpy as np, torch
from torch import nn
from torch.nn import functional as F
from data import cached, bank, SIZE, ROOT
from hubmodels.front_end import align
from hubmodels.scoring import smooth_map
from training.metrics import PixelMetrics, image_metrics

def flat(layers, device="cpu"):
    return align(layers).movedim(1, -1).flatten(0, 2)

class Given:
    """Features of a set as rows."""
    def __init__(self, name, backbone, seed, n=None):
        d = cached(name, backbone)
        if n: 
            p = np.random.default_rng([7, seed]).permutation(len(d["images"]))[:n]
            d = dict(d, train=[l[p] for l in d["train"]], images=d["images"][p])
        self.d, self.name, self.backbone, self.seed = d, name, backbone, seed
        self.x = flat(d["train"]); self.n = len(d["images"])
        self.test = flat(d["test"])
        self._bank = None
    @property
    def bank(self):
        if self._bank is None: self._bank = bank(self.name, self.backbone, 0)
        return {k: v for k, v in self._bank.items() if k != "seconds"}
    def bank_rows(self): return torch.cat([v[0] for v in self.bank.values()])
    def deltas(self, kinds=("local",)): return torch.cat([self.bank[k][1] for k in kinds])

# ---- adaptors in closed form
def scale_adaptor(x):
    mu = x.mean(0); s = (x - mu).square().mean().sqrt()
    return lambda r: (r - mu) / s
def white_adaptor(x, shrink=.1):
    mu = x.mean(0); S = (x - mu).T @ (x - mu) / len(x)
    S = (1 - shrink) * S + shrink * S.trace() / len(S) * torch.eye(len(S))
    l, V = torch.linalg.eigh(S); W = V / l.sqrt()
    return lambda r: (r - mu) @ W

def head_of(D, hidden=None):
    h = hidden or D * 2 // 3
    head = nn.Sequential(nn.Linear(D, h), nn.BatchNorm1d(h), nn.LeakyReLU(.2), nn.Linear(h, 1, bias=False))
    for l in (head[0], head[3]): nn.init.xavier_normal_(l.weight)
    return head

def fit_head(g, adaptor, noise=.35, steps=500, batch=512, bank_rows=None, nbank=255, lr=1e-3, wd=1e-2, hidden=None, noise_fn=None, loss="bce", extra=None):
    torch.manual_seed(g.seed); D = g.x.shape[1]
    head = head_of(D, hidden).train()
    opt = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=wd)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    for step in range(steps):
        z = adaptor(g.x[torch.randint(len(g.x), (batch,))])
        noisy = noise_fn(z) if noise_fn else z + noise * torch.randn_like(z)
        parts = [z, noisy]
        if bank_rows is not None: parts.append(adaptor(bank_rows[torch.randint(len(bank_rows), (nbank,))]))
        out = head(torch.cat(parts))[:, 0].split([len(p) for p in parts])
        L = F.softplus(out[0]).mean() + sum(F.softplus(-o).mean() for o in out[1:])
        opt.zero_grad(); L.backward(); opt.step(); sched.step()
    # statistics over many normal + noisy + bank, in the mixture of the steps
    with torch.no_grad():
        idx = torch.randperm(len(g.x))[:40000]; hs = []
        z = adaptor(g.x[idx]); hs.append(head[0](z)); hs.append(head[0](noise_fn(z) if noise_fn else z + noise * torch.randn_like(z)))
        if bank_rows is not None: hs.append(head[0](adaptor(bank_rows[torch.randperm(len(bank_rows))[: len(idx) // 2]])))
        hs = torch.cat(hs); head[1].running_mean.copy_(hs.mean(0)); head[1].running_var.copy_(hs.var(0))
    head.eval()
    return lambda r: torch.cat([head(adaptor(c))[:, 0] for c in r.split(65536)])

# ---- density
def kmeans(x, k, iters=12, seed=0, sub=60000):
    gen = torch.Generator().manual_seed(seed)
    s = x[torch.randperm(len(x), generator=gen)[:sub]]; c = s[torch.randperm(len(s), generator=gen)[:k]].clone()
    for _ in range(iters):
        a = torch.cat([torch.cdist(p, c).argmin(1) for p in s.split(8192)])
        n = torch.bincount(a, minlength=k).clamp(min=1)
        new = torch.zeros_like(c).index_add_(0, a, s) / n[:, None]
        c = torch.where((torch.bincount(a, minlength=k) > 0)[:, None], new, c)
    return c, s, a

def F_metric(g, K=512, shrink=.001, tau=.03, rank=None, kinds=("local",)):
    c, s, a = kmeans(g.x, K, seed=g.seed); r = s - c[a]; D = g.x.shape[1]
    S = r.T @ r / len(r); S = (1 - shrink) * S + shrink * S.trace() / D * torch.eye(D)
    d = g.deltas(kinds); Sd = d.T @ d / len(d)
    S, Sd = S.double(), Sd.double()
    L = torch.linalg.cholesky(S); Li = torch.linalg.inv(L); M = Li @ Sd @ Li.T
    lam, U = torch.linalg.eigh(M); w = tau * lam.clamp(min=0) / (1 + tau * lam.clamp(min=0))
    A = (Li.T @ U * w.sqrt()).float()
    if rank: A = A[:, -rank:]
    cz = c @ A
    return lambda r: torch.cat([torch.cdist(p @ A, cz).amin(1) for p in r.split(16384)])

def nn_bank(g, share=.1, most=20000):
    gen = torch.Generator().manual_seed(g.seed)
    b = g.x[torch.randperm(len(g.x), generator=gen)[: min(most, max(1, int(share * len(g.x))))]]
    return lambda r: torch.cat([torch.cdist(p, b).amin(1) for p in r.split(4096)])

def zfuse(g, *scorers):
    ref = g.x[torch.randperm(len(g.x), generator=torch.Generator().manual_seed(1))[:20000]]
    st = [(s(ref).mean(), s(ref).std()) for s in scorers]
    return lambda r: sum((s(r) - m) / d for s, (m, d) in zip(scorers, st))

METHODS = {
    "nn": nn_bank,
    "N0": lambda g: fit_head(g, scale_adaptor(g.x)),
    "H0": lambda g: fit_head(g, scale_adaptor(g.x), bank_rows=g.bank_rows()),
    "H1": lambda g: fit_head(g, white_adaptor(g.x), noise=.5, bank_rows=g.bank_rows()),
    "F": F_metric,
    "F128": lambda g: F_metric(g, rank=128),
    "B0": lambda g: zfuse(g, METHODS["H0"](g), METHODS["F"](g)),
    "B1": lambda g: zfuse(g, METHODS["H1"](g), METHODS["F"](g)),
}

def measure(g, scorer):
    d = g.d; s = scorer(g.test).view(len(d["labels"]), 32, 32)
    top = s.flatten(1).topk(10, 1).values
    row = {"max": image_metrics(top[:, 0].tolist(), d["labels"])["image_auroc"], "top1": image_metrics(top.mean(1).tolist(), d["labels"])["image_auroc"]}
    if d["masks"] is not None:
        pm = PixelMetrics()
        for i in range(len(s)): pm.update(smooth_map(s[i:i+1], SIZE)[0].numpy(), d["masks"][i].numpy())
        m = pm.compute(); row |= {"pixel": m["pixel_auroc"], "aupro": m["aupro"]}
    return {k: round(100 * v, 2) for k, v in row.items()}, s

def main():
    sets, backbone, methods, seeds = sys.argv[1].split(","), sys.argv[2], sys.argv[3].split(","), [int(s) for s in sys.argv[4].split(",")]
    torch.set_num_threads(int(sys.argv[5]) if len(sys.argv) > 5 else 1)
    for name in sets:
        for seed in seeds:
            g = Given(name, backbone, seed)
            for m in methods:
                t = time.time()
                scorer = METHODS[m](g); took = time.time() - t
                with torch.no_grad(): row, _ = measure(g, scorer)
                row = {"set": name, "backbone": backbone, "method": m, "seed": seed, **row, "fit_s": round(took, 1), "all_s": round(time.time() - t, 1)}
                print(json.dumps(row), flush=True)
                with open(ROOT / "results.jsonl", "a") as f: f.write(json.dumps(row) + "\n")
if __name__ == "__main__":
    with torch.no_grad() if False else torch.enable_grad(): main()
