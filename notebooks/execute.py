"""Executes the notebooks with a real kernel, and stores what they show.

    python notebooks/execute.py [NOTEBOOK...]

In either world; those in the repository were executed in the running one, as Colab is.
"""

from __future__ import annotations

import pathlib
import re
import sys
import time

import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).parent
# What only a running kernel can draw.
WIDGET = "application/vnd.jupyter.widget-view+json"
PRIVATE = re.compile(r"(?:/home|/root|/tmp|/usr|/opt|/Users)/\S*")


def execute(path: pathlib.Path) -> nbformat.NotebookNode:
    """Returns a notebook as a fresh kernel of this Python leaves it.

    Without what goes to stderr, widgets, and what changes each time.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, 4)
    client = nbclient.NotebookClient(
        notebook, timeout=3600, kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}}, record_timing=False,
    )  # fmt: skip
    # nbclient would answer a widget on the same socket on which it waits for the cell's
    # end, and so sometimes miss that end. Without handlers, what a widget prints counts
    # as the cell's output.
    client.comm_open_handlers.clear()
    client.execute()
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3", "language": "python", "name": "python3"
        },
        "language_info": {"name": "python"},
    }  # fmt: skip
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if stored(output)]
    return notebook


def stored(output) -> bool:
    return WIDGET not in output.get("data", {}) and output.get("name") != "stderr"


def text_of(notebook) -> str:
    """All that the outputs of a notebook say, but for pictures."""
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    data = [o.get("text", "") for o in outputs]
    for output in outputs:
        data += [v for k, v in output.get("data", {}).items() if "image" not in k]
    return "\n".join(map(str, data))


def main():
    for path in map(pathlib.Path, sys.argv[1:] or sorted(FOLDER.glob("*.ipynb"))):
        began = time.time()
        notebook = execute(path)
        found = PRIVATE.findall(text_of(notebook))
        if found:
            sys.exit(f"{path}: shows paths of this machine: {found}")
        nbformat.write(notebook, path)
        size = path.stat().st_size / 2**20
        print(f"{path}: {time.time() - began:.0f} s, {size:.2f} MiB", flush=True)


if __name__ == "__main__":
    main()
