"""The options that set fields of a spec: one table for all commands that take a spec.

A new option is a new entry of `TABLE`. Nothing here imports PyTorch or the spec, so that help pages start at once.
"""

import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tekapctl.cli import complete
from tekapctl.cli.complete import Completer
from tekapctl.errors import UsageError

Kind = Literal["student", "teacher"]


def split_usage(usage: str) -> tuple[list[str], str | None]:
    """The flags of an option, and the name of its value: None for a switch."""
    words = usage.split()
    flags = [word for word in words if word.startswith("-")]
    return flags, " ".join(words[len(flags) :]) or None


def _teachers(names: list[str]) -> dict[str, Any]:
    return {"teacher": names[0]} | ({"ensemble": names[1:]} if len(names) > 1 else {})


_NO_TEKAP = {"tekap.logit.teachers": 0, "tekap.feature.teachers": 0}


def _tekap(is_on: bool) -> dict[str, Any]:
    return {} if is_on else _NO_TEKAP  # what --tekap switches on depends on the method: see `build_spec`


def _angular(is_on: bool) -> dict[str, Any]:
    from tekapctl.distillation.angular import PUBLISHED_VIEWS

    return {"angular.views": PUBLISHED_VIEWS} | _NO_TEKAP if is_on else {}


def _augmentations(texts: list[str]) -> dict[str, Any]:
    """`NAME` or `NAME:KEY=VALUE,KEY=VALUE` of each augmentation."""
    found = []
    for text in texts:
        name, _, settings = text.partition(":")
        pairs = [each for each in settings.split(",") if each]
        if not all("=" in pair for pair in pairs):
            raise UsageError(
                f"--augment {text!r} is not an augmentation.",
                "Write NAME, or NAME:SETTING=VALUE,SETTING=VALUE, such as randaugment:magnitude=7,operations=1.",
            )
        found.append({"name": name, **named_values(pairs, "--augment")})
    return {"data.augment": found}


@dataclass(frozen=True)
class SpecOption:
    """An option that sets a field of a spec.

    Attributes:
        usage: Flags and the name of a value: `--name NAME`, `-n --name NAME`, or `--name/--no-name` for a switch.
        path: The field, as `optimizer.learning_rate`; None where `build_spec` reads the value itself.
        type: Of a value; `dict` for `KEY=VALUE` texts.
        default: The field's default, for the help page; None shows none.
        default_text: Shown instead of `default` where a field has no fixed one.
        fine_tuning: The default where pretrained weights are trained on the user's own images.
        only: The kind of spec that has the field; None for both.
        fields: Turns a value into values by path, where the option does not simply set `path`.
    """

    usage: str
    path: str | None
    type: type
    panel: str
    help: str
    default: Any = None
    default_text: str | None = None
    fine_tuning: Any = None
    only: Kind | None = None
    repeatable: bool = False
    complete: Completer | None = None
    fields: Callable[[Any], dict[str, Any]] | None = None

    @property
    def flag(self) -> str:
        """The long form."""
        return next(flag for flag in split_usage(self.usage)[0] if flag.startswith("--")).partition("/")[0]

    @property
    def parameter(self) -> str:
        """Name of the parameter that receives the value."""
        return self.flag.lstrip("-").replace("-", "_")

    @property
    def shown_default(self) -> str | None:
        """The default as the help page shows it, and that of fine-tuning."""
        shown = self.default_text
        if shown is None and self.default is not None:
            if isinstance(self.default, bool):
                return f"{'' if self.default else 'no-'}{self.flag[2:]}"
            shown = f"{self.default:g}" if isinstance(self.default, float) else str(self.default)
        return shown if self.fine_tuning is None else f"{shown}; fine-tuning: {self.fine_tuning}"

    @property
    def option(self) -> Any:
        """Typer's description of the option."""
        text = f"{self.help} [default: {self.shown_default}]" if self.shown_default else self.help
        flags, metavar = split_usage(self.usage)
        return typer.Option(
            *flags, metavar=metavar, help=text, rich_help_panel=self.panel, autocompletion=self.complete
        )

    @property
    def annotation(self) -> Any:
        """The annotation of the parameter."""
        kind: Any = str if self.type is dict else self.type
        if self.repeatable or self.type is dict:
            kind = list[kind]
        return Annotated[kind | None, self.option]

    def values(self, given: Any) -> dict[str, Any]:
        """The values by path that a given value stands for."""
        if self.path is None:
            return {}
        if self.fields is not None:
            return self.fields(given)
        if self.type is dict:
            given = named_values(given, self.flag)
        return {self.path: str(given) if isinstance(given, Path) else given}


