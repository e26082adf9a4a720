"""Every source becomes the same kind of tensors, in an order that the pixels alone decide."""

import dataclasses
import os
import shutil
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torchvision.transforms.v2.functional import pad as pad_images

from resexp import UserError, config
from resexp.builder import build_state, load_data
from resexp.console import message
from resexp.data import cifar
from resexp.data.augment import augment, draw, padded
from resexp.data.batches import Order
from resexp.data.dataset import canonical, shrink
from resexp.data.decode import read_image
from resexp.data.imagefolder import load_imagefolder
from resexp.data.normalize import Normalization, channel_statistics, pixel_mean
from resexp.data.registry import build_data
from resexp.data.root import cache_dir
from resexp.trained import evaluate_weights

Tree = Callable[..., Path]


def test_digits_are_split_the_same_way_always_and_evenly_over_the_classes() -> None:
    first, second = build_data(source="digits"), build_data(source="digits")
    assert (len(first.train), len(first.test)) == (1438, 359)
    assert first.train.images.dtype == torch.uint8 and first.image_shape == (1, 8, 8)
    assert first.digest() == second.digest() == "31864dfda137026d"
    shares = [
        (first.test.labels == k).sum() / ((first.test.labels == k).sum() + (first.train.labels == k).sum())
        for k in range(10)
    ]
    assert all(0.19 < share < 0.21 for share in shares)
    trained = {image.numpy().tobytes() for image in first.train.images}
    shared = sum(image.numpy().tobytes() in trained for image in first.test.images)
    assert shared == 0


def test_the_order_is_a_function_of_the_pixels_alone() -> None:
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (50, 4, 4, 3), dtype=np.uint8), random.integers(0, 5, 50)
    shuffled = random.permutation(50)
    a, b = canonical(images, labels), canonical(images[shuffled], labels[shuffled])
    assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def test_held_out_images_are_not_trained_on() -> None:
    data = build_data(source="synthetic", examples=100).hold_out(30)
    assert data.val is not None and (len(data.train), len(data.val)) == (70, 30)
    assert torch.equal(
        torch.cat([data.val.images, data.train.images]), build_data(source="synthetic", examples=100).train.images
    )


# --- folders ----------------------------------------------------------------------------------------------------------

GOOD = {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1, "dog": 1}}


def test_a_folder_is_read_whole_and_its_classes_are_sorted(make_tree: Tree) -> None:
    data = build_data(source="imagefolder", root=str(make_tree(GOOD)))
    assert data.classes == ("cat", "dog") and data.image_shape == (3, 8, 8)
    assert sorted(data.train.labels.tolist()) == [0, 0, 0, 1, 1]


