"""`python compress.py --help`: the command line, run from a checkout."""

from tfcodec import cli

if __name__ == "__main__":
    cli.run()
