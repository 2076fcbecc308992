"""`python -m training.parts`: see `training.parts.dataset`."""

from training.parts.dataset import main

main()
