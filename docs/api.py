"""Writes the API reference, from docstrings, to build/api: `python docs/api.py`."""

import pathlib

import pdoc

import tfcodec

MODULES = ["tfcodec", "tfcodec.pillow_plugin", "tfcodec.bitstream"]

if __name__ == "__main__":
    # Names are imported on first use, and pdoc sees those that are there.
    for name in tfcodec.__all__:
        setattr(tfcodec, name, getattr(tfcodec, name))
    pdoc.render.configure(docformat="google", show_source=False)
    inner = ["!tfcodec." + p.stem for p in pathlib.Path(tfcodec.__path__[0]).glob("*.py")
             if f"tfcodec.{p.stem}" not in MODULES and p.stem != "__init__"]  # fmt: skip
    target = pathlib.Path(__file__).parents[1] / "build" / "api"
    pdoc.pdoc(*MODULES, *inner, output_directory=target)
    print(target / "index.html")
