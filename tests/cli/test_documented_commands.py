"""Every command of the documentation is carried out, on small files in the published formats.

What costs hours is made short by options that are put behind the command, and by fewer epochs and runs in the sweep's
file. Studies, the published sweep, runs on ImageNet and runs that only have other values than earlier ones are planned
and not trained; a tracker that is not installed is left out.
"""

import hashlib
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v3_small, resnet18, resnet34

from cli.test_own_data import SHAPES, photograph
from data.test_folder import picture
from data.test_hub import encoded, publish
from data.test_photographs import write_stl10, write_svhn, write_tiny_imagenet
from data.test_sources import pack, write_cifar, write_fashion
from helpers.documentation import PAGES, ROOT, commands
from helpers.program import Started
from helpers.quick_python import quick_python
from helpers.server import serving
from helpers.stand_ins import StandIns
from tekapctl.data import DATASETS
from tekapctl.models import build

TUTORIAL = "tutorial.md"  # is carried out as it stands, in test_documentation.py

WORDS = {
    "RUN": "latest",
    "WORD": "mine",
    "FILE": "student.safetensors",
    "NAME": "tensorboard",
    "imagenet:PATH": "imagenet:imagenet",
    "sweep FILE.toml": "sweep sweeps/digits.toml",
    "FILE.toml": "sweeps/digits.toml",
    "cancel FILE": "cancel sweeps/digits.toml",
    "status FILE": "status sweeps/digits.toml",
    "study NAME": "study noise",
    "SETTING=VALUE": "factors=[0.5]",
    "cuda:0,cuda:1": "cpu",
    # 500 digits in colour take long.
    "evaluate latest --attack pgd --corruption all --probe digits": "evaluate resnet32x4 --dataset cifar100 "
    "--attack pgd --corruption all --probe svhn",
    "--nproc 8": "--nproc 2",
    "--nproc 4": "--nproc 1",
}
"""What the reader puts in place of the documentation's words, on a machine with two cores."""

NAMED = ("--method", "--teacher", "--student", "--model", "--dataset", "--set", "--track")
"""Options whose values are names of things that a run may be the first to use."""
TOGETHER = 12
SHORT = ["--epochs", "1", "--device", "cpu"]
PLAN = ["--dry-run", "--no-measure"]


def shortened(words: list[str]) -> list[str]:
    """A command with what makes it short."""
    match words:
        case ["train-teacher" | "distill", *_] if "imagenet:imagenet" in words:
            return [*words, *PLAN]
        case ["distill", *_] if {"torchvision:resnet34", "folder:photographs"} <= set(words):
            return [*words, *SHORT, "--set", "data.size=32", "--fit-teacher", "probe"]
        case ["train-teacher", *_] if {"torchvision:resnet34", "folder:photographs"} <= set(words):
            return [*words, *SHORT, "--set", "data.size=32"]
        case ["train-teacher" | "distill", *_]:
            return [*words, *SHORT, *(["--seeds", "2"] if "--seeds" in words else [])]
        case ["cache", "warm", *_]:
            return [*words, *SHORT, "--set", "data.padding=0"]
        case ["resume", *_] if "--epochs" in words:
            return [*words, "--epochs", "2"]
        case ["bench", *_]:
            return [*words, "--steps", "3", "--batch-size", "4"]
        # tests/cli/test_program.py carries the demo out; an unknown option is an error before there is any help.
        case ["demo", *_]:
            return [*words, "--help"]
        # Dozens of networks each; tests/cli/test_study.py and test_tune.py carry some out.
        case ["study", _, *_] | ["tune", *_]:
            return [*words, *PLAN]
        case ["sweep", plan, *_] if plan.endswith("-cifar100.toml") or "/cifar100-" in plan:
            return [*words, *PLAN]
        case ["fetch", name] if name.startswith("hf:"):
            return [*words, "--from", "hub"]
        case ["evaluate", *_]:
            return [*words, "--limit", "5", *(["--severity", "1"] if "--corruption" in words else [])]
    return words


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Path:
    """The files of the internet, where the program looks for them, but few images and untrained teachers."""
    folder, made = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("made")
    (folder / "~kriz").mkdir()
    pack(folder / "~kriz", write_cifar(made, "cifar100", 20), "cifar-100-python.tar.gz")
    (folder / "stl10").mkdir()
    pack(folder / "stl10", write_stl10(made), "stl10_binary.tar.gz")
    write_svhn(folder / "housenumbers")
    write_fashion(folder)
    write_tiny_imagenet(made / "tiny")
    shutil.make_archive(str(folder / "tiny-imagenet-200"), "zip", made / "tiny", "tiny-imagenet-200")
    teacher = folder / "resnet32x4_vanilla" / "ckpt_epoch_240.pth"
    teacher.parent.mkdir()
    torch.save({"model": build("resnet32x4").state_dict()}, teacher)
    return folder


