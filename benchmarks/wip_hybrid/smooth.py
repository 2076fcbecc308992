import sys, torch
from scipy import ndimage
from fuse import *
for name in sys.argv[1].split(','):
    for m in sys.argv[2].split(','):
        s=load(name,m)
        if s is None: continue
        for sg in (0,.5,1,1.5,2):
            t=s['test'].float().view(-1,32,32)
            if sg: t=torch.from_numpy(ndimage.gaussian_filter(t.numpy(),(0,sg,sg)))
            print('%-11s %-8s %s %s'%(name,m,sg,ev(name,t)),flush=True)
