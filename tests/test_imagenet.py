"""ImageNet trees: reading, subsets, packs and streams, crops and views against slow references, mistakes."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from resexp import UserError, config
from resexp.builder import augmentation_of, load_data
from resexp.data.batches import Batches, Order
from resexp.data.crops import draw_places, in_proportion
from resexp.data.decode import read_image
from resexp.data.imagenet import load_imagenet
from resexp.data.normalize import Normalization, colour_components, normalization_of
from resexp.data.pack import Pack
from resexp.data.registry import build_data
from resexp.data.source import Augmentation
from resexp.data.stream import Stream
from resexp.evaluate import check_view, evaluate
from resexp.models.build import build_model
from resexp.run.reader import Run

Tree = Callable[..., Path]
Resexp = Callable[..., subprocess.CompletedProcess]
WNIDS = ("n01", "n02", "n03")
VARIED = Augmentation(flip=True, scales=(256, 480))


def photograph(path: Path, wide: int, high: int, seed: int) -> None:
    """Smooth colours: where a filter or an offset is wrong, pixels differ by much."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize((wide, high), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes of images of all shapes, some larger than a pack keeps."""
    shapes = ((40, 30), (30, 40), (33, 33), (90, 70), (25, 60), (61, 24))
    for part, count in (("train", 6), ("val", 3)):
        for number, wnid in enumerate(WNIDS):
            for index in range(count):
                photograph(
                    tmp_path / "tree" / part / wnid / f"{wnid}_{index}.png",
                    *shapes[(index + number) % 6],
                    seed=100 * number + index + (part == "val") * 50,
                )
    return tmp_path / "tree"


def load(tree: Path, **settings: object) -> tuple:
    """The same data packed and streamed."""
    packed = load_imagenet(root=tree, image_size=16, **settings)  # type: ignore[arg-type]
    streamed = load_imagenet(root=tree, image_size=16, pack_gb=0, workers=0, **settings)  # type: ignore[arg-type]
    assert isinstance(packed.train, Pack) and isinstance(streamed.train, Stream)
    return packed, streamed


def test_sizes_keep_their_proportion_to_the_crop() -> None:
    assert [in_proportion(scale, 224) for scale in (224, 256, 480)] == [224, 256, 480]
    assert [in_proportion(scale, 64) for scale in (224, 256, 480)] == [64, 73, 137]


def test_a_packs_crops_are_those_that_torchvision_cuts_from_the_files(tree: Path) -> None:
    """Each image resized, cut and mirrored alone, from the same draws; packs keep no more than the largest scale."""
    packed, _ = load(tree)
    scales = (in_proportion(256, 16), in_proportion(480, 16))
    places = draw_places(18, VARIED, torch.Generator().manual_seed(0))
    crops = packed.train.crops(torch.arange(18), places, scales)
    shorter = set()
    for index in range(18):
        high, wide = packed.train.sides[index].tolist()
        assert min(high, wide) <= scales[1]
        image = next(packed.train.wholes([index]))
        scale, top, left, mirrored = places[index].tolist()
        side = scales[0] + int(scale * (scales[1] - scales[0] + 1))
        shorter.add(side)
        resized = tv.resize(image.float(), [side], antialias=True)
        top, left = (int(u * (n - 16 + 1)) for u, n in zip((top, left), resized.shape[1:], strict=True))
        expected = tv.crop(resized, top, left, 16, 16)
        expected = tv.horizontal_flip(expected) if mirrored else expected
        assert torch.allclose(crops[index], expected, atol=0.01), index
    assert len(shorter) > 5 and 0 < places[:, 3].sum() < 18


