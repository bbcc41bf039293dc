"""Holds the table of modules against what they import."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "tfcodec"

# In reading order: a module may import only modules above it.
TABLE = """
    console inputs files signals tools constants archives bitstream tiling quality forks
    plugins
    classical blas metrics array_functions ssimulacra2 exif profiles tiff pixels jpegs
    headers picture_metadata
    formats images held_out rans tracing kernels transposed shuffles layers
    transforms densities newton entropy distortions losses model architectures
    registry memory planes compression lanes helpers exact_layers
    exact_products walk litert_files web_files ssimulacra2_slope similarity_slopes
    distortion_slopes
    tensorflow_engine litert_engine engine codec pipelines predict
    graph_files graph_images graph_codec serving
    data weights rounding graph_size export same_decoder channel_scales litert_int8
    litert_exact litert_layers litert_slope litert_export reencode
    workers programs locks training_tiles jax_step accelerate
    settings strategies optimizers checkpoints validation progress xla_program training
    captions critics wasserstein textures adversarial realism
    dictionary contestants evaluation averages summary report pillow_plugin
    photographs demo
    options names arguments batch bulk beam jobs commands cli
""".split()

# What runs wherever TensorFlow runs, so without Keras and TensorFlow Compression.
RUNNING = """
    console inputs files signals tools constants archives bitstream tiling quality forks
    plugins
    classical blas metrics array_functions ssimulacra2 exif profiles tiff pixels jpegs
    headers picture_metadata
    formats images held_out rans tracing
    kernels registry memory planes compression lanes helpers
    exact_layers exact_products walk litert_files web_files
    newton distortions ssimulacra2_slope similarity_slopes distortion_slopes
    tensorflow_engine litert_engine engine codec pipelines predict
    graph_files graph_images graph_codec serving
    dictionary contestants wasserstein workers evaluation averages summary report
    pillow_plugin photographs demo programs locks training_tiles jax_step
    accelerate
    options names arguments batch bulk beam jobs commands cli
""".split()

# What answers before there are pixels to code.
QUICK = """
    console inputs files signals tools constants archives bitstream tiling quality forks
    plugins blas
    metrics array_functions ssimulacra2 exif profiles tiff pixels jpegs
    headers picture_metadata
    formats images
    registry memory planes compression lanes helpers exact_layers exact_products
    walk kernels litert_files newton distortions ssimulacra2_slope similarity_slopes
    distortion_slopes
    tensorflow_engine litert_engine engine codec pipelines
    pillow_plugin programs settings options names arguments batch commands cli
""".split()

# Functions that are longer than `MOST_LINES_OF_A_FUNCTION`, with the reason.
LONG_FUNCTIONS = {
    "codec.compress": "the public face: most of it tells what 17 arguments mean",
}
MOST_LINES = 500
MOST_LINES_OF_A_FUNCTION = 60

MODULES = sorted(path.stem for path in PACKAGE.glob("[!_]*.py"))


def imports(module, everywhere=True):
    """Names of what a module imports, with dots, as `tfcodec.rans`, `numpy`."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))
    nodes = ast.walk(tree) if everywhere else _at_import(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import"
            names.add(node.module)
            if node.module == "tfcodec":
                names.update(f"tfcodec.{alias.name}" for alias in node.names)
    return names


def _at_import(node):
    """Nodes that run when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from _at_import(child)


def ours(names):
    found = {name.split(".")[1] for name in names if name.startswith("tfcodec.")}
    return found & {*TABLE, *MODULES}


def reached(module):
    """A module and all of ours that it imports, directly or not."""
    found, todo = set(), {module}
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= ours(imports(name)) - found
    return found


def present(names):
    return [name for name in names if name in MODULES]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_those_above_it(module):
    assert module in TABLE
    below = TABLE[TABLE.index(module) :]
    assert not ours(imports(module)) & set(below)


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_imports_from_ours_is_there(module):
    """Also where a package that the module needs, such as Beam, is not installed."""
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))):
        of, _, name = (getattr(node, "module", None) or "").partition(".")
        if isinstance(node, ast.ImportFrom) and of == "tfcodec" and name:
            defined = defined_in(name)
            assert {alias.name for alias in node.names} <= defined, f"from {name}"


def defined_in(module):
    """The names that a module defines at its top level, without what it imports."""
    names = set()
    for node in ast.parse((PACKAGE / f"{module}.py").read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        for target in ast.walk(node):
            is_name = isinstance(target, ast.Name)
            if is_name and isinstance(target.ctx, ast.Store):
                names.add(target.id)
    return names


@pytest.mark.parametrize("module", present(RUNNING))
def test_what_runs_anywhere_needs_no_keras_and_no_tfc(module):
    for name in reached(module):
        for target in imports(name):
            assert not {"keras", "tf_keras", "tensorflow_compression"} & set(
                target.split(".")
            ), f"{name} imports {target}"
        assert "tf.keras" not in (PACKAGE / f"{name}.py").read_text("utf-8"), name


@pytest.mark.parametrize("module", present(QUICK))
def test_what_answers_at_once_imports_no_tensorflow(module):
    packages = {name.split(".")[0] for name in imports(module, everywhere=False)}
    assert "tensorflow" not in packages
    top = ours(imports(module, everywhere=False))
    assert top <= set(QUICK), "imports a module that imports TensorFlow"


def functions(node, prefix):
    """Yields (name with dots, lines from `def` to the last) of all within a node."""
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = f"{prefix}.{child.name}"
            if not isinstance(child, ast.ClassDef):
                yield name, child.end_lineno - child.lineno + 1
        yield from functions(child, name)


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda p: p.stem)
def test_modules_and_functions_are_short_enough_to_be_read_at_once(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    long = {
        name
        for name, lines in functions(ast.parse(text), path.stem)
        if lines > MOST_LINES_OF_A_FUNCTION
    }
    # Those that have become shorter are to be taken off the list.
    assert long == {name for name in LONG_FUNCTIONS if name.startswith(f"{path.stem}.")}


@pytest.mark.parametrize(
    "code",
    [
        "import tfcodec; tfcodec.Limits(); dir(tfcodec); tfcodec.StreamError",
        "import tfcodec.cli; tfcodec.cli.parse(['x', 'models'])",
        "import tfcodec.cli; tfcodec.cli.main(tfcodec.cli.parse(['x', '-V']))",
        "import tfcodec.cli\ntry: tfcodec.cli.parse(['x', '--help'])\n"
        "except SystemExit: pass",
    ],
)
def test_importing_the_package_imports_no_tensorflow_or_numpy(code):
    code += "\nimport sys; assert not {'tensorflow', 'numpy', 'PIL'} & {*sys.modules}"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_public_names():
    import tfcodec

    assert set(tfcodec.__all__) <= set(dir(tfcodec))
    for name in ("StreamError", "CorruptStream", "UnsupportedStream", "Limits"):
        assert getattr(tfcodec, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        tfcodec.nothing  # noqa: B018
