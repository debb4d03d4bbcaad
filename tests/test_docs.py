"""The documents name functions and tests that exist, and nothing of any one machine."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from neuroprune.bench.config import EvaluationConfig, ModelConfig, RunConfig, TrainingConfig
from neuroprune.config import METHODS
from neuroprune.tasks import TaskConfig

ROOT = Path(__file__).parent.parent
TABLE = (ROOT / "docs" / "paper_to_code.md").read_text(encoding="utf-8")
FUNCTIONS = sorted(set(re.findall(r"`(neuroprune\.[\w.]+)`", TABLE)))
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TABLE)))


def test_the_table_is_not_empty() -> None:
    assert len(FUNCTIONS) > 15
    assert len(TESTS) > 10


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_exists(name: str) -> None:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            found = getattr(found, attribute)
        assert callable(found)
        return
    pytest.fail(f"{name} does not exist")


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_every_test_exists(file: str, name: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert f"def {name or 'test_'}" in text


def test_modules_and_functions_stay_small() -> None:
    """House rule 9: modules of at most 400 lines, functions of at most 60."""
    import ast

    too_long = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 400:
            too_long.append(f"{path.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                documented = ast.get_docstring(node, clean=False)
                prose = documented.count("\n") + 1 if documented else 0
                length = (node.end_lineno or 0) - node.lineno + 1 - prose
                if length > 60:
                    too_long.append(f"{path.name}:{node.name}: {length} lines")
    assert not too_long


def test_no_pickle() -> None:
    for path in (*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) pickle|torch\.load\(", text, re.M), path


def test_every_call_of_a_method_is_told_as_it_is() -> None:
    """The table of docs/adding_a_method.md has the calls of the protocol, with their arguments."""
    import inspect

    from neuroprune.methods import Method

    text = (ROOT / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
    told = {
        name: [word for word in arguments.split(", ") if word]
        for name, arguments in re.findall(r"`(\w+)\(([\w, ]*)\)`", text)
    }
    for name, member in vars(Method).items():
        if name.startswith("_"):
            continue
        if inspect.isfunction(member):
            assert told[name] == list(inspect.signature(member).parameters)[1:]
        else:
            assert f"`{name}" in text


@pytest.mark.parametrize("kind", [ModelConfig, TaskConfig, TrainingConfig, EvaluationConfig])
def test_every_setting_of_an_experiment_file_is_told(kind: type) -> None:
    told = (ROOT / "docs" / "experiment_files.md").read_text(encoding="utf-8")
    missing = [f.name for f in dataclasses.fields(kind) if f"`{f.name}`" not in told]
    assert not missing


def test_the_experiment_file_that_is_shown_is_one() -> None:
    told = (ROOT / "docs" / "experiment_files.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```toml\n(.*?)```", told, re.S)
    config = RunConfig.from_dict(tomllib.loads(shown))
    assert config.task.columns == {"text": "body", "label": "queue"}
    assert config.seeds == (1, 2, 3)


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_has_a_card_with_its_settings(name: str) -> None:
    card = ROOT / "docs" / "methods" / f"{name.replace('-', '_')}.md"
    told = card.read_text(encoding="utf-8")
    missing = [f.name for f in dataclasses.fields(METHODS[name]) if f"`{f.name}`" not in told]
    assert not missing
    assert f'name = "{name}"' in told