def test_a_second_start_reads_the_cache_and_not_the_images(make_tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_tree(GOOD)
    first = build_data(source="imagefolder", root=str(root))
    monkeypatch.setattr("resexp.data.imagefolder._read_image", lambda *_: pytest.fail("decoded again"))
    assert build_data(source="imagefolder", root=str(root)).digest() == first.digest()


def test_a_stale_cache_is_noticed(make_tree: Tree) -> None:
    root = make_tree(GOOD)
    before = build_data(source="imagefolder", root=str(root))
    changed = root / "train" / "cat" / "0.png"
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(changed)
    os.utime(changed, ns=(1, 1))
    after = build_data(source="imagefolder", root=str(root))
    assert after.digest() != before.digest()
    assert any(not image.any() for image in after.train.images)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_cache_is_rebuilt(make_tree: Tree, damage: str) -> None:
    root = make_tree({"train": {"cat": 30, "dog": 20}, "val": {"cat": 1, "dog": 1}})
    before = build_data(source="imagefolder", root=str(root))
    for cache in cache_dir().glob("*.npz"):
        content = bytearray(cache.read_bytes())
        content[len(content) // 2] ^= 0xFF
        cache.write_bytes(
            {"truncate": bytes(content[: len(content) // 2]), "flip": bytes(content), "empty": b""}[damage]
        )
    assert build_data(source="imagefolder", root=str(root)).digest() == before.digest()


def test_after_the_first_image_of_another_size_the_rest_is_not_decoded(
    make_tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree({"train": {"cat": 200, "dog": 200}, "test": {"cat": 1, "dog": 1}})
    Image.new("RGB", (48, 16)).save(tree / "train" / "cat" / "1.png")
    decoded = []

    def read(path: str, image_size: int | None) -> np.ndarray:
        decoded.append(path)
        time.sleep(0.002)  # as long as a photograph takes
        return np.asarray(Image.open(path).convert("RGB"))

    monkeypatch.setattr("resexp.data.imagefolder._read_image", read)
    with pytest.raises(UserError, match="48x16 pixels, the images before it"):
        load_imagefolder(root=str(tree))
    assert len(decoded) < 200


def test_images_of_several_sizes_need_a_size(make_tree: Tree) -> None:
    root = make_tree(GOOD)
    Image.new("L", (20, 12)).save(root / "train" / "dog" / "grey.jpg")
    with pytest.raises(UserError, match=r"grey.jpg: 20x12 pixels, the images before it 8x8; set dataset.image_size"):
        build_data(source="imagefolder", root=str(root))
    assert build_data(source="imagefolder", root=str(root), image_size=8).image_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"train": {"cat": 2}, "val": {"cat": 1}}, "only the class cat"),
        ({"train": {}, "val": {"cat": 1}}, "no train/"),
        ({"train": {"cat": 2, "dog": 0}, "val": {"cat": 1}}, "dog: no images"),
        ({"train": {"cat": 2, "dog": 1}}, "no val/ or test/"),
        ({"train": {"cat": 2, "dog": 1}, "test": {"cat": 0}}, "no images"),
        ({"train": {"cat": 2, "dog": 1}, "test": {"emu": 1}}, "class emu is not in"),
    ],
)
def test_an_unusable_folder_is_named(make_tree: Tree, tmp_path: Path, parts: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_data(source="imagefolder", root=str(make_tree(parts)))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        build_data(source="imagefolder", root=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"dataset.root=/path, or export RESEXP_DATA"):
        build_data(source="cifar10")


def test_a_data_set_is_found_by_its_name_beneath_resexp_data(
    tmp_path: Path, make_tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree({"train": {"n1": 1}, "val": {"n1": 1}}, name="tiny-imagenet50")
    monkeypatch.setenv("RESEXP_DATA", str(tmp_path))
    cfg = config.load(["dataset=tiny-imagenet50"])
    assert cfg.dataset.root == str(tree)
    monkeypatch.setenv("RESEXP_DATA", str(tree))
    assert config.load(["dataset=tiny-imagenet50"]).dataset.root == cfg.dataset.root


def test_a_corrupt_image_is_named(make_tree: Tree) -> None:
    root = make_tree(GOOD)
    broken = root / "train" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(UserError, match=r"dog/1.png: not a readable image"):
        build_data(source="imagefolder", root=str(root))


# --- CIFAR ------------------------------------------------------------------------------------------------------------


def write_official(root: Path, name: str, tree: Path) -> None:
    """The images of ``tree`` in the official archive's format, in another order, the classes numbered otherwise."""
    import pickle

    from torchvision.datasets import CIFAR10, CIFAR100

    source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    classes = sorted((path.name for path in (tree / "train").iterdir()), reverse=True)
    key = "labels" if name == "cifar10" else "fine_labels"
    for part, files in (("train", source.train_list), ("test", source.test_list)):
        paths = sorted((tree / part).glob("*/*.png"), key=lambda path: path.name)
        for share, (file, _) in zip(np.array_split(np.array(paths), len(files)), files, strict=True):
            rows = [np.asarray(Image.open(path)).transpose(2, 0, 1).reshape(-1) for path in share]
            content = {"data": np.array(rows), key: [classes.index(path.parent.name) for path in share]}
            (folder / file).write_bytes(pickle.dumps(content))
    meta = {source.meta["key"]: classes}
    (folder / source.meta["filename"]).write_bytes(pickle.dumps(meta))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_archive_and_the_folders_give_the_same_data(
    name: str, make_tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree({"train": {"cat": 12, "dog": 13}, "test": {"cat": 5, "dog": 5}}, side=32, name=name)
    monkeypatch.setattr(cifar, "SIZES", (25, 10))
    from_folders = build_data(source=name, root=str(tree.parent))
    write_official(tree.parent / "official", name, tree)
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    from_archive = build_data(source=name, root=str(tree.parent / "official"))
    assert from_archive.classes == from_folders.classes
    assert from_archive.digest() == from_folders.digest()


def test_a_half_unpacked_cifar_is_noticed(make_tree: Tree) -> None:
    tree = make_tree({"train": {"cat": 3, "dog": 3}, "test": {"cat": 1, "dog": 1}}, side=32, name="cifar10")
    with pytest.raises(UserError, match=r"6 training images of 50,000"):
        build_data(source="cifar10", root=str(tree.parent))


def test_a_half_downloaded_archive_is_noticed(tmp_path: Path, make_tree: Tree) -> None:
    tree = make_tree({"train": {"cat": 3, "dog": 3}, "test": {"cat": 1, "dog": 1}}, side=32)
    write_official(tmp_path, "cifar10", tree)
    with pytest.raises(UserError, match="incomplete or damaged"):
        build_data(source="cifar10", root=str(tmp_path))
    shutil.rmtree(tmp_path / "cifar-10-batches-py")
    with pytest.raises(UserError, match=r"fetch it with dataset.download=true"):
        build_data(source="cifar10", root=str(tmp_path))
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half")
    with pytest.raises(UserError, match="does not have its MD5 sum"):
        build_data(source="cifar10", root=str(tmp_path))


# --- batches ----------------------------------------------------------------------------------------------------------


def test_every_epoch_has_every_image_once_and_every_batch_is_full() -> None:
    loader = Order(10, 4, torch.Generator().manual_seed(0))
    stream = torch.cat([loader.next_batch() for _ in range(15)])
    for epoch in stream.split(10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert len({tuple(epoch.tolist()) for epoch in stream.split(10)}) == 6


def test_a_restored_loader_resumes_where_it_stopped() -> None:
    loader, other = (Order(10, 4, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    loader.next_batch()
    other.load_state_dict(loader.state_dict())
    assert all(torch.equal(loader.next_batch(), other.next_batch()) for _ in range(10))


def test_crops_lie_at_all_81_offsets_and_half_are_mirrored() -> None:
    image = torch.arange(1, 65, dtype=torch.uint8).reshape(1, 1, 8, 8)
    count = 20_000
    drawn = draw(count, pad=4, flip=True, generator=torch.Generator().manual_seed(0))
    out = augment(image.expand(count, 1, 8, 8), *drawn, pad=4)
    padded = torch.nn.functional.pad(image[0, 0], (4, 4, 4, 4))
    windows = {}
    for dy in range(9):
        for dx in range(9):
            window = padded[dy : dy + 8, dx : dx + 8]
            windows[window.numpy().tobytes()] = (dy, dx, False)
            windows[window.flip(1).contiguous().numpy().tobytes()] = (dy, dx, True)
    found = [windows[crop.contiguous().numpy().tobytes()] for crop in out[:, 0]]
    counts = np.bincount([9 * dy + dx for dy, dx, _ in found], minlength=81)
    assert counts.min() > 0.7 * count / 81 and counts.max() < 1.3 * count / 81
    assert abs(np.mean([flipped for _, _, flipped in found]) - 0.5) < 0.02


@pytest.mark.parametrize("pad", [1, 3, 7])
def test_reflected_borders_are_those_of_torchvision(pad: int) -> None:
    images = torch.randint(0, 256, (3, 2, 8, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(pad))
    wanted = pad_images(images, [pad] * 4, padding_mode="reflect")
    assert torch.equal(padded(images, pad, "reflect"), wanted)
    offsets = torch.tensor([[0, 2 * pad], [pad, pad], [2 * pad, 0]])
    crops = augment(images, offsets, None, pad=pad, pad_mode="reflect")
    for crop, whole, (top, left) in zip(crops, wanted, offsets.tolist(), strict=True):
        assert torch.equal(crop, whole[:, top : top + 8, left : left + 9])


def test_images_of_too_few_pixels_are_not_reflected() -> None:
    cfg = config.load(["model=plain8", "protocol.pad=7", "protocol.pad_mode=reflect"])
    build_state(cfg, load_data(cfg), torch.device("cpu"))
    cfg = config.load(["model=plain8", "protocol.pad=8", "protocol.pad_mode=reflect"])
    with pytest.raises(
        UserError, match=r"pad=8: images of 8 pixels a side have only 7 to mirror at an edge; take 7 or less"
    ):
        build_state(cfg, load_data(cfg), torch.device("cpu"))


def test_augmentation_draws_from_its_generator_alone() -> None:
    images = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(results))
        results.append(
            augment(images, *draw(16, pad=2, flip=True, generator=torch.Generator().manual_seed(seed)), pad=2)
        )
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_channel_statistics_are_those_of_all_values_and_are_divided_by() -> None:
    images = torch.randint(0, 256, (40, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    statistics = channel_statistics(images)
    values = images.double().div(255).transpose(0, 1).flatten(1)
    assert statistics.shape == (2, 3, 6, 6)
    assert torch.allclose(statistics[0, :, 0, 0].double(), values.mean(dim=1))
    assert torch.allclose(statistics[1, :, 0, 0].double(), values.std(dim=1, correction=0))
    x = Normalization(*statistics)(images)
    assert x.mean(dim=(0, 2, 3)).abs().max() < 1e-5 and (x.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3


def test_a_smaller_image_is_the_mean_of_squares_and_only_of_whole_ones() -> None:
    data = build_data(source="synthetic", image_size=8, examples=20)
    small = shrink(data, 4)
    expected = data.train.images[3, 1, 2:4, 4:6].float().mean().round()
    assert small.image_shape == (3, 4, 4) and small.train.images[3, 1, 1, 2] == expected
    assert torch.equal(small.train.labels, data.train.labels) and len(small.test) == len(data.test)
    assert small.val is None
    with_val = shrink(dataclasses.replace(data, val=data.test), 4)
    assert with_val.val is not None and with_val.val.image_shape == (3, 4, 4)
    with pytest.raises(UserError, match=r"image_size=3: does not divide 8; take 4 or 2"):
        shrink(data, 3)


def test_the_mean_image_is_subtracted_at_each_pixel() -> None:
    images = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8)
    mean = pixel_mean(images)
    assert mean.shape == (3, 8, 8)
    assert torch.allclose(Normalization(mean)(images).mean(dim=0), torch.zeros(3, 8, 8), atol=1e-6)
    assert torch.equal(Normalization()(images), images.float() / 255)


# --- real images ------------------------------------------------------------------------------------------------------


@pytest.mark.images
def test_real_cifar10_is_complete_and_its_archive_gives_the_same_data(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = build_data(source="cifar10", root=str(images))
    assert (len(data.train), len(data.test), data.image_shape) == (50_000, 10_000, (3, 32, 32))
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    write_official(tmp_path / "official", "cifar10", images / "cifar10")
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    assert build_data(source="cifar10", root=str(tmp_path / "official")).digest() == data.digest()


@pytest.mark.images
def test_the_real_imagenet_subset_is_read_grey_images_too(images: Path) -> None:
    data = build_data(source="imagefolder", root=str(images / "tiny-imagenet50"))
    assert (len(data.train), len(data.test), data.image_shape) == (25_000, 2_500, (3, 64, 64))
    assert len(data.classes) == 50


@pytest.mark.images
def test_published_weights_give_their_published_errors(images: Path) -> None:
    """akamaster/pytorch_resnet_cifar10: zeros of option A on both sides, ImageNet's mean and deviation."""
    folder = os.environ.get("RESEXP_WEIGHTS")
    if not folder:
        pytest.skip("RESEXP_WEIGHTS does not name the folder of the published weights")
    words = ["dataset=cifar10", f"dataset.root={images}", "protocol.normalize=imagenet", "model.zero_padding=both"]
    for depth, error in ((20, "8.27"), (32, "7.37"), (44, "6.90"), (56, "6.61")):
        (file,) = Path(folder).glob(f"resnet{depth}-*.th")
        assert f"{evaluate_weights(config.load([*words, f'model=resnet{depth}']), file).errors.error:.2f}" == error


WEIGHTS = sorted((Path(__file__).parent.parent / "outputs" / "reference" / "weights").glob("*.safetensors"))


@pytest.mark.images
def test_our_published_weights_give_their_stated_errors(images: Path, resexp: Callable[..., CompletedProcess]) -> None:
    """By the command that the README names; the files hold half precision."""
    assert WEIGHTS
    for file in WEIGHTS:
        told = safe_open(file, "pt").metadata()
        result = resexp("eval", f"weights={file}", f"model={told['net']}", "dataset=cifar10", f"dataset.root={images}")
        assert result.returncode == 0 and told["test_error"] in result.stdout, result.stderr
        assert file.stat().st_size <= 2_000_000


# --- folders as people leave them -------------------------------------------------------------------------------------


def test_images_are_found_in_subfolders_and_in_every_format_and_the_rest_is_named(
    make_tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = make_tree({"train": {"cat": 2, "dog": 2}, "test": {"cat": 1, "dog": 1}})
    deep = tree / "train" / "cat" / "2024" / "may"
    deep.mkdir(parents=True)
    for name in ("a.gif", "b.jfif", "c.PNG"):
        Image.new("RGB", (8, 8), "red").save(deep / name, format="png" if name == "c.PNG" else None)
    (deep / "notes.txt").write_text("no image")
    (tree / "train" / "cat" / "._0.png").write_bytes(b"what a Mac leaves")
    for hidden in (".ipynb_checkpoints", "__MACOSX"):
        (tree / "train" / hidden).mkdir()
        (tree / "train" / hidden / "x.png").write_bytes(b"")
    data = build_data("imagefolder", root=str(tree))
    assert data.classes == ("cat", "dog") and torch.bincount(data.train.labels).tolist() == [5, 2]
    said = capsys.readouterr().err.splitlines()
    assert said == [f"data set {tree / 'train'}: left out files that are no images: 1 .txt, 1 hidden"]


def test_of_three_folders_val_is_for_validation_and_test_for_testing(make_tree: Tree) -> None:
    tree = make_tree({part: {"cat": count, "dog": count} for part, count in (("train", 3), ("val", 2), ("test", 1))})
    data = build_data("imagefolder", root=str(tree))
    assert data.val and [len(split) for split in (data.train, data.val, data.test)] == [6, 4, 2]
    words = ["dataset=imagefolder", f"dataset.root={tree}", "protocol=smoke"]
    assert [len(split or ()) for split in (load_data(config.load(words)).val,)] == [4]
    with pytest.raises(UserError, match=r"protocol\.val_size=2: tree has validation images of its own in val/"):
        load_data(config.load([*words, "protocol.val_size=2"]))


def test_an_accent_written_in_two_ways_is_one_class(make_tree: Tree) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    tree = make_tree({"train": {composed: 2, "dog": 2}, "test": {decomposed: 1, "dog": 1}})
    assert build_data("imagefolder", root=str(tree)).classes == (composed, "dog")
    (tree / "train" / decomposed).mkdir()
    with pytest.raises(UserError, match=f"two folders of the name {composed}; move their images into one"):
        build_data("imagefolder", root=str(tree))


def test_a_name_that_is_no_text_is_read_all_the_same(make_tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    """As archives made on Windows leave them."""
    tree = make_tree({"train": {"cat": 2, "dog": 2}, "test": {"cat": 1, "dog": 1}})
    odd = os.fsencode(tree / "train" / "cat") + b"/\xe4\x1b[31m.png"
    os.rename(os.fsencode(tree / "train" / "cat" / "0.png"), odd)  # noqa: PTH104  pathlib takes no bytes
    assert len(build_data("imagefolder", root=str(tree)).train) == 4
    Path(os.fsdecode(odd)).write_bytes(b"broken")
    with pytest.raises(UserError) as error:
        build_data("imagefolder", root=str(tree))
    message(str(error.value))
    line = capsys.readouterr().err.strip()
    assert line.isprintable() and "\\xe4\\x1b[31m.png: not a readable image" in line


@pytest.mark.parametrize(
    ("kind", "largest", "white"),
    [
        ("uint16", 4095, 4095),
        ("uint16", 65535, 65535),
        ("int32", 255, 255),
        ("float32", 1.0, 1.0),
        ("float32", 200.0, 255),
    ],
)
def test_an_image_of_many_bits_is_as_bright_as_its_range_says(
    kind: str, largest: float, white: float, tmp_path: Path
) -> None:
    pixels = np.linspace(0, largest, 64).reshape(8, 8).astype(kind)
    Image.fromarray(pixels).save(tmp_path / "deep.tif")
    found = np.asarray(read_image(tmp_path / "deep.tif"))
    assert np.abs(found[..., 0] - pixels.astype(float) * 255 / white).max() <= 1


def test_a_pixel_below_black_is_black(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-1, 5000]], dtype=np.int32)).save(tmp_path / "deep.tif")
    assert np.asarray(read_image(tmp_path / "deep.tif"))[0, :, 0].tolist() == [0, 5000 >> 8]


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "logo.png")
    found = np.asarray(read_image(tmp_path / "logo.png"))
    assert found[0, 0].tolist() == [10, 20, 30] and found[1:].min() == 255


@pytest.mark.parametrize("error", [RuntimeError("Failed to decode image"), AttributeError("seek"), KeyError(3)])
def test_whatever_an_image_reader_raises_names_the_file(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise error

    Image.new("RGB", (4, 4)).save(tmp_path / "cat.png")
    monkeypatch.setattr("resexp.data.decode.ImageOps.exif_transpose", fail)
    with pytest.raises(UserError, match=r"cat\.png: not a readable image"):
        read_image(tmp_path / "cat.png")