@dataclass
class Reader:
    """Somebody at a desk of their own, who carries out what the documentation says.

    Attributes:
        place: Where their desk and their home are.
        mirror: Where the files of the internet are served.
        files: What the program must know of these.
    """

    place: Path
    mirror: str
    files: StandIns

    @property
    def home(self) -> Path:
        return self.place / "home"

    @property
    def desk(self) -> Path:
        return self.place / "desk"

    def __call__(self, *words: str) -> str:
        """Carry out a command; returns what it printed."""
        variables = {
            "TEKAPCTL_MIRROR": self.mirror,
            "TORCH_HOME": str(self.place / "torch"),
            "HF_HOME": str(self.place / "hf"),
            "COLUMNS": "200",
            "QUICK_PYTHON": quick_python(),
        }
        done = Started(self.home, words, self.place / "output", variables, replace(self.files, folder=self.desk)).wait()
        assert done.code == 0, f"tekapctl {shlex.join(words)}\n{done.out}\n{done.err}"
        return done.out


def stand_ins(served: Path, desk: Path) -> StandIns:
    """The files of the internet as the program expects them."""

    def digest(method: str, address: str) -> str:
        return hashlib.new(method, served.joinpath(*address.split("/")[3:][-2:]).read_bytes()).hexdigest()

    names = ("cifar100", "stl10", "fashion-mnist", "svhn")
    sums = {name: tuple(digest("md5", file.addresses[0]) for file in DATASETS[name].published) for name in names}
    teachers = {"resnet32x4": digest("sha256", "https://server/resnet32x4_vanilla/ckpt_epoch_240.pth")}
    return StandIns(desk, sums, teachers)


def lay_out(desk: Path) -> None:
    """Put the reader's own files on the desk: photographs, networks, methods, sweeps, checkpoints."""
    for part, count, first in (("train", 6, 0), ("val", 3, 50)):
        for number, (name, shape) in enumerate(SHAPES.items()):
            (desk / "photographs" / part / name).mkdir(parents=True)
            for i in range(first, first + count):
                photograph(shape, 100 * number + i).save(desk / "photographs" / part / name / f"{i}.jpg")
    photo = picture(desk / "photograph.jpg", 3)
    picture(desk / "holiday" / "beach.jpg", 4)
    for number in range(1000):
        for part in ("train", "val"):
            folder = desk / "imagenet" / part / f"n{number:08d}"
            folder.mkdir(parents=True)
            (folder / "0.JPEG").hardlink_to(photo)
    images = {"img": [encoded(level) for level in range(40, 60)], "fine_label": [0, 1] * 10}
    publish(desk / "hub", train=dict(images), test=dict(images))
    torch.save(build("vgg13").state_dict(), desk / "vgg13.pth")
    torch.save(resnet18(num_classes=100).state_dict(), desk / "theirs.pth")
    for page, name in (("networks.md", "my_nets.py"), ("methods.md", "my_methods.py")):
        code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
        (desk / name).write_text(code[1])
    shutil.copytree(ROOT / "sweeps", desk / "sweeps")
    sweep = desk / "sweeps" / "digits.toml"
    short = re.sub("epochs = .*", "epochs = 1", sweep.read_text(encoding="utf-8"))
    for long, cut in (("seed = [0, 1, 2]", "seed = [0]"), ('{ label = "KD", method = "kd" },', "")):
        assert long in short
        short = short.replace(long, cut)
    sweep.write_text(short)
    published = desk / "sweeps" / "tekap-cifar100.toml"
    text = published.read_text(encoding="utf-8").replace("seed = [0, 1, 2, 3, 4]", "seed = [0]")
    published.write_text(re.sub(r'    \{ label = "(?:resnet|vgg|ResNet).* > .*\n', "", text))


