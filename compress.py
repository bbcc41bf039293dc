"""`python compress.py --help`: the command line, run from a checkout."""

from tfcodec.__main__ import run

if __name__ == "__main__":
    run()
