"""What the tests share: a tiny run's settings, and commands run as a user runs them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def _images_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the tests of real images: decoding them takes most of their time."""
    return tmp_path_factory.mktemp("images-cache")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Every test starts in an empty folder, with a cache of its own, and whatever the user has exported."""
    monkeypatch.chdir(tmp_path)
    shared = request.node.get_closest_marker("images")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if not shared:
        monkeypatch.delenv("RESEXP_DATA", raising=False)
    cache = request.getfixturevalue("_images_cache") if shared else tmp_path / "cache"
    monkeypatch.setenv("RESEXP_CACHE", str(cache))


@pytest.fixture(scope="session")
def images() -> Path:
    """The real images, for tests marked ``images``."""
    folder = os.environ.get("RESEXP_DATA")
    if not folder:
        pytest.skip("RESEXP_DATA does not name the folder of the real images")
    return Path(folder)


@pytest.fixture
def resexp() -> Callable[..., subprocess.CompletedProcess]:
    """Run the program in a process of its own: ``resexp("train", "seed=1")``."""

    def run(*words: str, **options: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "resexp", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)

    return run


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of random images: ``make_tree({"train": {"cat": 3}, "test": {"cat": 1}}, side=8)``."""

    def make(parts: dict[str, dict[str, int]], side: int = 8, name: str = "tree") -> Path:
        random = np.random.default_rng(0)
        for part, classes in parts.items():
            for label, count in classes.items():
                folder = tmp_path / name / part / label
                folder.mkdir(parents=True)
                for index in range(count):
                    Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(
                        folder / f"{index}.png"
                    )
        return tmp_path / name

    return make
