"""How a command gets its spec: a file or a preset, over it the options, over them `--set`."""

import inspect
import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tekapctl.cli import console, options, own_images
from tekapctl.cli.spec_options import Kind, parameters, read_assignment, values_of
from tekapctl.errors import UsageError, counted
from tekapctl.registry import unknown_name

if TYPE_CHECKING:
    from tekapctl.experiments.presets import Preset
    from tekapctl.spec import StudentSpec, TeacherSpec


Command = Callable[..., None]


def with_spec_options(kind: Kind, *, section: str | None = None) -> Callable[[Command], Command]:
    """Give a command, whose first parameter is a spec, the options that describe one.

    Args:
        kind: Of the spec.
        section: Assignments `--set SECTION.KEY=VALUE` become the command's second parameter, a table; its first one
            then is a function that makes the spec.
    """

    def decorate(command: Command) -> Command:
        shared = parameters(kind)
        own = list(inspect.signature(command).parameters.values())[1 if section is None else 2 :]

        def call(**values: Any) -> None:
            given = {option.name: values.pop(option.name) for option in shared}
            given["set"] = dict(map(read_assignment, given["set"] or []))
            if section is None:
                command(build_spec(kind, given), **values)
                return
            own_paths = [path for path in given["set"] if path.startswith(f"{section}.")]
            settings = {path.removeprefix(f"{section}."): given["set"].pop(path) for path in own_paths}
            command(partial(build_spec, kind, given), settings, **values)

        call.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in [*shared, *own]}
        call.__doc__, call.__name__ = command.__doc__, command.__name__
        return call

    return decorate


def build_spec(kind: Kind, given: Mapping[str, Any]) -> "TeacherSpec | StudentSpec":
    """The spec that options describe.

    Args:
        kind: Of the spec.
        given: The options' values by parameter; that of `set` is a table of values by dotted path.

    Raises:
        UsageError: The file, an option, an assignment or the spec is not valid, or the file is of the other kind.
    """
    from tekapctl import spec as specs
    from tekapctl.data.names import check_names_no_folder

    file = given["spec"]
    if file is not None and given.get("preset") is not None:
        raise UsageError("--preset and --spec cannot be combined.", "Give one of them.")
    table = specs.read_file(file) if file is not None else {}
    if table.setdefault("kind", kind) != kind:
        command = "train-teacher" if kind == "student" else "distill"
        raise UsageError(f"{file} is a spec of kind {table['kind']!r}.", f"Use it with `tekapctl {command}`.")
    values = values_of(kind, given) | given["set"]
    if isinstance(name := values.get("data.name", values.get("data")), str):
        check_names_no_folder(name)
    recipe = given["recipe"]
    if file is None and given.get("preset") is None:
        values, recipe = _for_own_images(kind, values, recipe)
    values = _with_recipe(specs.recipe(recipe).table if recipe is not None else {}, values)
    given = {**given, "recipe": recipe}
    if kind == "student":
        return _student_spec(table, given, values)
    spec = specs.parse(_changed(table, values))
    _warn_of_long_warmups(spec)
    return spec


def _for_own_images(kind: Kind, values: dict[str, Any], recipe: str | None) -> tuple[dict[str, Any], str | None]:
    """Values and recipe with the defaults for a folder of images, which are printed."""
    from tekapctl import spec as specs
    from tekapctl.spec.recipes import PROBE

    values |= (chosen := own_images.pretrained_values(kind, values))
    said = ["pretrained weights (--model-arg pretrained=false: none)"] if chosen else []
    if "data.size" in chosen:
        said[0] += f", {chosen['data.size']} pixels"
    if recipe in (None, "finetune") and own_images.is_fine_tuning(values):
        is_probe = bool(values.get("linear_probe")) and recipe is None
        values |= (split := own_images.validation_values(values))
        settings = PROBE if is_probe else specs.recipe("finetune").table
        said.append(f"{'linear probe' if is_probe else 'recipe finetune'}: {_listed(settings, values)}")
        if is_probe:
            values = _with_recipe(PROBE, values)
        recipe = None if is_probe else "finetune"
        if split:
            said.append(", ".join(f"{path.removeprefix('data.')} {value}" for path, value in split.items()))
    if said:
        _say_once("\n  ".join(["defaults for your own images:", *said]))
    return values, recipe


