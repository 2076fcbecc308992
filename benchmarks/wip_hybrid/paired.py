import pyarrow.parquet as pq, numpy as np
from pathlib import Path
from scipy.stats import norm
def scores(folder):
    t=pq.read_table(folder/'scores.parquet').to_pydict(); return t
f=next(Path('/work/free/hyb/0').glob('*screw*')); t=scores(f); print({k:v[:2] for k,v in t.items()})
def get(folder):
    t=scores(folder); key=[k for k in t if k in('name','picture','file')][0]
    lab=[k for k in t if 'label' in k or 'anomal' in k or k=='is_defective'][0]
    return {str(Path(n).with_suffix('')):(s,int(l)) for n,s,l in zip(t[key],t[[k for k in t if 'score' in k][0]],t[lab])}
def delong(a,b,y):
    y=np.array(y); a,b=np.array(a),np.array(b)
    def parts(s):
        p,n=s[y==1],s[y==0]; m=(p[:,None]>n)+.5*(p[:,None]==n); return m.mean(),m.mean(1),m.mean(0)
    A,pa,na=parts(a);B,pb,nb=parts(b)
    v=np.var(pa-pb,ddof=1)/len(pa)+np.var(na-nb,ddof=1)/len(na)
    return A,B,2*norm.sf(abs(A-B)/max(np.sqrt(v),1e-12))
for s in ('screw','bottle','capsule','commutator','magnetic_tile','solar_cell_mono'):
    h=get(next(Path('/work/free/hyb/0').glob(f'*-{s}')))
    for n in ('compactnet','compactnet_glass'):
        ps=[]
        for seed in '012':
            fs=list(Path(f'/work/free/gpu/x/runs/{n}/{seed}').glob(f'*-{s}'))
            if not fs or not (fs[0]/'scores.parquet').exists(): continue
            o=get(fs[0]); k=[x for x in h if x in o]
            A,B,p=delong([h[x][0] for x in k],[o[x][0] for x in k],[h[x][1] for x in k]); ps.append(f'{100*A:.1f} vs {100*B:.1f} p={p:.3g} n={len(k)}/{len(h)}')
        print(s,n,' ; '.join(ps))
