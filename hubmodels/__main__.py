"""`python -m hubmodels` is the command `hubmodels`."""

from hubmodels.cli import main

main()