@pytest.fixture(scope="module")
def prepared(served, tmp_path_factory) -> Iterator[Reader]:
    """Somebody who has read so far, and has a teacher and students."""
    place = tmp_path_factory.mktemp("reader")
    lay_out(place / "desk")
    weights = place / "torch" / "hub" / "checkpoints"
    weights.mkdir(parents=True)
    torch.save(resnet34().state_dict(), weights / "resnet34-b627a593.pth")
    torch.save(mobilenet_v3_small().state_dict(), weights / "mobilenet_v3_small-047dcff4.pth")
    with serving(served) as server:
        reader = Reader(place, f"{server.address}/ok", stand_ins(served, place / "desk"))
        reader("fetch", "cifar100", "resnet32x4", "fashion-mnist", "svhn")
        reader("train-teacher", "--model", "resnet20", "--dataset", "digits", *SHORT)
        student = ["--teacher", "resnet20", "--student", "resnet8", "--dataset", "digits", "--name", "mine", *SHORT]
        reader("distill", "--method", "kd", "--no-tekap", *student)
        reader("distill", "--method", "crd", *student)
        (place / "desk" / "run.toml").write_text(reader("distill", "--method", "kd", *PLAN))
        yield reader


def as_typed(command: str, reader: Reader) -> list[str]:
    """A command with the reader's own words, runs and machine in it."""
    runs = [path.name for path in sorted((reader.home / "runs").glob("2*"))]
    command = command.replace("resume 0440", f"resume {runs[-1]}")  # which leaves what is `latest` as it was
    # As a teacher, `latest` would be the latest teacher.
    command = command.replace("--teacher RUN", f"--teacher {runs[-1]}")
    for word, own in sorted(WORDS.items(), key=lambda pair: -len(pair[0])):
        command = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w.=-])", own, command)
    if "-digits-" in runs[-1] and "resnet32x4" not in command:  # the run's network takes no colours
        command = command.replace("--probe svhn", "--probe digits")
    teacher = next(name for name in runs if "-teacher-" in name)
    command = re.sub(r"\d{8}-\d{6}-teacher-[\w-]+|\b0440\b", teacher, command)
    command = re.sub(r"\d{8}-\d{6}(?!.*-teacher-)[\w-]*", runs[-1], command)
    if find_spec("mlflow") is None:
        command = command.replace(" --track mlflow", "")
    words = shlex.split(command)[1:]
    return [found for word in words for found in (sorted(map(str, reader.desk.glob(word))) if "*" in word else [word])]


def interrupt(reader: Reader, reference: str) -> None:
    """Make a finished run one that ended before it could say so."""
    runs = sorted((reader.home / "runs").glob("2*"))
    (run,) = runs[-1:] if reference == "latest" else [path for path in runs if path.name == reference]
    (run / "summary.json").unlink()


def traits(command: str) -> set[str]:
    """What a training command has that another may not: its options and settings, and the names among their values."""
    words = shlex.split(command)[1:]
    found = {words[0]}
    for option, value in zip(words, [*words[1:], ""], strict=True):
        if option.startswith("-"):
            found.add(f"{option} {value.partition('=')[0]}" if option in NAMED else option)
    return found


def sittings() -> list[object]:
    """Each page's commands that no page before it has, some at a time; sweeps, which share their runs, all at once.

    A training command whose traits earlier ones have comes with False: it is planned.
    """
    seen, known, sweeps, found = set(), set(), [], []
    for page in PAGES:
        own = [command for command in commands(page) if command not in seen]
        seen |= set(own)
        if page.name == TUTORIAL:
            continue
        pairs = []
        for command in own:
            new = traits(command) - known
            known |= new
            (sweeps if page.name == "sweeps.md" or "sweep" in command else pairs).append((command, bool(new)))
        parts = [pairs[first : first + TOGETHER] for first in range(0, len(pairs), TOGETHER)]
        found += [pytest.param(part, id=f"{page.name}-{number}") for number, part in enumerate(parts)]
    return [*found, pytest.param(sweeps, id="sweeps")]


@pytest.mark.parametrize("documented", sittings())
def test_every_command_works(documented, prepared, tmp_path):
    reader = replace(prepared, place=tmp_path)
    for folder in ("home", "desk"):
        shutil.copytree(prepared.place / folder, tmp_path / folder, ignore=shutil.ignore_patterns("imagenet"))
    (tmp_path / "torch").symlink_to(prepared.place / "torch")
    (tmp_path / "desk" / "imagenet").symlink_to(prepared.desk / "imagenet")
    for command, trains in documented:
        words = as_typed(command, reader)
        if words[:2] == ["runs", "import"]:
            reader("runs", "export", "latest", "--output", words[2], "--force")
        if words[0] == "resume" and "--epochs" not in words:
            interrupt(reader, words[1])
        if words[:2] == ["sweep", "report"]:
            reader("sweep", words[2])
        if words[0] in ("train-teacher", "distill") and not trains and "--dry-run" not in words:
            words += PLAN
        reader(*shortened(words))
