"""Command line of the PyTorch twin: `python -m torch_impl --help`."""

import sys

from core.commands.main import main

if __name__ == "__main__":
    sys.exit(main("torch_impl"))
