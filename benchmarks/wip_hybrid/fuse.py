import sys, torch, numpy as np
from pathlib import Path
from data import cached, ROOT, SIZE
from hubmodels.scoring import smooth_map
from training.metrics import PixelMetrics, image_metrics
torch.set_num_threads(1)
def load(name, m, seed=0):
    p=ROOT/'scores'/f'{name}_{m}_{seed}.pt'
    return torch.load(p) if p.exists() else None
_d={}
def meta(name):
    if name not in _d:
        d=cached(name,'compactnet.distilled_in1k'); _d[name]=(d['labels'],d['masks'])
    return _d[name]
def z(s):
    m,d=s['fit'].float().mean(),s['fit'].float().std()
    return {k:((v.float()-m)/d if torch.is_tensor(v) else {a:(b.float()-m)/d for a,b in v.items()}) for k,v in s.items()}
def ev(name, test, pixel=True):
    labels,masks=meta(name); n=len(labels); t=test.view(n,32,32)
    f=t.flatten(1); top=f.topk(10,1).values
    out=[image_metrics(top[:,0].tolist(),labels)['image_auroc'], image_metrics(top.mean(1).tolist(),labels)['image_auroc'], image_metrics(f.topk(31,1).values.mean(1).tolist(),labels)['image_auroc']]
    sm=smooth_map(t,64).flatten(1).amax(1) if False else None
    if pixel and masks is not None:
        pm=PixelMetrics()
        for i in range(n): pm.update(smooth_map(t[i:i+1],SIZE)[0].numpy(),masks[i].numpy())
        m=pm.compute(); out+=[m['pixel_auroc'],m['aupro']]
    return ' / '.join('%.1f'%(100*v) for v in out)
if __name__=='__main__':
    for name in sys.argv[1].split(','):
        for combo in sys.argv[2].split(','):
            parts=[c.split('*') for c in combo.split('+')]
            ss=[(float(p[1]) if len(p)>1 else 1.0, load(name,p[0])) for p in parts]
            if any(s is None for _,s in ss): continue
            print('%-12s %-16s %s'%(name,combo,ev(name,sum(w*z(s)['test'] for w,s in ss))),flush=True)
