"""The names that scripts rely on, and the habits that every file keeps."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bnn_jax

ROOT = Path(__file__).parents[1]
MODULES = [bnn_jax.__name__, *(module.name for module in pkgutil.walk_packages(bnn_jax.__path__, "bnn_jax."))]
SOURCES = sorted(path for path in (ROOT / "bnn_jax").rglob("*.py"))
EVERYTHING = sorted(
    path for folder in ("bnn_jax", "tests", "benchmarks", "experiments") for path in (ROOT / folder).rglob("*.py")
)

PUBLIC_NAMES = [
    "BNNCalculator",
    "Config",
    "evaluate",
    "fit",
    "load",
    "nequip",
    "sghmc",
    "sampling.sghmc.build_kernel",
    "sampling.amsgrad.init",
    "sampling.amsgrad.update",
    "sampling.amsgrad.inverse_mass",
    "rigidity.last_layer_precision",
    "rigidity.prediction_rigidity",
    "rigidity.fit_rigidity",
]
PARAMETERS = {
    "fit": ["train", "valid", "config", "seed", "out"],
    "evaluate": ["posterior", "test"],
    "sghmc": ["grad_estimator", "data_size", "alpha", "inverse_mass"],
    "sampling.sghmc.build_kernel": ["alpha", "data_size"],
    "rigidity.last_layer_precision": ["features", "zeta", "weights"],
    "rigidity.prediction_rigidity": ["g", "precision"],
}


def resolve(name: str) -> object:
    target = bnn_jax
    for part in name.split("."):
        target = getattr(target, part)
    return target


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_public_name_exists_and_says_what_it_is(name):
    docstring = inspect.getdoc(resolve(name))
    assert docstring and len(docstring.split()) > 3


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_that_scripts_pass_keep_their_names_and_order(name):
    parameters = list(inspect.signature(resolve(name)).parameters)
    assert parameters[: len(PARAMETERS[name])] == PARAMETERS[name]


def test_exported_names_exist_and_are_listed_once():
    assert len(set(bnn_jax.__all__)) == len(bnn_jax.__all__)
    for name in bnn_jax.__all__:
        assert hasattr(bnn_jax, name), name


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_and_has_a_docstring(name):
    if name.endswith("__main__"):
        pytest.skip("importing it would run it")
    assert (importlib.import_module(name).__doc__ or "").strip()


def test_import_is_silent_and_leaves_jax_alone():
    """No warning, no output, and no configuration of JAX changed beyond what the libraries themselves change."""
    script = (
        "import warnings, jax, blackjax, e3nn_jax, flax.linen, jraph; before = dict(jax.config.values); "
        "warnings.simplefilter('error'); import bnn_jax; "
        "[getattr(bnn_jax, name) for name in bnn_jax.__all__]; assert jax.config.values == before"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_public_functions_and_classes_are_annotated_and_documented(path):
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        assert ast.get_docstring(node), f"{node.name} has no docstring"
        if isinstance(node, ast.FunctionDef):
            assert node.returns is not None, f"{node.name} has no return annotation"
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            missing = [argument.arg for argument in arguments if argument.annotation is None]
            assert not missing, f"{node.name} leaves {missing} without annotation"


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_no_deferred_annotations_and_no_machine_paths(path):
    text = path.read_text()
    assert not re.search(r"^from __future__ import annotations", text, re.MULTILINE)  # blinds jaxtyping
    assert not re.search(r"[\"'](/work|/tmp|/home|/root|/Users)/", text)