_NETWORK = "a built-in network (see `tekapctl models`), torchvision:NAME, timm:NAME or module:function."
# fmt: off
TABLE = (
    SpecOption("-t --teacher MODEL", "teacher", str, "Networks",
               "Pretrained network, run or checkpoint file. Repeat for an ensemble.",
               default="resnet32x4", only="student", repeatable=True, complete=complete.teachers, fields=_teachers),
    SpecOption("-s --student MODEL", "student", str, "Networks", f"Student architecture: {_NETWORK}",
               default="resnet8x4", only="student", complete=complete.models),
    SpecOption("-m --model MODEL", "model", str, "Networks", f"Architecture: {_NETWORK}",
               default="resnet32x4", only="teacher", complete=complete.models),
    SpecOption("--model-arg KEY=VALUE", "model_args", dict, "Networks",
               "Keyword argument for an external network. Repeatable."),
    SpecOption("--linear-probe", "linear_probe", bool, "Networks",
               "Train the classifier alone and keep the other pretrained weights.", only="teacher"),
    SpecOption("--teacher-model MODEL", "teacher_model", str, "Networks",
               "Architecture of a teacher checkpoint that does not name it.", only="student", complete=complete.models),
    SpecOption("--teacher-arg KEY=VALUE", "teacher_args", dict, "Networks",
               "Keyword argument for an external teacher. Repeatable.", only="student"),
    SpecOption("-d --dataset NAME", "data.name", str, "Data",
               "Dataset name, folder:PATH, hf:NAME or module:Class. `tekapctl fetch --list` lists the names.",
               default="cifar100", complete=complete.datasets),
    SpecOption("--train-fraction FRACTION", "data.train_fraction", float, "Data",
               "Train on a random fraction (0-1) of each class.", default=1.0),
    SpecOption("--unlabelled DIR", "data.unlabelled", Path, "Data",
               "Also train on unlabelled images in this folder and its subfolders; the teacher predicts their classes.",
               only="student"),
    SpecOption("--val-fraction FRACTION", "data.val_fraction", float, "Data",
               "Evaluate epochs on a held-out fraction (0-1) of the training images, not on the test images.",
               default=0.0, fine_tuning=0.1),
    SpecOption("--augment NAME", "data.augment", str, "Data",
               "Augment the training images, e.g. randaugment or randaugment:magnitude=7. Repeatable.",
               repeatable=True, complete=complete.augmentations, fields=_augmentations),
    SpecOption("--mixup ALPHA", "data.augment", float, "Data", "Mix pairs of images and their labels, e.g. 0.2.",
               fields=lambda alpha: {"data.augment": [{"name": "mixup", "alpha": alpha}]}),
    SpecOption("--cutmix ALPHA", "data.augment", float, "Data", "Paste a patch of another image into each, e.g. 1.",
               fields=lambda alpha: {"data.augment": [{"name": "cutmix", "alpha": alpha}]}),
    SpecOption("--data-dir DIR", "data.folder", Path, "Data", "Folder with the dataset files."),
    SpecOption("--method NAME", "method.name", str, "Method",
               "Distillation method (see `tekapctl methods`), or module:Class.",
               default="kd", only="student", complete=complete.methods),
    SpecOption("-r --gamma WEIGHT", "gamma", float, "Method", "Weight of the cross-entropy loss.",
               default_text="set by the method", only="student"),
    SpecOption("-a --alpha WEIGHT", "alpha", float, "Method", "Weight of the KD loss on logits.",
               default_text="set by the method", only="student"),
    SpecOption("-b --beta WEIGHT", "beta", float, "Method", "Weight of the method's own loss.",
               default_text="set by the method", only="student"),
    SpecOption("-T --temperature T", "temperature", float, "Method", "Softmax temperature of the KD loss.",
               default=4.0, only="student"),
    SpecOption("--init-epochs N", "method.init_epochs", int, "Method",
               "Epochs of the init stage of ab, fsp and ft.", default=30, only="student"),
    SpecOption("--tekap/--no-tekap", "tekap", bool, "TeKAP", "Distill from augmented teachers.",
               default_text="tekap for kd and crd, else no-tekap", only="student", fields=_tekap),
    SpecOption("--angular", "angular.views", bool, "TeKAP",
               "Use learned views of the teacher (Angular-KD) instead of TeKAP.", only="student", fields=_angular),
    SpecOption("--diagnose", "diagnose", bool, "TeKAP",
               "Log after each epoch how the augmented teachers differ and how their noise affects the student.",
               only="student"),
    SpecOption("--epochs N", "epochs", int, "Optimization", "Training epochs.", default=240, fine_tuning=30),
    SpecOption("--batch-size N", "batch_size", int, "Optimization", "Batch size.", default=64),
    SpecOption("--optimizer NAME", "optimizer.name", str, "Optimization", "sgd, dot, adamw, muon or lamb.",
               default="sgd", fine_tuning="adamw", complete=complete.optimizers),
    SpecOption("--schedule NAME", "schedule.name", str, "Optimization",
               "Learning rate schedule: step, cosine, one-cycle, linear or constant.",
               default="step", fine_tuning="cosine", complete=complete.schedules),
    SpecOption("--warmup-epochs N", "schedule.warmup_epochs", int, "Optimization",
               "Epochs of linear warm-up of the learning rate.", default=0, fine_tuning=2),
    SpecOption("--lr LR", "optimizer.learning_rate", float, "Optimization", "Peak learning rate.",
               default_text="as published for the network, or the optimizer's", fine_tuning=3e-4),
    SpecOption("--weight-decay WD", "optimizer.weight_decay", float, "Optimization", "Weight decay.",
               default_text="0.0005 for sgd", fine_tuning=0.05),
    SpecOption("--label-smoothing FRACTION", "label_smoothing", float, "Optimization",
               "Share of each label that is spread over all classes.", default=0.0, fine_tuning=0.1),
    SpecOption("--ema DECAY", "ema", float, "Optimization",
               "Keep an exponential moving average of the weights, with this decay per step, e.g. 0.999.",
               default_text="no average"),
    SpecOption("--clip-grad NORM", "optimizer.clip_grad", float, "Optimization",
               "Clip the gradient's L2 norm.", default_text="no clipping"),
    SpecOption("--accumulate N", "accumulate", int, "Optimization",
               "Accumulate gradients over N parts of each batch, to save memory; the batch size stays the same.",
               default=1),
    SpecOption("--patience N", "patience", int, "Optimization",
               "Stop when the validation accuracy has not improved for N epochs, and keep the best epoch's weights.",
               default_text="train all epochs", fine_tuning=10),
    SpecOption("--seed N", "seed", int, "Run", "Random seed.", default=0),
    SpecOption("--checkpoint-minutes MINUTES", "checkpoint_minutes", float, "Run",
               "Minutes between checkpoints within an epoch.", default=10.0),
    SpecOption("--track TRACKER", "track", str, "Run", "Also log to tensorboard, wandb or mlflow. Repeatable.",
               repeatable=True, complete=complete.trackers),
    SpecOption("--name NAME", "name", str, "Run", "Name that becomes part of the run ID."),
    SpecOption("--device DEVICE", "device", str, "Execution", "auto, cpu, cuda, cuda:N or mps.",
               default="auto", complete=complete.devices),
    SpecOption("--precision PRECISION", "precision", str, "Execution", "auto, float32, tf32 or bfloat16.",
               default="auto", complete=complete.precisions),
    SpecOption("--compile/--no-compile", "compile", bool, "Execution", "Use torch.compile.", default=False),
    SpecOption("--graph/--no-graph", "graph", bool, "Execution",
               "On CUDA, record the training step as one CUDA graph and replay it.", default=True),
    SpecOption("--cache-teacher/--no-cache-teacher", "cache_teacher", bool, "Execution",
               "Cache teacher outputs on disk and reuse them across runs.", default=False, only="student"),
    SpecOption("--preset NAME", None, str, "Configuration",
               "Start from a published experiment (see `tekapctl presets`).",
               only="student", complete=complete.presets),
    SpecOption("--recipe NAME", None, str, "Configuration",
               "Start from a training recipe: cifar, imagenet-90, timm-a3, deit or finetune. Options override it.",
               complete=complete.recipes),
    SpecOption("--spec FILE", None, Path, "Configuration", "Start from the spec in a TOML or JSON file."),
    SpecOption("--set KEY=VALUE", None, str, "Configuration",
               "Set any field of the spec, e.g. optimizer.momentum=0.8. Repeatable.", repeatable=True),
)
# fmt: on
"""In the order of the help pages, within each panel."""


