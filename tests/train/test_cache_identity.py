"""Cached outputs of a teacher are those of its weights in the network that its arguments make."""

import timm
import torch

from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.train.build import build_run
from tekapctl.train.teacher import CachedTeacher


def test_the_same_weights_with_other_arguments_are_another_teacher(tmp_path):
    weights = tmp_path / "teacher.pth"
    torch.save(timm.create_model("test_resnet", num_classes=10, in_chans=1).state_dict(), weights)
    found = set()
    for activation in ("relu", "silu"):
        values = {
            "data": {"name": "digits", "train_fraction": 0.05},
            "device": "cpu",
            "student": "resnet8",
            "teacher": str(weights),
            "teacher_model": "timm:test_resnet",
            "teacher_args": {"act_layer": activation},
            "cache_teacher": True,
        }
        teacher = build_run(parse(values), Home(tmp_path / "home")).sources[0].forward
        assert isinstance(teacher, CachedTeacher)
        found.add(teacher.store.path)
    assert len(found) == 2
