"""Errors of the command that say what may have been meant: one line, exit status 2."""

from __future__ import annotations

import numpy as np
import pytest

from tvwarray.__main__ import main
from tvwarray._cli.suggest import did_you_mean

W = np.random.default_rng(3).standard_normal((64, 96)).astype(np.float32)


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """Run the command in an empty folder; gives stdout and the error."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        assert main(args) == 2
        said = capsys.readouterr()
        assert said.err.startswith("tvwarray: error: ")
        assert said.err.count("\n") == 1
        return said.out, said.err

    return run


NEAR_MISSES = {
    "command": (["spyy", "W.npy"], "no such command: 'spyy'; did you mean spy?"),
    "beginning of a command": (["conv", "W.npy"], "did you mean convert?"),
    "option": (["prune", "W.npy", "A.npz", "--sparsity", "0.75", "--patern", "tw"], "--pattern?"),
    "option of help": (["info", "W.npy", "--jason"], "See tvwarray info --help"),
    "choice": (["convert", "W.npy", "A.npz", "--layout", "exat"], "did you mean exact?"),
    "pattern": (["prune", "W.npy", "A.npz", "--sparsity", "0.75", "--pattern", "tvv"], "tvw"),
    "dtype": (["convert", "W.npy", "A.npz", "--dtype", "flaot16"], "did you mean float16"),
    "no dtype": (["convert", "W.npy", "A.npz", "--dtype", "zzz"], "it is one of "),
    "percentage": (["prune", "W.npy", "A.npz", "--sparsity", "75"], "did you mean 0.75?"),
    "percent sign": (["prune", "W.npy", "A.npz", "--sparsity", "87.5%"], "did you mean 0.875?"),
    "no share": (["prune", "W.npy", "A.npz", "--sparsity", "-3"], "--sparsity: -3 is no share"),
    "no number": (["prune", "W.npy", "A.npz", "--sparsity", "half"], "'half' is no number"),
    "file": (["info", "V.npy"], "V.npy: No such file; did you mean W.npy?"),
    "suffix": (["info", "W.np"], "did you mean W.npy?"),
    "folder": (["info", "nowhere/W.npy"], "nowhere/W.npy: No such file."),
    "name": (["info", "two.npz", "--only", "quary"], "a name like quary; did you mean query?"),
    "nothing like it": (["info", "two.npz", "--only", "zzz"], "a name like zzz."),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_an_error_says_what_may_have_been_meant(cli, case):
    np.save("W.npy", W)
    np.savez("two.npz", query=W, key=W)
    arguments, part = NEAR_MISSES[case]
    out, err = cli(*arguments)
    assert out == ""
    assert part in err


def test_without_a_command_there_is_help(cli):
    out, err = cli()
    assert out.startswith("usage: tvwarray")
    assert "name a COMMAND" in err


def test_names_are_compared_without_case_and_nothing_is_forced():
    assert did_you_mean("Float16", ["float16", "float32"]) == "; did you mean float16?"
    assert did_you_mean("conv", ["convert", "spy"]) == "; did you mean convert?"
    assert did_you_mean("q", ["query", "key"]) == "; did you mean query?"
    assert did_you_mean("x", ["query", "key"]) == ""
    assert did_you_mean("a", ["alpha-beta", "alpha-gamma"]) == ""
    assert did_you_mean("", ["query"]) == ""
    assert did_you_mean("query", []) == ""
