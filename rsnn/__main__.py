"""`python -m rsnn` is the command `rsnn`."""

from rsnn.cli import app

app(prog_name="rsnn")
