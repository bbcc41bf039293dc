"""Writes the API reference, from docstrings, to build/api: `python docs/api.py`."""

import pathlib
import pkgutil

import pdoc

import tfcodec

PUBLIC = ["tfcodec", "tfcodec.bitstream", "tfcodec.pillow_plugin"]
TARGET = pathlib.Path(__file__).parents[1] / "build" / "api"


def main():
    # Names are imported on first use, and pdoc sees those that are there.
    for name in tfcodec.__all__:
        setattr(tfcodec, name, getattr(tfcodec, name))
    modules = [m.name for m in pkgutil.iter_modules(tfcodec.__path__, "tfcodec.")]
    pdoc.render.configure(docformat="google", show_source=False)
    hidden = [f"!{name}" for name in modules if name not in PUBLIC]
    pdoc.pdoc(*PUBLIC, *hidden, output_directory=TARGET)
    print(TARGET / "index.html")


if __name__ == "__main__":
    main()
