"""Documents: generated ones are up to date, links lead somewhere, and the commands that need nothing run."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lib.config import command_line
from lib.config.recipe import SECTIONS
from lib.config.schema import field_schemas
from lib.errors import FlukeError
from tests.conftest import ROOT

WRITTEN = [ROOT / "README.md", ROOT / "AGENTS.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = [page for page in WRITTEN if "```sh run\n" in page.read_text(encoding="utf-8")]
FIELDS = {f"{section}.{name}" for section, kind in SECTIONS.items() for name in field_schemas(kind)}


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_documents_are_up_to_date(generator: ModuleType) -> None:
    assert generator.outdated() == [], "run: python docs/generate.py"


def test_the_reference_has_every_field(generator: ModuleType) -> None:
    assert set(re.findall(r"^\| `(\w+\.\w+)` \|", generator.recipe_reference(), re.MULTILINE)) == FIELDS


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_scripts_and_fields_exist(page: Path) -> None:
    """Scripts named in a document are there, and `section.field` in it is a field."""
    text = page.read_text(encoding="utf-8")
    assert [name for name in re.findall(r"scripts/(\w+\.py)", text) if not (ROOT / "scripts" / name).exists()] == []
    named = re.findall(rf"(?:--|`)((?:{'|'.join(SECTIONS)})\.[a-z_]+)\b(?!\()", text)
    assert [name for name in named if name not in FIELDS and not name.endswith((".py", ".csv", ".yaml", ".npz"))] == []


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_commands_are_understood(page: Path) -> None:
    """The options of every command that trains are accepted, whether or not the command is run."""
    for block in re.findall(r"```sh(?: run)?\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for options in re.findall(r"scripts/train_\w+\.py ([^\n'\\]*--[^\n\\']*)$", block, re.MULTILINE):
            parser = command_line.make_parser("")
            command_line.add_run_arguments(parser)
            words = options.split()
            made = [i for i, word in enumerate(words) if word == "--cfg"]
            try:
                command_line.parse(parser, words[: made[0]] + words[made[0] + 2 :], check=False)
            except FlukeError as error:
                pytest.fail(f"{page.name}: {options}: {error}")


@pytest.mark.slow
@pytest.mark.timeout(900)  # all commands of a page, on a slow machine
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_commands_run(page: Path, tmp_path: Path) -> None:
    """Each training takes one epoch at 16 px here: how well the digits are learnt is the demo's matter."""
    for name in ("scripts", "lib", "accelerate_configs", "pyproject.toml", "LICENSE"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "recipes").mkdir()
    for recipe in (ROOT / "recipes").glob("digits*.yaml"):
        one_epoch = re.sub(r"(?m)^  epochs: \d+", "  epochs: 1", recipe.read_text(encoding="utf-8"))
        (tmp_path / "recipes" / recipe.name).write_text(one_epoch.replace("  size: 32", "  size: 16"), encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for written in re.findall(r"```sh run\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        block = re.sub(r"--train\.epochs \d+", "--train.epochs 1", written)
        done = subprocess.run(["bash", "-e", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
