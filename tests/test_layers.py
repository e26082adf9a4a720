"""Who may import whom (the layout's rules), and what commands may not import at all."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import resexp

PACKAGE = Path(resexp.__file__).parent
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path for path in PACKAGE.rglob("*.py")
}
ALLOWED = {  # module: what of resexp it may import, besides the package's own UserError
    "golden": set(),
    "system": set(),
    "api": {
        "analysis",
        "config",
        "figures",
        "models",
        "run",
        "run_folder",
        "runtime",
        "studies",
        "sweep",
        "trained",
        "training",
        "weights",
    },
    "catalog": {"golden", "models"},
    "explain": {"catalog", "console", "models"},
    "console": set(),
    "run": {"system", "console", "run"},
    "optim": set(),
    "schedule": set(),
    "parallel": {"system"},
    "data": {"system", "catalog", "console", "data", "parallel"},
    "config": {"config", "catalog", "data", "run", "system"},
    "models": {"models", "catalog"},
    "checkpoint": {"system", "config", "run"},
    "runtime": {"system", "config", "console", "parallel"},
    "meter": {"config", "parallel", "runtime"},
    "state": {"data", "meter", "optim", "parallel", "schedule"},
    "evaluate": {"config", "data", "models", "parallel", "runtime", "state"},
    "builder": {
        "catalog",
        "config",
        "data",
        "evaluate",
        "meter",
        "models",
        "optim",
        "parallel",
        "run",
        "schedule",
        "state",
    },
    "run_folder": {
        "checkpoint",
        "config",
        "data",
        "meter",
        "models",
        "parallel",
        "run",
        "runtime",
        "state",
        "system",
        "weights",
    },
    "training": {"builder", "config", "evaluate", "meter", "run_folder", "runtime", "state"},
    "weights": set(),
    "trained": {"console", "weights", "builder", "checkpoint", "config", "data", "evaluate", "run", "runtime"},
    "studies": {"studies", "catalog", "config", "console", "explain", "golden", "run"},
    "report": {"report", "config", "run", "studies"},
    "figures": {"figures", "catalog", "config", "console", "run", "studies"},
    "analysis": {
        "analysis",
        "builder",
        "catalog",
        "config",
        "console",
        "data",
        "models",
        "run",
        "runtime",
        "studies",
        "training",
        "trained",
    },
    "sweep": {"system", "sweep", "catalog", "config", "console", "data", "models", "run"},
    "bench": {"system", "bench", "builder", "config", "console", "data", "models", "run", "runtime", "training"},
}
NO_TORCH = (
    "system",
    "api",
    "explain",
    "catalog",
    "models.families",
    "config",
    "data.registry",
    "console",
    "run.reader",
    "run.lock",
    "run.log",
    "run.store",
    "figures",
    "studies.find",
    "studies.popular",
    "studies.tables",
    "studies.verdicts",
    "report.page",
    "analysis.runner",
    "sweep.local",
    "sweep.slurm",
    "cli",
)


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {
                f"{node.module}.{alias.name}" if node.module == "resexp" else str(node.module) for alias in node.names
            }
    return found


@pytest.mark.parametrize(
    "module", [name for name in MODULES if name.split(".")[0] not in ("cli", "__main__", "__init__")]
)
def test_modules_import_what_the_layout_allows(module: str) -> None:
    ours = {name.split(".")[1] for name in imports(MODULES[module]) if name.startswith("resexp.")}
    words = {name for name in ours if name in {other.split(".")[0] for other in MODULES}}
    assert words <= ALLOWED[module.split(".")[0]]


@pytest.mark.slow
def test_a_run_starts_without_the_slow_imports_that_it_does_not_need() -> None:
    """Together they took half of the time from the command to the first step."""
    words = ["train", "model=plain8", "model.width=8", "protocol.steps=2", "tensorboard=false"]
    code = f"import sys; from resexp.cli import main; assert main({words}) == 0; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.splitlines()[-1].split())
    assert "torch" in loaded
    assert not loaded & {"torch._dynamo", "torch._inductor", "sklearn", "torchvision", "scipy", "matplotlib", "pandas"}


def test_a_file_has_at_most_300_lines() -> None:
    assert {name for name, path in MODULES.items() if len(path.read_text().splitlines()) > 300} == set()


def test_nobody_imports_the_command_line() -> None:
    named = {name for name, path in MODULES.items() if any(one.startswith("resexp.cli") for one in imports(path))}
    assert {name for name in named if not name.startswith("cli.")} == {"__main__"}


def test_only_config_names_hydra_and_omegaconf() -> None:
    importers = {
        name for name, path in MODULES.items() if {w.split(".")[0] for w in imports(path)} & {"hydra", "omegaconf"}
    }
    assert importers == {"config.compose", "config.overrides", "config.studies"}


@pytest.mark.parametrize("module", NO_TORCH)
def test_module_imports_no_torch(module: str) -> None:
    code = f"import sys, resexp.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["models"],
        ["datasets"],
        ["protocols"],
        ["studies"],
        ["config"],
        ["train", "--help"],
        ["train", "model=plan56"],
        ["sweep", "model=plan56"],
        ["study", "nowhere"],
        ["figures"],
        ["analyze"],
        ["analyze", "lesoin"],
        ["trian"],
    ],
)
def test_help_lists_and_mistakes_import_no_torch(words: list[str]) -> None:
    code = f"import sys; from resexp.cli import main; main({words}); sys.exit(7 * ('torch' in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_wheel_holds_every_package() -> None:
    """A folder of modules that pyproject.toml does not name works in a checkout and is missing in an installation."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    packages = set(project["tool"]["setuptools"]["packages"])
    named = {name for name in packages if not f"{name}.".startswith("resexp.conf.")}
    folders = {path.parent.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py")}
    assert named == {".".join(folder.parts) for folder in folders}
    configured = {path.parent.name for path in (PACKAGE.parent / "conf").rglob("*.yaml")} - {"conf"}
    assert {f"resexp.conf.{name}" for name in configured} <= packages
