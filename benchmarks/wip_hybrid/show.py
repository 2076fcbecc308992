import json, sys
from collections import defaultdict
import numpy as np
rows=[json.loads(l) for l in open('/work/free/hybrid/results2.jsonl')]
sets=["screw","tile","elpv","capsule","commutator","bottle","pill","cloth"]
ms=list(dict.fromkeys(r['method'] for r in rows))
d=defaultdict(list)
for r in rows: d[r['method'],r['set']].append(r)
print('%-8s'%'', *['%-24s'%s for s in sets])
for m in ms:
    c=[]
    for s in sets:
        v=d[m,s]
        c.append('%-24s'%('-' if not v else '/'.join('%.1f'%np.mean([x.get(k,np.nan) for x in v]) for k in ('max','top1','pixel','aupro'))))
    print('%-8s'%m,*c)
