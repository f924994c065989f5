"""The command line's help: what to try first, the nearest name, an example for every verb."""

from __future__ import annotations

import pytest

from microbudget import cli, methods


def test_without_a_verb_it_says_what_to_try(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    printed = capsys.readouterr().out
    for verb in ("demo", "shrink", "measure"):
        assert f"microbudget {verb}" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shrnk"], "did you mean shrink?"),
        (["mesure", "model"], "did you mean measure?"),
        (["shrink", "m", "--data", "d", "--out", "o", "--max-sze", "2MB"], "did you mean --max-size?"),
        (["transcribe", "a.wav", "--model", "m", "--format", "strt"], "did you mean srt?"),
    ],
)
def test_what_does_not_exist_is_answered_with_the_nearest_name(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        cli.main(arguments)
    assert status.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_verbs_options_and_files(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        cli.main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert status.value.code == 0
    assert all(word in script for word in ("shrink", "--max-drop", "_compgen_files" if shell == "bash" else "_files"))


def test_methods_fit_a_screen_and_a_method_has_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["methods"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) <= 30
    assert {line.split()[0] for line in listed} >= set(methods.names())
    assert cli.main(["methods", "prune"]) == 0
    shown = capsys.readouterr().out
    assert all(option["name"] in shown for option in methods.describe("prune")["options"])
    assert cli.main(["methods", "prun"]) == 2
    assert "did you mean prune?" in capsys.readouterr().err


def test_the_help_of_every_verb_begins_with_an_example() -> None:
    parser = cli.parser_of_all_verbs()
    (verbs,) = (action.choices for action in parser._actions if isinstance(action.choices, dict))
    assert "shrink" in verbs
    for name, verb in verbs.items():
        about = str(verb.description)
        assert about.startswith(f"microbudget {name} "), f"{name} has no example"