def test_a_stream_gives_the_same_crops_as_a_pack_at_any_number_of_workers(tree: Path) -> None:
    packed, streamed = load(tree)
    places = draw_places(18, VARIED, torch.Generator().manual_seed(1))
    small = [i for i in range(18) if min(read_image(os.fsdecode(streamed.train.files[i])).size) <= 34]
    from_pack = packed.train.crops(torch.tensor(small), places[small], (18, 34))
    for workers in (0, 2):
        parts = load_imagenet(root=tree, image_size=16, pack_gb=0, workers=workers).train
        from_files, labels = next(parts.prepare([(torch.tensor(small), places[small])], VARIED))
        assert torch.equal(labels, parts.labels[small])
        assert (from_pack - from_files.float()).abs().max() <= 1.01  # bytes are rounded
    assert torch.equal(packed.train.labels, streamed.train.labels) and packed.classes == streamed.classes == WNIDS


@pytest.mark.parametrize("view", ["centre", "ten-crop"])
def test_views_of_packs_and_streams_are_torchvisions_crops(tree: Path, view: str) -> None:
    packed, streamed = load(tree)
    side = in_proportion(256, 16)
    for data in (packed, streamed):
        (crops, labels), *more = data.test.views(view, 100)
        assert not more and torch.equal(labels, data.test.labels)
        for index, image in enumerate(data.test.wholes(range(9))):
            resized = tv.resize(image.float(), [side], antialias=True)
            five = tv.five_crop(resized, [16, 16])
            expected = [five[-1]] if view == "centre" else [*five, *(crop.flip(2) for crop in five)]
            assert len(crops) == len(expected)
            tolerance = 0.01 if data is packed else 1.01  # files give bytes, rounded
            for ours, theirs in zip(crops, expected, strict=True):
                assert (ours[index].float() - theirs).abs().max() <= tolerance, index


