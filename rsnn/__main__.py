"""`python -m rsnn` is the command `rsnn`."""

from rsnn.cli import main

main()
