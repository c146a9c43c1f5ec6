"""``python -m hgr_stream.cli``: the command line where no console script is at hand."""

from . import main

if __name__ == "__main__":
    main()