@pytest.mark.images
def test_ten_crop_and_multi_scale_agree_with_an_obvious_reference_on_twenty_real_images(images: Path) -> None:
    root = images / "tiny-imagenet50"
    data = load_imagenet(root=root, image_size=64, classes=10)
    part = data.test.take(slice(20))
    torch.manual_seed(0)
    net = build_model(family="resnet", depth=18, width=8, image_shape=(3, 64, 64), classes=10)
    for norm in (module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.running_var.uniform_(0.1, 0.5)
    net.eval()
    normalization = normalization_of(data.train, "pixel-mean")
    mean = normalization.mean
    names = [path.name for path in sorted((root / "val").glob("*/*.JPEG"))]
    assert len(names) == len(set(names)) == 2500

    def reference(index: int) -> dict[str, torch.Tensor]:
        image = next(part.wholes([index])).float()
        resized = tv.resize(image, [73], antialias=True)
        five = tv.five_crop(resized, [64, 64])
        crops = [*five, *(crop.flip(2) for crop in five)]
        ten = [net((crop / 255 - mean)[None]).softmax(1) for crop in crops]
        scales = []
        for side in (64, 73, 110, 137, 183):
            whole = tv.resize(image, [side], antialias=True)
            for seen in (whole, whole.flip(2)):
                scales.append(net((seen / 255 - mean.mean(dim=(1, 2), keepdim=True))[None]).softmax(1))
        return {"ten-crop": torch.cat(ten).mean(0), "multi-scale": torch.cat(scales).mean(0)}

    with torch.no_grad():
        expected = [reference(index) for index in range(20)]
    for view in ("ten-crop", "multi-scale"):
        scores = torch.stack([scores[view] for scores in expected])
        loss = F.nll_loss(scores.log(), part.labels).item()
        error = 100 * (scores.argmax(1) != part.labels).double().mean().item()
        found = evaluate(net, part, normalization, precision="fp32", view=view, scales=[224, 256, 384, 480, 640])
        assert found.loss == pytest.approx(loss, rel=1e-4) and found.error == pytest.approx(error), view
    single = evaluate(net, part, normalization, precision="fp32")
    assert single.loss != pytest.approx(loss, rel=1e-4)  # the views differ


def test_each_image_is_evaluated_once_and_top_five_counts_five() -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return torch.arange(10.0).expand(len(x), 10)

    seen: list[torch.Tensor] = []
    data = build_data(source="synthetic", examples=40)
    found = evaluate(Constant(), data.test, Normalization(), precision="fp32")
    assert found.error == 90 and found.top5_error == 50
    assert torch.cat(seen).shape[0] == len(data.test) == len(torch.cat(seen).unique(dim=0))


def test_the_colour_shift_is_along_the_principal_components(tree: Path) -> None:
    torch.manual_seed(0)
    values = torch.randn(500, 3) @ torch.diag(torch.tensor([30.0, 10.0, 3.0])) + 128
    images = values.clamp(0, 255).to(torch.uint8)[:, :, None, None].expand(500, 3, 7, 7)
    components = colour_components(images)
    assert torch.allclose(components.norm(dim=1), torch.tensor([3.0, 10, 30]) / 255, rtol=0.1)
    packed, _ = load(tree)
    p = config.load(["dataset=tiny-imagenet50"]).protocol
    order, generator = Order(18, 8, torch.Generator()), torch.Generator()
    batches = Batches(packed.train, order, generator, augmentation=augmentation_of(p), normalization=Normalization())
    colours, *drawn = next(batches)
    assert colours is not None and colours.shape == (8, 3) and colours.abs().max() > 0
    shifted, _ = batches.make(colours, *drawn)
    plain, _ = batches.make(None, *drawn)
    assert torch.allclose(shifted - plain, colours[:, :, None, None].expand_as(plain), atol=1e-5)
    std = torch.tensor([0.2, 0.5, 1.0])[:, None, None].expand(3, *plain.shape[2:])
    batches.normalization = Normalization(torch.zeros_like(std), std)
    scaled, _ = batches.make(colours, *drawn)
    assert torch.allclose(scaled, shifted / std, atol=1e-4)


def test_subsets_by_number_list_file_and_images(tree: Path, tmp_path: Path) -> None:
    assert load_imagenet(root=tree, image_size=16, classes=2).classes == ("n01", "n02")
    few = load_imagenet(root=tree, image_size=16, wnids=["n03", "n01"], images_per_class=2)
    assert few.classes == ("n01", "n03") and len(few.train) == 4 and len(few.test) == 6
    (tmp_path / "list.txt").write_text("n03 cat\nn01 dog\n")
    words = ["dataset=imagenet", f"dataset.root={tree}", f"dataset.wnid_file={tmp_path / 'list.txt'}"]
    cfg = config.load(words)
    assert cfg.dataset.wnids == ["n03", "n01"] and cfg.dataset.wnid_file is None
    assert cfg.run_name == config.load([*words[:2], "dataset.wnids=[n03,n01]"]).run_name
    assert cfg.dataset.name == "tree"


@pytest.mark.parametrize("kind", ["pairs", "table", "lines", "nested"])
def test_a_flat_val_is_read_with_its_annotations(tree: Path, kind: str) -> None:
    """All layouts of the same images are the same data, in the same order."""
    usual = load_imagenet(root=tree, image_size=16)
    files = sorted((tree / "val").glob("*/*.png"))
    wnids = {file.name: file.parent.name for file in files}
    flat = tree / "val" / "images" if kind == "nested" else tree / "val"
    flat.mkdir(exist_ok=True)
    for file in files:
        file.rename(flat / file.name)
        if not list(file.parent.iterdir()):
            file.parent.rmdir()
    names = sorted(wnids)
    text = {
        "pairs": "".join(f"{name}\t{wnids[name]}\t0\t0\n" for name in names),
        "nested": "".join(f"{name}\t{wnids[name]}\t0\t0\n" for name in names),
        "table": "ImageId,PredictionString\n" + "".join(f"{Path(n).stem},{wnids[n]} 1 2 3 4\n" for n in names),
        "lines": "".join(f"{wnids[name]}\n" for name in names),
    }[kind]
    where = {"table": "LOC_val_solution.csv", "lines": "synset_labels.txt"}.get(kind, "val/val_annotations.txt")
    (tree / where).write_text(text)
    again = load_imagenet(root=tree, image_size=16)
    assert again.digest() == usual.digest() and torch.equal(again.test.labels, usual.test.labels)
    with pytest.raises(UserError, match=r"no line for (images/)?n01_0.png|6 lines for 9 images"):
        (tree / where).write_text("\n".join(line for line in text.splitlines() if line != text.splitlines()[-9]))
        load_imagenet(root=tree, image_size=16)


def test_odd_images_become_what_a_person_sees(tmp_path: Path) -> None:
    grey = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    wide = Image.new("RGB", (8, 4), (255, 0, 0))
    wide.paste((0, 0, 255), (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    wide.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    for name in ("grey.png", "deep.png"):
        assert np.array_equal(np.asarray(read_image(tmp_path / name)), np.repeat(grey[..., None], 3, 2)), name
    red = np.asarray(read_image(tmp_path / "cmyk.jpg")).reshape(-1, 3).mean(0)
    assert red[0] > 200 and red[1:].max() < 60
    turned = read_image(tmp_path / "turned.jpg")
    assert turned.size == (4, 8) and np.asarray(turned)[1, 2, 2] > 200 > 60 > np.asarray(turned)[6, 2, 2]
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "turned.jpg").read_bytes()[:-200])
    with pytest.raises(UserError, match=r"cut.jpg: not a readable image .*[Tt]runcated.*; replace it or remove it"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.slow
def test_a_truncated_image_is_named_by_pack_and_stream(tree: Path, resexp: Resexp) -> None:
    bad = tree / "train" / "n02" / "n02_1.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(UserError, match=r"n02_1.png: not a readable image"):
        load_imagenet(root=tree, image_size=16)
    assert not list(Path(os.environ["RESEXP_CACHE"]).rglob("*.pack*"))  # nothing half written stays
    words = [
        *TRAINED,
        f"dataset.root={tree}",
        "dataset.pack_gb=0",
        "dataset.workers=2",
        "protocol.normalize=imagenet",
        "protocol.colour=0",
    ]
    result = resexp("train", *words)
    assert result.returncode == 2 and result.stderr.strip().splitlines()[-1].count("n02_1.png") == 1, result.stderr
    assert "Traceback" not in result.stderr


def change(tree: Path, what: str) -> None:
    match what:
        case "no-val":
            (tree / "val").rename(tree / "test")
        case "other-class":
            (tree / "val" / "n03").rename(tree / "val" / "n09")
        case "more-classes":
            (tree / "val" / "n09").mkdir()
        case "flat":
            for file in (tree / "val").glob("*/*.png"):
                file.rename(tree / "val" / file.name)
        case "empty":
            for file in (tree / "train" / "n02").iterdir():
                file.unlink()


@pytest.mark.parametrize(
    ("what", "settings", "message"),
    [
        ("no-val", {}, "no val/ in it; it needs train/<wnid>/ and val/<wnid>/"),
        ("other-class", {}, "no such class folder of n03, which train/ has"),
        ("more-classes", {}, "class n09 is not in train/"),
        ("flat", {}, "images without class folders, and none of val_annotations.txt"),
        ("empty", {}, "no images of n02"),
        ("", {"wnids": ["n01", "n20"]}, "dataset.wnids: n20 is not in .*1 of 2 are not"),
        ("", {"classes": 9}, "dataset.classes=9: .* has only 3; take fewer"),
        ("", {"classes": 1}, "1 class folders; it needs at least two"),
    ],
)
def test_a_folder_that_is_not_a_tree_of_classes_is_named(tree: Path, what: str, settings: dict, message: str) -> None:
    change(tree, what)
    with pytest.raises(UserError, match=message):
        load_imagenet(root=tree, image_size=16, **settings)


def test_a_pack_of_another_tree_or_half_written_is_refused(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "packs"
    load_imagenet(root=tree, image_size=16, pack=str(folder))
    with pytest.raises(UserError, match="made from another tree, subset or size; remove it"):
        load_imagenet(root=tree, image_size=16, classes=2, pack=str(folder))
    whole = (folder / "train.pack").read_bytes()
    (folder / "train.pack").write_bytes(whole[:-1000])
    with pytest.raises(UserError, match="half written; remove it, and it is made again"):
        load_imagenet(root=tree, image_size=16, pack=str(folder))
    (folder / "train.pack").write_bytes(bytes(4096) + whole[4096:])
    with pytest.raises(UserError, match="half written, or no pack"):
        load_imagenet(root=tree, image_size=16, pack=str(folder))
    flipped = bytearray(whole)
    flipped[5000] ^= 1
    (folder / "train.pack").write_bytes(flipped)
    with pytest.raises(UserError, match="damaged"):
        load_imagenet(root=tree, image_size=16, pack=str(folder))
    (folder / "train.pack").unlink()
    load_imagenet(root=tree, image_size=16, pack=str(folder))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the pack .*dataset.pack_gb=0 to stream"):
        load_imagenet(root=tree, image_size=16, pack=str(tmp_path / "file" / "packs"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dataset=cifar10", "protocol=he2015-imagenet"], r"protocol.scales=\[256, 480\]: needs dataset=imagenet"),
        (["dataset=imagenet", "protocol=he2015-cifar"], "protocol.pad=4: dataset=imagenet crops by protocol.scales"),
        (["dataset=digits", "dataset.classes=3"], "dataset.classes=3: dataset=digits does not use it"),
        (["dataset=imagenet", "protocol.scales=[480,256]"], "must be two sides of at least 224"),
        (["dataset=imagenet", "protocol.norm_group=48"], "must be at least 2 and divide batch_size=256"),
        (["dataset=imagenet", "dataset.wnid_file=none.txt"], "dataset.wnid_file=none.txt: cannot read it"),
        (["dataset=imagenet", "protocol.final_view=five"], "choose from centre, ten-crop, multi-scale"),
    ],
)
def test_settings_that_do_not_fit_images_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.load(words)


def test_views_that_do_not_fit_are_named(tree: Path) -> None:
    with pytest.raises(UserError, match="ten-crop: only images larger than their crop"):
        next(build_data(source="digits").test.views("ten-crop", 10))
    for family, large in (("transformer", False), ("vgg", True)):
        with pytest.raises(UserError, match=f"multi-scale: {family} nets take images of one size"):
            check_view("multi-scale", family, large=large)
    check_view("multi-scale", "vgg", large=False)


TRAINED = [
    "dataset=imagenet",
    "dataset.image_size=16",
    "protocol=tiny-imagenet",
    "model=resnet18",
    "model.width=4",
    "protocol.steps=12",
    "protocol.batch_size=6",
    "protocol.lr_drops=[]",
    "protocol.eval_every=6",
    "protocol.log_every=4",
    "tensorboard=false",
]


@pytest.mark.slow
@pytest.mark.parametrize("gigabytes", [8, 0], ids=["packed", "streamed"])
def test_a_run_of_photographs_resumes_bit_for_bit_and_ends_with_ten_crops(
    tree: Path, resexp: Resexp, gigabytes: int
) -> None:
    """Streamed too: workers are ahead of the step that a checkpoint holds, and their start must draw no dropout."""
    words = [*TRAINED, "model.dropout=0.2", f"dataset.root={tree}", f"dataset.pack_gb={gigabytes}", "dataset.workers=2"]
    whole = resexp("train", *words, "output_dir=whole")
    assert whole.returncode == 0, whole.stderr
    for _ in range(3):
        part = resexp("train", *words, "max_minutes=0.0001")
        assert part.returncode == 0, part.stderr
    assert "interrupted at step 3" in part.stdout and "resuming at step 2" in part.stderr
    rest = resexp("train", *words)
    assert rest.returncode == 0, rest.stderr
    ours, theirs = (Run(config.load([*words, f"output_dir={name}"]).run_dir) for name in ("outputs", "whole"))
    assert [r["loss"] for r in ours.metrics] == [r["loss"] for r in theirs.metrics]
    assert ours.summary["ten_crop_error"] == theirs.summary["ten_crop_error"]
    assert {"test_top5_error", "ten_crop_top5_error"} <= ours.summary.keys()
    view = resexp("eval", str(ours.path), "--view", "ten-crop")
    assert view.returncode == 0 and f"{ours.summary['ten_crop_error']:.2f}" in view.stdout, view.stderr
    scales = resexp("eval", str(ours.path), "--view", "multi-scale")
    assert scales.returncode == 0 and "multi-scale" in scales.stdout, scales.stderr


def test_scales_of_the_last_test_that_leave_a_net_no_room_are_refused_before_training(tree: Path) -> None:
    words = [*TRAINED, f"dataset.root={tree}", "protocol.final_view=multi-scale"]
    with pytest.raises(UserError, match=r"protocol.test_scales=\[1\]: 1 is 0 pixels for crops of \d+, too few for"):
        load_data(config.load([*words, "protocol.test_scales=[1]"]))
    load_data(config.load(words))


@pytest.mark.slow
def test_a_small_limit_of_open_files_is_raised_before_workers_send_theirs(tree: Path, resexp: Resexp) -> None:
    words = [*TRAINED, f"dataset.root={tree}", "dataset.pack_gb=0", "dataset.workers=2", "protocol.steps=6"]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    result = resexp("train", *words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (20, hard)))
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr


def test_images_smaller_than_the_crop_are_enlarged_and_this_is_said(tree: Path, capsys: pytest.CaptureFixture) -> None:
    load_imagenet(root=tree, image_size=128)
    assert "are enlarged for crops of 128; dataset.image_size=" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_streamed_images(tree: Path) -> None:
    """A pass over 200 and over 5,000 images, in the process and in its workers: the difference is that of the names."""
    code = f"""
import resource, sys, numpy as np, torch
from resexp.data.source import Augmentation
from resexp.data.stream import Stream
count = int(sys.argv[1])
files = np.array([{str(tree / "train" / "n01" / "n01_0.png")!r}.encode()]).repeat(count)
stream = Stream(files, torch.zeros(count, dtype=torch.int64), 16, 2)
place = torch.tensor([0.5, 0.5, 0.5, 0.0], dtype=torch.float64).expand(20, 4)
drawn = ((torch.arange(first, first + 20), place) for first in range(0, count, 20))
seen = sum(len(crops) for crops, _ in stream.prepare(drawn, Augmentation(scales=(256, 480))))
assert seen == count
for who in resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN:
    print(1024 * resource.getrusage(who).ru_maxrss - files.nbytes)
"""
    small, large = (
        [
            int(line)
            for line in subprocess.run(
                [sys.executable, "-c", code, str(count)], capture_output=True, text=True, check=True
            ).stdout.split()
        ]
        for count in (200, 5_000)
    )
    assert all(abs(most - least) < 20e6 for least, most in zip(small, large, strict=True)), (small, large)


@pytest.mark.images
def test_the_real_subset_is_fifty_classes_of_photographs(images: Path) -> None:
    cfg = config.load(["dataset=tiny-imagenet50", f"dataset.root={images / 'tiny-imagenet50'}"])
    data = load_data(cfg)
    assert (len(data.train), len(data.test), len(data.classes)) == (25_000, 2_500, 50)
    assert data.train.limits == (64, 64) and data.image_shape == (3, 64, 64)
    assert torch.bincount(data.train.labels).tolist() == [500] * 50
