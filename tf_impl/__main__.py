"""Command line of the TensorFlow twin: `python -m tf_impl --help`."""

import sys

from core.commands.main import main

if __name__ == "__main__":
    sys.exit(main("tf_impl"))
