import torch, numpy as np
from fuse import load, z
from sklearn.metrics import roc_auc_score
for name in ("screw","tile","elpv","capsule","commutator","bottle","pill","cloth"):
    out=[]
    for m in ("nn","nnp64_2k","F","H0","N0"):
        s=load(name,m)
        if s is None: out.append('%-8s -'%m); continue
        h=s['held'].float().flatten().numpy(); b={k:v.float().numpy() for k,v in s['bank'].items()}
        out.append('%-8s '%m+' '.join('%.1f'%(100*roc_auc_score(np.r_[np.zeros(len(h)),np.ones(len(v))],np.r_[h,v])) for v in b.values()))
    print('%-11s'%name,' | '.join(out))