def read_assignment(text: str, option: str = "--set") -> tuple[str, Any]:
    """The path and the value of `a.b=c`; the value is read as TOML, and as a plain string where it is none.

    Raises:
        UsageError: There is no path or no `=`.
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path or not all(path.split(".")):
        example = "optimizer.momentum=0.8" if option == "--set" else "width=2"
        raise UsageError(f"{option} {text!r} is not an assignment.", f"Write it as {option} {example}.")
    if "\n" in text:
        raise UsageError(f"{option} {text!r} has several lines.", f"Give {option} once for each field.")
    try:
        return path, tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):  # no TOML, or a number of too many digits
        return path, value.strip()


def named_values(texts: list[str] | None, option: str) -> dict[str, Any]:
    """The values of `KEY=VALUE` texts.

    Raises:
        UsageError: One has no `=`.
    """
    return dict(read_assignment(text, option) for text in texts or [])


def options_of(kind: Kind) -> list[SpecOption]:
    """The options of a kind of spec."""
    return [each for each in TABLE if each.only in (None, kind)]


def spec_option(flag: str) -> Any:
    """An option of the table, for commands that do not take a spec."""
    return next(each for each in TABLE if each.flag == flag).option


def parameters(kind: Kind) -> list[inspect.Parameter]:
    """The options of a kind of spec as parameters of a command."""
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [
        inspect.Parameter(each.parameter, named, default=None, annotation=each.annotation) for each in options_of(kind)
    ]


def values_of(kind: Kind, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values by path of the options that were given; None, or an empty list, stands for one that was not."""
    values: dict[str, Any] = {}
    for each in options_of(kind):
        if (value := given[each.parameter]) is not None and value != []:
            for path, found in each.values(value).items():
                is_list = isinstance(found, list) and isinstance(values.get(path), list)
                values[path] = values[path] + found if is_list else found
    return values
