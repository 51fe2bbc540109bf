"""From a teacher to an evaluated student, command by command."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.program import start
from helpers.server import serving
from tekapctl import __version__
from tekapctl.models import build
from tekapctl.spec import loads


def test_help_is_quick_to_start_and_has_examples(tekapctl):
    assert "Example" in tekapctl("--help").out
    probe = "import sys, tekapctl.cli.app; sys.exit('torch' in sys.modules or 'pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "tekapctl"], [str(Path(sys.executable).with_name("tekapctl"))]]
)
def test_it_is_a_command_and_a_module(command):
    told = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    assert told == f"tekapctl {__version__}\n"


@pytest.mark.parametrize(
    "command",
    [
        *("fetch", "train-teacher", "distill", "resume", "evaluate", "demo", "schema", "bench", "cache warm"),
        *("compare", "predict", "doctor", "watch"),
        *("methods", "methods show", "models", "models show", "presets"),
        *(
            "runs list",
            "runs show",
            "runs rm",
            "runs diff",
            "runs export",
            "runs import",
            "cache list",
            "cache verify",
            "cache clear",
        ),
    ],
)
def test_every_help_text_has_an_example(tekapctl, command):
    assert "Example" in tekapctl(*command.split(), "--help").out


def test_help_names_the_defaults_that_depend_on_the_spec(tekapctl):
    told = " ".join(tekapctl("distill", "--help").out.split())
    assert "[default: resnet32x4]" in told
    assert "[default: 240; fine-tuning: 30]" in told


def test_bench_shows_where_a_steps_time_goes_with_nothing_downloaded(tekapctl):
    options = ["--teacher", "resnet14", "--student", "resnet8", "--method", "crd", "--alpha", "1", "--beta", "0.8"]
    options += ["--dataset", "cifar10", "--batch-size", "8", "--steps", "3", "--epochs", "2"]
    home = tekapctl.home / "empty"
    found = tekapctl("bench", *options, "--cache-teacher", "--json", TEKAPCTL_HOME=str(home)).json
    assert not home.exists(), "what stands in for a teacher is not cached"
    assert found["stand_ins"] == ["teacher", "dataset"]
    assert set(found["phase_seconds"]) == {
        *("batch", "teacher", "TeKAP", "student forward", "method", "backward", "optimizer", "rest")
    }
    assert min(found["phase_seconds"].values()) >= -0.001
    assert found["run_seconds"] > 2 * 50_000 / 8 * 0.9 * found["step_seconds"]
    assert found["images_per_second"] == pytest.approx(8 / found["step_seconds"])


def test_knowledge_is_warmed_once_and_serves_later_runs(tekapctl, teacher):
    shared = ["--teacher", teacher, "--student", "resnet8", "--dataset", "digits", "--train-fraction", "0.1"]
    told = tekapctl("cache", "warm", *shared, "--dry-run", "--json").json
    assert told["bytes"] < told["bytes_when_full"]
    made = tekapctl("cache", "warm", *shared, "--json").json
    assert made["complete"]
    assert made["computed"] == made["views"]
    assert tekapctl("cache", "warm", *shared, "--json").json["computed"] == 0
    run = tekapctl("distill", *shared, "--epochs", "1", "--cache-teacher", "--json")
    assert "teacher cache" in run.err
    assert tekapctl("cache", "warm", *shared, "--json").json["computed"] == 0
    assert "resnet14-digits" in tekapctl("cache", "list").out
    assert tekapctl("cache", "verify").out.count(": ok") == 1
    tekapctl("cache", "clear", "knowledge", "--yes")


def test_methods_are_listed_and_explained(tekapctl):
    listed = {row["method"]: row for row in tekapctl("methods", "--json").json}
    assert {"kd", "crd", "at", "ft", "dkd", "reviewkd", "dist", "ofd"} <= set(listed)
    assert listed["at"]["weights"]["beta"] == 1000
    assert listed["ft"]["settings"]["init_epochs"] == 30
    assert "crd" in tekapctl("methods").out
    told = tekapctl("methods", "show", "rkd").out
    assert "Relational Knowledge Distillation" in told
    assert "method.angle_weight" in told
    assert "--method rkd" in told
    assert "'rdk'" in tekapctl.refuses("methods", "show", "rdk")


def test_presets_are_the_published_experiments(tekapctl):
    listed = {row["preset"]: row for row in tekapctl("presets", "--json").json}
    assert len([name for name in listed if name.startswith("tekap-fl/")]) == 13
    stated = [row for row in listed.values() if row["published_top1"] is not None]
    assert len(stated) >= 250
    assert all(row["source"] and row["epoch"] in ("last", "best", "not stated") for row in stated)
    assert all(row["settings_source"] for row in listed.values() if row["published"] and row["settings"] is not None)
    assert listed["wkd-lf/resnet32x4-resnet8x4"]["spec"] is None
    mlkd = listed["mlkd/resnet32x4-ShuffleV1"]["spec"]
    assert [round(at * mlkd["epochs"]) for at in mlkd["schedule"]["milestones"]] == [150, 180, 210]
    assert listed["imagenet/dkd/resnet34-resnet18"]["spec"]["method"]["warmup_epochs"] == 1
    assert listed["reviewkd/resnet56-resnet20"]["spec"]["beta"] == 0.6
    assert listed["dkd/resnet56-resnet20"]["spec"]["method"]["non_target_weight"] == 2
    assert listed["crd/resnet32x4-resnet8x4"]["published_top1"] == 0.7551
    name = "tekap-fl/resnet32x4-resnet8x4"
    options = ["--method", "crd", "--gamma", "1", "--alpha", "1", "--beta", "0.8"]
    asked, plain = (
        tekapctl("distill", *o, "--dry-run", "--no-measure", "--json").json for o in (["--preset", name], options)
    )
    assert asked["spec"] == plain["spec"]
    mobile = tekapctl(
        "distill", "--preset", "at/vgg13-MobileNetV2", "--seed", "3", "--dry-run", "--no-measure", "--json"
    ).json["spec"]
    assert (mobile["optimizer"]["learning_rate"], mobile["beta"], mobile["seed"]) == (0.01, 1000, 3)
    assert mobile["tekap"]["feature"]["teachers"] == 0
    assert name in tekapctl.refuses("distill", "--preset", "tekap-fl/resnet32x4-resnet8x5")


def test_a_method_takes_the_settings_that_were_published_for_its_pair_and_says_so(tekapctl):
    pair = [
        "distill",
        "--teacher",
        "resnet56",
        "--student",
        "resnet20",
        "--method",
        "dkd",
        "--dry-run",
        "--no-measure",
        "--json",
    ]
    told = tekapctl(*pair)
    assert told.json["spec"]["method"]["non_target_weight"] == 2
    assert "settings of dkd/resnet56-resnet20 as published in megvii-research/mdistiller" in told.err
    own = tekapctl(*pair, "--set", "method.non_target_weight=5")
    assert own.json["spec"]["method"]["non_target_weight"] == 5
    taken, _, changed = own.err.partition("changed by you: ")
    assert "non_target_weight" not in taken
    assert changed.startswith("method.non_target_weight=5")
    other = tekapctl(*pair, "--dataset", "digits")
    assert other.json["spec"]["method"]["non_target_weight"] == 8
    assert "as published" not in other.err
    assert other.err.count("no published settings for this method and pair") == 1


def test_runs_say_how_they_differ_from_the_published_experiment(tekapctl):
    imagenet = ["--teacher", "torchvision:resnet34", "--student", "torchvision:resnet18", "--dataset", "imagenet"]
    told = tekapctl(
        "distill", *imagenet, "--method", "kd", "--no-tekap", "--lr", "0.4", "--dry-run", "--no-measure", "--json"
    )
    spec = told.json["spec"]
    assert (spec["epochs"], spec["batch_size"], spec["gamma"], spec["temperature"]) == (100, 512, 0.5, 1.0)
    assert told.err.count("as published in") == 1
    taken, _, changed = told.err.partition("changed by you: ")
    assert "learning_rate" not in taken
    assert changed.startswith("optimizer.learning_rate=0.4")
    short = tekapctl("distill", "--preset", "dkd/vgg13-vgg8", "--epochs", "10", "--dry-run", "--no-measure", "--json")
    assert "no longer the published experiment dkd/vgg13-vgg8: epochs=10" in short.err
    assert "warm-up lasts the whole run" in short.err
    same = tekapctl("distill", "--preset", "dkd/vgg13-vgg8", "--seed", "3", "--dry-run", "--no-measure", "--json")
    assert "published" not in same.err
    assert "tekapctl methods" in tekapctl.refuses("distill", "--method", "nosuch")


def test_presets_of_a_prefix_are_listed_in_a_table_for_each_kind_of_number(tekapctl):
    shown = " ".join(tekapctl("presets", "mlkd-ls").out.split())
    assert "best epoch" in shown
    assert "not stated" in shown
    assert "of the last epoch" not in shown
    everything = tekapctl("presets", "--defaults").out + tekapctl("presets").out
    assert max(map(len, everything.splitlines())) <= 80
    named = [row["preset"] for row in tekapctl("presets", "imagenet/kd", "--json").json]
    assert named
    assert all(name.startswith("imagenet/kd/") for name in named)
    assert "begins with" in tekapctl.refuses("presets", "nosuch")


def test_the_plan_counts_what_a_perturbation_asks_of_the_teacher(tekapctl, teacher):
    options = ["distill", "--teacher", teacher, "--student", "resnet8", "--dataset", "digits", "--method", "kd"]
    plain = tekapctl(*options, "--dry-run", "--no-measure", "--json").json["cost"]
    asks = ["--set", "tekap.logit.perturbation=mixing"]
    asking = tekapctl(*options, *asks, "--dry-run", "--no-measure", "--json").json["cost"]
    assert asking["total_macs"] - plain["total_macs"] == 1297 * plain["teacher_macs"]
    unread = ["--method", "crd", "--alpha", "0", "--beta", "0.8", "--dry-run", "--no-measure", "--json"]
    crd = [tekapctl(*options, *more, *unread).json["cost"]["total_macs"] for more in ([], asks)]
    assert crd[0] == crd[1]


def test_learned_views_take_the_place_of_noise(tekapctl, teacher):
    options = ["--teacher", teacher, "--student", "resnet8", "--dataset", "digits", "--train-fraction", "0.1"]
    options += ["--method", "mlkd", "--angular", "--epochs", "2"]
    planned = tekapctl("distill", *options, "--dry-run", "--no-measure", "--json").json
    assert planned["spec"]["angular"]["views"] == 5
    assert planned["spec"]["tekap"]["logit"]["teachers"] == 0
    one_view = tekapctl("distill", *options, "--method", "kd", "--dry-run", "--no-measure", "--json").json["cost"][
        "total_macs"
    ]
    assert planned["cost"]["total_macs"] > 1.5 * one_view, "the test images are seen once"
    done = tekapctl("distill", *options, "--cache-teacher", "--json")
    assert "strongly augmented images, of which no two are alike; this is not cached" in done.err
    assert "-angular-mlkd-" in done.json["run"]
    shown = tekapctl("bench", *options, "--steps", "3").out
    assert "views" in shown
    with_noise = tekapctl(
        "distill", "--preset", "kd/vgg13-vgg8", "--tekap", "--dry-run", "--no-measure", "--json"
    ).json["spec"]
    assert with_noise["tekap"]["logit"]["teachers"] == 3
    named = tekapctl("distill", "--preset", "mlkd/vgg13-vgg8", "--dry-run", "--no-measure", "--json").json["spec"]
    assert named["optimizer"]["learning_rate"] == 0.025


def test_networks_are_listed_with_their_sizes(tekapctl):
    listed = {row["network"]: row for row in tekapctl("models", "--json").json}
    assert listed["resnet8x4"]["parameters"] == 1_233_540
    assert listed["resnet32x4"]["pretrained"]["top1"] == 0.7942
    assert "resnet8x4" in tekapctl("models").out
    assert tekapctl("models", "show", "vgg8", "--json").json["embedding"] == 512


def test_the_documented_method_of_a_users_own_is_trained_resumed_and_refused(tekapctl, teacher, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    (tmp_path / "my_methods.py").write_text(page.split("```python\n")[1].split("```")[0])
    monkeypatch.chdir(tmp_path)
    options = ["--teacher", teacher, "--student", "resnet8", "--dataset", "digits", "--epochs", "2", "--json"]
    command = ["distill", "--method", "my_methods:CosineSpec", *options, "--set", "method.power=2"]
    summary = tekapctl(*command).json
    assert summary["method"] == "my_methods:CosineSpec"
    assert summary["last_top1"] > 0.3
    (tmp_path / "bare.py").write_text(
        "from tekapctl.distillation.methods import MethodSpec\nfrom tekapctl.models.knowledge import Requires\n"
        "class Bare(MethodSpec):\n    requires = Requires(logits=True)\n    def make(self, pair): ...\n"
    )
    assert "gamma 1, alpha 0, beta 1" in tekapctl("methods", "show", "bare:Bare").out
    assert "cannot be imported" in tekapctl.refuses("distill", "--method", "nowhere:Mine")
    assert "is a library" in tekapctl.refuses("distill", "--method", "json:JSONDecoder")


def test_a_method_with_a_first_stage_trains_and_tells_of_it(tekapctl, teacher):
    options = ["--teacher", teacher, "--student", "resnet8", "--dataset", "digits", "--train-fraction", "0.1"]
    done = tekapctl("distill", *options, "--method", "ft", "--init-epochs", "2", "--epochs", "3", "--json")
    lines = (tekapctl.home / "runs" / done.json["run"] / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [("train_init" in entry, "train_method" in entry) for entry in metrics] == [
        *[(True, False)] * 2,
        *[(False, True)] * 3,
    ]
    assert metrics[0]["learning_rate"] == 0.01
    assert metrics[2]["learning_rate"] == 0.05
    assert done.json["best_epoch"] > 2
    other = ["--teacher", teacher, "--student", "vgg8", "--dataset", "digits", "--method", "kdsvd"]
    assert "kdsvd compares feature maps" in tekapctl.refuses("distill", *other)


def test_a_run_that_cannot_be_read_is_left_out_of_a_comparison_and_named(tekapctl, student):
    folder = tekapctl.home / "runs"
    broken = shutil.copytree(folder / student, folder / "20200101-000000-broken")
    try:
        spec = broken / "spec.toml"
        spec.write_text(spec.read_text().replace('name = "digits"', 'name = "gone_module:Images"'))
        compared = tekapctl("compare", "--all", "--json")
        assert "left out 20200101-000000-broken: The spec is not valid" in compared.err
        assert compared.json["groups"]
        assert "gone_module" in tekapctl.refuses("compare", broken.name)
    finally:
        shutil.rmtree(broken)


def test_runs_are_compared_over_seeds(tekapctl, teacher):
    options = ["--student", "resnet8", "--teacher", teacher, "--dataset", "digits", "--train-fraction", "0.1"]
    options += ["--epochs", "2", "--name", "compared"]
    for seed in ("0", "1"):
        for augmented in ("--tekap", "--no-tekap"):
            tekapctl("distill", *options, augmented, "--seed", seed)
    found = tekapctl("compare", "--name", "compared", "--baseline", "kd", "--json").json
    assert found["baseline"] == "kd"
    assert [(each["label"], each["top1"]["seeds"]) for each in found["groups"]] == [("kd + TeKAP", 2), ("kd", 2)]
    assert found["groups"][0]["difference"]["pairs"] == 2
    assert "kd + TeKAP" in tekapctl("compare", "--name", "compared").out
    assert tekapctl("compare", "--name", "compared", "--markdown").out.startswith("| method |")
    assert "no finished runs" in tekapctl.refuses("compare", "--name", "nobody")


def test_doctor_says_what_the_machine_has_and_what_will_be_slow(tekapctl, teacher):
    found = tekapctl("doctor", "--json", CXX="no-such-compiler", PATH="/nowhere").json
    cpu = found["devices"][0]
    assert (cpu["name"], cpu["threads"]) == ("cpu", 1)
    assert cpu["cores"] >= 1
    kind = "C++" if len(found["devices"]) == 1 else "C"
    assert any(f"needs a {kind} compiler" in warning for warning in found["warnings"])
    assert found["datasets"]["digits"]
    assert found["home"]["path"] == str(tekapctl.home)
    assert "--precision auto uses" in tekapctl("doctor").out


def test_a_reader_that_stops_early_is_no_error(tekapctl):
    command = f"{sys.executable} -m tekapctl schema | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


def test_a_distilled_student_is_evaluated_against_its_teacher(tekapctl, teacher, student):
    found = tekapctl("evaluate", student, "--json").json
    assert found["teacher"].startswith("resnet14")
    evaluation = found["evaluation"]
    assert evaluation["images"] == 500
    assert 0.1 < evaluation["top1"] <= evaluation["top5"] <= 1
    assert set(evaluation["per_class"]) == set("0123456789")
    assert evaluation["kl_from_teacher"] > 0
    assert 0 <= evaluation["calibration_error"] <= 1
    weights = tekapctl.home / "runs" / student / "weights.safetensors"
    for reference in (student[:20], str(weights)):
        again = tekapctl("evaluate", reference, "--dataset", "digits", "--json").json
        assert again["evaluation"]["top1"] == evaluation["top1"]
    assert "top-1" in tekapctl("evaluate", student, "--best").out


def test_a_run_keeps_its_spec_environment_metrics_and_weights(tekapctl, student):
    folder = tekapctl.home / "runs" / student
    spec = loads((folder / "spec.toml").read_text())
    assert (spec.student, spec.method.name, spec.alpha, spec.beta) == ("resnet8", "crd", 1.0, 0.8)
    assert len(spec.teacher_digest) == 64
    assert json.loads((folder / "environment.json").read_text())["torch"] == torch.__version__
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
    assert {"weights.safetensors", "best.safetensors", "checkpoints", "summary.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert "mine-tekap-crd-resnet14-resnet8-digits-s0" in student


def test_a_stored_spec_runs_again_to_the_same_numbers(tekapctl, student):
    folder = tekapctl.home / "runs" / student
    again = tekapctl("distill", "--spec", str(folder / "spec.toml"), "--json").json
    first = json.loads((folder / "summary.json").read_text())
    assert again["last_top1"] == first["last_top1"]
    assert again["evaluation"]["negative_log_likelihood"] == first["evaluation"]["negative_log_likelihood"]


def test_options_override_the_file_and_set_overrides_both(tekapctl, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'epochs = 9\nseed = 4\n[method]\nname = "crd"\nnegatives = 99\n[data]\nname = "digits"\npadding = 2\n'
    )
    options = ["--epochs", "7", "--set", "seed=8", "--set", "tekap.feature.teachers=5", "--set", "method.mode=relax"]
    spec = tekapctl("distill", "--spec", str(file), *options, "--dry-run", "--no-measure", "--json").json["spec"]
    assert (spec["epochs"], spec["seed"], spec["tekap"]["feature"]["teachers"]) == (7, 8, 5)
    assert (spec["method"]["negatives"], spec["method"]["mode"], spec["data"]["padding"]) == (99, "relax", 2)
    other = tekapctl(
        "distill", "--spec", str(file), "--dataset", "cifar10", "--dry-run", "--no-measure", "--json"
    ).json["spec"]
    assert (other["data"]["name"], other["data"]["padding"]) == ("cifar10", 4)


def test_the_published_commands_mean_the_published_settings(tekapctl):
    result = tekapctl("distill", "--method", "kd", "-r", "0.1", "-a", "0.9", "-b", "0", "--dry-run", "--no-measure")
    spec = loads(result.out.split("# parameters")[0])
    assert (spec.teacher, spec.student, spec.data.name) == ("resnet32x4", "resnet8x4", "cifar100")
    assert (spec.gamma, spec.alpha, spec.beta, spec.tekap.logit.teachers) == (0.1, 0.9, 0.0, 3)
    assert "1,233,540" in result.out
    plain = tekapctl(
        "distill", "--method", "crd", "--no-tekap", "--alpha", "0", "--dry-run", "--no-measure", "--json"
    ).json
    assert plain["spec"]["tekap"]["feature"]["teachers"] == plain["spec"]["tekap"]["logit"]["teachers"] == 0
    assert plain["cost"]["steps"] == 240 * 782


def test_runs_are_listed_shown_and_removed(tekapctl, teacher):
    made = tekapctl("train-teacher", "--model", "resnet8", "--dataset", "digits", "--epochs", "1", "--json").json["run"]
    listed = tekapctl("runs", "list", "--json").json[-1]
    assert {"run": made, "status": "finished", "kind": "teacher", "dataset": "digits"}.items() <= listed.items()
    assert (listed["model"], listed["method"], listed["teacher"], listed["seed"]) == ("resnet8", None, None, 0)
    assert (listed["epoch"], listed["epochs"]) == (1, 1)
    assert made == tekapctl("runs", "show", listed["id"], "--json").json["run"]
    assert listed["id"] == made.rpartition("-")[2]
    narrow = tekapctl("runs", "list", COLUMNS="80").out
    assert listed["id"] in narrow
    assert made in tekapctl("runs", "show", "latest").out
    assert made in tekapctl("runs", "list").out
    tekapctl("runs", "rm", made, "--yes")
    assert made not in tekapctl("runs", "list").out


def test_a_teacher_is_fetched_evaluated_and_cleared(tekapctl, tmp_path):
    folder = tmp_path / "vgg13_vanilla"
    folder.mkdir()
    torch.save({"model": build("vgg13").state_dict(), "epoch": 240, "accuracy": 74.64}, folder / "ckpt_epoch_240.pth")
    with serving(tmp_path) as server:
        mirror = {"TEKAPCTL_MIRROR": f"{server.address}/ok"}
        assert "vgg13" in tekapctl("fetch", "vgg13", **mirror).out
        tekapctl("fetch", "vgg13", **mirror)
        assert len(server.requests) == 1
    listed = {row["name"]: row["fetched"] for row in tekapctl("fetch", "--list", "--json").json}
    assert (listed["vgg13"], listed["resnet56"]) == (True, False)
    assert ": ok" in tekapctl("cache", "verify").out
    assert "vgg13" in tekapctl("cache", "list").out
    assert "train-teacher --model vgg13" in tekapctl.refuses("evaluate", "vgg13", "--dataset", "digits")
    tekapctl("cache", "clear", "teachers", "--yes")
    assert "empty" in tekapctl("cache", "list").err


def test_an_interrupted_run_exits_130_and_goes_on_as_if_it_had_not_been(tekapctl, tmp_path):
    home = tmp_path / "home"
    training = ["train-teacher", "--model", "resnet8", "--dataset", "digits", "--train-fraction", "0.4"]
    training += ["--epochs", "20"]
    running = start(home, *training)
    running.until(lambda: list(home.glob("runs/*/metrics.jsonl")))
    running.kill(signal.SIGINT)
    ended = running.wait()
    assert ended.code == 130, ended.err
    assert "Traceback" not in ended.err
    program = type(tekapctl)(home)
    (listed,) = program("runs", "list", "--json").json
    assert listed["status"] == "interrupted"
    assert 1 <= listed["epoch"] < 20
    resumed = program("resume", "latest", "--json").json
    whole = program(*training, "--json").json
    runs = [home / "runs" / run["run"] for run in (resumed, whole)]
    assert runs[0].name == listed["run"]
    assert (runs[0] / "weights.safetensors").read_bytes() == (runs[1] / "weights.safetensors").read_bytes()
    assert resumed["evaluation"]["negative_log_likelihood"] == whole["evaluation"]["negative_log_likelihood"]
    assert [json.loads(line)["epoch"] for line in (runs[0] / "metrics.jsonl").read_text().splitlines()] == list(
        range(1, 21)
    )
    assert "is finished" in program.refuses("resume", "latest")


def test_the_demo_compares_and_says_what_the_differences_mean(tekapctl):
    result = tekapctl("demo", "--seeds", "2", "--epochs", "3", "--json", TEKAPCTL_HOME=str(tekapctl.home / "demo")).json
    assert [arm["title"] for arm in result["arms"]] == ["no teacher", "KD", "KD + TeKAP"]
    assert all(len(arm["top1"]) == 2 for arm in result["arms"])
    assert len(result["verdicts"]) == 3
    assert all(" points" in sentence and len(sentence) < 80 for sentence in result["verdicts"])
    shutil.rmtree(tekapctl.home / "demo")


def test_a_control_keeps_what_it_names_in_the_spec(tekapctl):
    options = ["distill", "--method", "crd", "--alpha", "1", "--dry-run", "--no-measure", "--json"]
    settings = tekapctl(*options, "--keep-effect", "noise", "--keep-effect", "weight").json["spec"]["tekap"]
    assert (settings["logit"]["teacher_scale"], settings["logit"]["noise_weight"]) == (1.0, 0.1)
    assert (settings["logit"]["teacher_loss_weight"], settings["logit"]["loss_weight"]) == (1.0, 0.8)
    assert (settings["feature"]["student_term_weight"], settings["feature"]["bank_updates"]) == (0.0, False)
    assert "Did you mean noise" in tekapctl.refuses(*options, "--keep-effect", "nois")