def _listed(recipe: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """The most important settings of a recipe, without those that were given."""
    told = []
    for path, words in (("epochs", " epochs"), ("optimizer.name", ""), ("schedule.name", "")):
        section, _, field = path.partition(".")
        if path not in values:
            told.append(f"{recipe[section][field] if field else recipe[section]}{words}")
    if "optimizer.learning_rate" not in values:
        told.append(f"learning rate {recipe['optimizer']['learning_rate']:g}")
    return ", ".join(told)


def _with_recipe(recipe: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by path of a recipe, with those that were given in their place.

    Another optimizer or schedule than the recipe's starts from its own defaults; augmentations are added to its own.
    """
    found: dict[str, Any] = {}
    for section, settings in recipe.items():
        if not isinstance(settings, Mapping):
            found[section] = settings
        elif values.get(f"{section}.name", settings.get("name")) == settings.get("name") or section == "data":
            found |= {f"{section}.{field}": value for field, value in settings.items()}
    mine = values.get("data.augment", [])
    if isinstance(mine, list):
        names = {_name_of(each) for each in mine}
        augment = [each for each in found.get("data.augment", []) if _name_of(each) not in names]
        # The last of a name counts; mixup and cutmix of 0 are switched off.
        latest = {_name_of(each): each for each in mine}
        augment += [each for each in latest.values() if not (isinstance(each, Mapping) and each.get("alpha") == 0)]
        return found | dict(values) | ({"data.augment": augment} if augment or mine else {})
    return found | dict(values)


def _name_of(augmentation: object) -> object:
    return augmentation.get("name") if isinstance(augmentation, Mapping) else augmentation


_NAMES = ("data.name", "method.name", "optimizer.name", "schedule.name")


def _changed(table: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A spec's table with values set by dotted path."""
    from tekapctl.spec import merged

    sections = {path.partition(".")[0] for path in values if "." in path}
    defaults = {name: value for name, value in (("data", "cifar100"), ("method", "kd")) if name in sections}
    # Names come first: another dataset, method, optimizer or schedule than the table's drops its settings.
    ordered = sorted(values, key=lambda path: path not in _NAMES)
    return merged(defaults | dict(table), {path: values[path] for path in ordered})


def _student_spec(table: Mapping[str, Any], given: Mapping[str, Any], values: dict[str, Any]) -> "StudentSpec":
    """The spec of a student, with published settings where there are any, and what there is to say about them."""
    from tekapctl.distillation.methods import METHODS
    from tekapctl.distillation.tekap import TekapSpec
    from tekapctl.experiments import presets
    from tekapctl.spec import StudentSpec, merged, parse

    if given["method"] is not None and given["method"] not in METHODS:
        error = unknown_name("method", given["method"], METHODS.names())
        raise UsageError(error.problem, f"{error.remedy} `tekapctl methods` explains them.")

    def build(start: Mapping[str, Any]) -> StudentSpec:
        spec = parse(_changed(start, values))
        assert isinstance(spec, StudentSpec)
        return spec

    file, by_method = given["spec"], given["preset"] is None and given["method"] is not None
    known = presets.preset(given["preset"]) if given["preset"] is not None else None
    start = table if known is None else merged(known.table, table)
    spec = build(start)
    if by_method and file is None and given["recipe"] is None and (known := presets.for_pair(spec)) is not None:
        start = known.table
    if known is not None:
        if "epochs" in values:
            start = merged(known.table_for(spec.epochs), table)
        if by_method:  # TeKAP and learned views are only switched by the user
            start = {name: value for name, value in start.items() if name not in ("tekap", "angular")}
        spec = build(start)
    for level in ("logit", "feature"):
        if level not in spec.levels and any(path.startswith(f"tekap.{level}.") for path in given["set"]):
            console.say(f"warning: tekap.{level} has no effect: no loss of this run compares at the {level} level")
    if given["tekap"] and spec.tekap == spec.tekap.without():  # a file, a preset or learned views left it off
        values |= {f"tekap.{level}.teachers": getattr(TekapSpec(), level).teachers for level in ("logit", "feature")}
        spec = build(start)
    if known is not None and not by_method:
        if changed := presets.changed(known, spec):
            _say_once(f"no longer the published experiment {known.name}: {presets.listed(changed)}")
    elif by_method:
        _say_what_is_published(known, spec, values, file, given["recipe"])
    _warn_of_long_warmups(spec)
    return spec


def _warn_of_long_warmups(spec: "TeacherSpec | StudentSpec") -> None:
    warmups = {"schedule.warmup_epochs": spec.schedule.warmup_epochs}
    if spec.kind == "student" and spec.beta:
        warmups["method.warmup_epochs"] = getattr(spec.method, "warmup_epochs", 0)
    for path, epochs in warmups.items():
        if epochs > 1 and epochs >= spec.epochs:
            length = counted(spec.epochs, "epoch")
            _say_once(f"warning: {path} is {epochs} and the run has {length}: the warm-up lasts the whole run")


def _say_what_is_published(
    known: "Preset | None", spec: "StudentSpec", given: Collection[str], file: Path | None, recipe: str | None
) -> None:
    """One line on the published settings of a run that was started with --method."""
    from tekapctl.experiments import presets

    if file is not None or recipe is not None:
        _say_once(f"the settings are those of {file or f'the recipe {recipe}'}: published ones are not taken beside it")
    elif known is None or known.published is None:
        _say_once("no published settings for this method and pair: the method's CIFAR-100 defaults are used")
    else:
        taken = presets.listed(presets.taken(known, spec, given)) or "the method's defaults"
        added = ""
        if spec.augmented and not known.way.startswith("tekap"):
            added = ", with TeKAP added (--no-tekap leaves it out)"
        elif spec.angular.views and not known.way.startswith("angular"):
            added = ", with learned views added"
        changed = presets.listed(presets.by_hand(presets.changed(known, spec), given))
        by_you = f"; changed by you: {changed}" if changed else ""
        _say_once(f"settings of {known.name} as published in {known.published.settings_source}: {taken}{added}{by_you}")


_SAID = "TEKAPCTL_SAID"
"""Set by a process that has printed its notices, for those that it starts with the same command line."""


def _say_once(text: str) -> None:
    from tekapctl.distributed.communicator import was_launched

    if options.is_main() and not (was_launched() and _SAID in os.environ):
        console.say(text)
        if not was_launched():
            os.environ[_SAID] = "1"
