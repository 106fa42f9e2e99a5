"""``--help`` and ``--print-config`` tell every key, from the one place where it is described."""

from __future__ import annotations

import re

import pytest

import train
from acmix_ms import config
from acmix_ms.arguments import ArgumentParser
from acmix_ms.config.schema import keys, section_of
from acmix_ms.errors import UserError
from tests.config.test_config import ROOT

DIGITS = str(ROOT / "configs" / "classification" / "acmix_resnet_digits.yaml")


def said_by(call, capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        call(list(arguments))
    assert not left.value.code
    return capsys.readouterr().out


def test_help_lists_every_key_with_its_default(capsys):
    text = said_by(train.main, capsys, "--help")
    for name, item in keys():
        if section_of(item) is None:
            assert f"  {name}=" in text
            assert item.metadata["about"] in text
    assert "optim.lr=0.1 " in text
    assert "data.path=null " in text


def test_print_config_shows_defaults_or_what_a_file_says(capsys):
    text = said_by(train.main, capsys, "--print-config", "optim.lr=0.3")
    assert config.from_text(text) == config.from_overrides(["optim.lr=0.3"])
    assert re.search(r"^  lr: 0\.3 +# > 0; the peak, after warm-up$", text, re.MULTILINE)
    text = said_by(train.main, capsys, "optim.lr=0.2", "--config", DIGITS, "--print-config", "seed=4")
    assert config.from_text(text) == config.load(DIGITS, ["optim.lr=0.2", "seed=4"])
    with pytest.raises(UserError, match="did you mean 'optim.lr'"):
        train.main(["--print-config", "optim.lrr=3"])


def test_print_config_needs_nothing_else_but_no_other_source(capsys):
    def parse(arguments):
        parser = ArgumentParser(prog="some")
        parser.add_config(required=False)
        parser.add_argument("--format", required=True)
        parser.add_argument("--checkpoint")
        return parser.parse_intermixed_args(arguments)

    assert "task: classification" in said_by(parse, capsys, "--print-config")
    with pytest.raises(UserError, match="--print-config goes with --config FILE, not with --checkpoint"):
        parse(["--print-config", "--checkpoint", "x.ckpt"])
    with pytest.raises(UserError, match="--format"):
        parse([])
