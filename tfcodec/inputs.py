"""Finding input files: by name, by wildcard, and in folders."""

from __future__ import annotations

import glob
import os
import pathlib
import re
import stat
from collections.abc import Callable, Collection, Sequence

# Files in a folder that count as images; a file given by name may have any suffix.
SUFFIXES = set(
    ".png .apng .jpg .jpeg .jpe .jif .jfif .jfi .mpo .webp .tif .tiff .bmp .dib .ppm "
    ".pgm .pbm .pnm .avif .gif .jp2 .j2k .j2c .jpc .jpf .jpx .heic .heif .hif .jxl "
    ".tga .qoi .psd".split()
)
# Files that are expected beside images, which were made of them; ignored in silence.
BESIDE = {".tfc"}
WILDCARD = re.compile(r"[*?]")
MOST_NAMED = 6  # suffixes that a message lists


def find_images(
    patterns: Sequence[str | os.PathLike],
    tell: Callable[[str], None] | None = None,
    fail: Callable[[OSError], None] | None = None,
) -> list[pathlib.Path]:
    """Returns the images that paths, folders (to any depth) and globs name, sorted.

    Args:
        patterns: paths, folders and globs. A file that several of them find, also by
            different names such as `a.png` and `folder/../a.png`, is returned once.
        tell: called with a sentence on the files of a folder that are ignored.
        fail: as for `inside`.

    Raises:
        ValueError: a pattern is empty, or finds nothing where all could be searched.
        OSError: a folder cannot be read, and `fail` is not given.
    """
    found, skipped = set(), []

    def skip(error):
        skipped.append(error)
        fail(error)

    for pattern in patterns:
        if not os.fspath(pattern):  # pathlib would take it for the current folder
            raise ValueError("an empty file name")
        path, before = pathlib.Path(pattern), len(skipped)
        if path.is_file():
            here = [path]
        elif path.is_dir():
            here = inside(path, SUFFIXES, tell, fail and skip)
        else:
            names = matching(os.fspath(pattern))
            here = [file for file in map(pathlib.Path, names) if file.is_file()]
        if not here and len(skipped) == before:
            raise ValueError(f"{pattern}: no images there")
        found.update(here)
    # Of several names of one file, the first.
    return sorted(
        {os.path.realpath(path): path for path in sorted(found)[::-1]}.values()
    )


def is_pattern(name: str) -> bool:
    """Whether a name has wildcards, and is not that of a file or folder with them."""
    return bool(WILDCARD.search(name)) and not os.path.lexists(name)


def matching(pattern: str) -> list[str]:
    """Returns the paths that match a glob, sorted.

    Brackets are taken literally at first, as they mostly are part of a name, such as
    `holiday [1]`; if nothing matches, they are classes of characters.
    """
    plain = re.sub(r"\[", "[[]", pattern)
    return sorted(
        glob.glob(plain, recursive=True) or glob.glob(pattern, recursive=True)
    )


def patterns_of(text: str) -> list[str]:
    """Splits a list of paths and globs at commas, except within names that exist.

    So `a,b` is the file or folder `a,b` if there is one, or else `a` and `b`.
    """
    parts, found = text.split(","), []
    while parts:
        sizes = range(len(parts), 1, -1)
        whole = (n for n in sizes if os.path.exists(",".join(parts[:n])))
        size = next(whole, 1)
        found.append(",".join(parts[:size]))
        parts = parts[size:]
    return found


def inside(
    folder: pathlib.Path,
    suffixes: Collection[str],
    tell: Callable[[str], None] | None = None,
    fail: Callable[[OSError], None] | None = None,
) -> list[pathlib.Path]:
    """Returns the files of some suffixes in a folder, to any depth, sorted.

    Links to folders are followed, but each folder is searched only once, and a link to
    a folder that contains the link is ignored. A link to a file that is not there is
    returned, so that whoever reads it says so.

    Args:
        folder: where to look.
        suffixes: those to take, in lower case.
        tell: as for `find_images`; not called for hidden files, images and `.tfc`
            files.
        fail: called with the error for each folder that cannot be read, which is then
            skipped. By default the first such error is raised.

    Raises:
        OSError: the folder or one in it cannot be read, and `fail` is not given.
    """
    found, others = [], []
    for file in _files(folder, tell, fail):
        if file.suffix.lower() in suffixes and _is_to_read(file):
            found.append(file)
        elif not file.name.startswith("."):
            others.append(file.suffix.lower())
    others = [suffix for suffix in others if suffix not in SUFFIXES | BESIDE]
    if others and tell:
        kinds = sorted({suffix or "no suffix" for suffix in others})
        more = ["..."] if len(kinds) > MOST_NAMED else []
        tell(
            f"{folder}: {len(others)} other file{'s' * (len(others) > 1)} ignored "
            f"({', '.join(kinds[:MOST_NAMED] + more)}); name a file to include it"
        )
    return sorted(found)


def _is_to_read(path):
    """Whether a path is a regular file, or cannot be examined: a reader says why.

    But a hidden link to nowhere, by which some editors mark open files, is ignored.
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return not path.name.startswith(".")


def _files(folder, tell, fail):
    """Yields all files in a folder, links to folders last; see `inside`."""

    def failed(error):
        if fail is None:
            raise error
        words = f"{error.strerror}; this folder is skipped"
        fail(OSError(error.errno, words, error.filename))

    todo, seen = [os.fspath(folder)], set()
    while todo:
        top, links = todo.pop(0), []
        if os.path.realpath(top) in _above(top, folder):
            if tell:
                tell(f"{top}: a link to a folder that contains it; not followed")
            continue
        for here, names, files in os.walk(top, onerror=failed):
            real = os.path.realpath(here)
            if real in seen:
                names.clear()
                continue
            seen.add(real)
            links += [
                os.path.join(here, name)
                for name in sorted(names)
                if os.path.islink(os.path.join(here, name))
            ]
            yield from (pathlib.Path(here, name) for name in files)
        todo += links


def _above(path, folder):
    """Returns the real paths of all folders that contain a path in `folder`."""
    above = {str(path) for path in pathlib.Path(folder).resolve().parents}
    while path != os.fspath(folder):
        path = os.path.dirname(path)
        above.add(os.path.realpath(path))
    return above
