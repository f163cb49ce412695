"""Tests of running the blocks of a page: one session, annotations, stand-ins."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import docs_commands
import run_docs
from run_docs import Outcome

Run = Callable[[str], list[Outcome]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a page in which `xlm` is a program that prints its arguments."""
    program = tmp_path / "programs" / "xlm"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "xlm $*"\n')
    program.chmod(0o755)
    # The rest of the environment's programs stay where they are.
    monkeypatch.setattr(run_docs, "XLM", run_docs.XLM.replace("{bin}/xlm", str(program)))
    monkeypatch.setattr(run_docs, "warm_xlm", lambda _: (str(program),))

    def run_text(text: str) -> list[Outcome]:
        page = tmp_path / "page.md"
        page.write_text(textwrap.dedent(text))
        folder = tmp_path / "session"
        folder.mkdir()
        return list(run_docs.run_page(page, folder))

    return run_text


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [o.status for o in outcomes]


def test_blocks_share_folder_and_variables(run: Run) -> None:
    outcomes = run(
        """
        ```bash
        mkdir -p a/b && cd a
        export GREETING="hello there"
        ```
        ```python
        import os, pathlib
        assert os.environ["GREETING"] == "hello there"
        pathlib.Path("b/file").write_text("x")
        ```
        ```bash
        cd b
        cat file
        ```
        """
    )
    assert statuses(outcomes) == ["ran"] * 3, outcomes
    assert outcomes[-1].output == "x"


def test_the_first_failure_ends_the_page(run: Run) -> None:
    outcomes = run("```bash\nfalse\ntrue\n```\n```bash\ntrue\n```\n")
    assert statuses(outcomes) == ["failed"]


def test_an_announced_failure(run: Run) -> None:
    text = "<!-- docs: fails -->\n```bash\n{}\n```\n"
    assert statuses(run(text.format("exit 3"))) == ["ran"]


def test_an_announced_failure_must_happen(run: Run) -> None:
    assert statuses(run("<!-- docs: fails -->\n```bash\ntrue\n```\n")) == ["failed"]


def test_the_environment_is_clean(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    (outcome,) = run('```bash\necho "${SECRET:-none} $HOME"\n```\n')
    assert outcome.output.startswith("none ")
    assert str(Path.home()) not in outcome.output


def test_needs_that_are_not_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLM_DOCS_NETWORK", raising=False)
    outcomes = run(
        "<!-- docs: needs=network -->\n```bash\nfalse\n```\n"
        "<!-- docs: needs=no-such-program -->\n```bash\nfalse\n```\n"
        "<!-- docs: needs=bash -->\n```bash\ntrue\n```\n"
    )
    assert statuses(outcomes) == ["needs network", "needs no-such-program", "ran"]


def test_files_are_written_below_the_present_folder(run: Run) -> None:
    outcomes = run(
        "```bash\nmkdir x; cd x\n```\n<!-- docs: file=c/d.yaml -->\n```yaml\na: 1\n```\n```bash\ncat c/d.yaml\n```\n"
    )
    assert statuses(outcomes) == ["ran", "wrote", "ran"]
    assert outcomes[-1].output == "a: 1\n"


def test_python_blocks_stand_alone_unless_they_continue(run: Run) -> None:
    outcomes = run(
        "```python\na = 1\n```\n<!-- docs: continue -->\n```python\nassert a == 1\n```\n```python\nprint(a)\n```\n"
    )
    assert statuses(outcomes) == ["ran", "ran", "failed"]
    assert "NameError" in outcomes[-1].output


def test_python_with_a_prompt_is_a_doctest(run: Run) -> None:
    outcomes = run("```python\n>>> 1 + 1\n2\n```\n```python\n>>> 1 + 1\n3\n```\n")
    assert statuses(outcomes) == ["ran", "failed"]


def test_printed_output_is_compared_on_request(run: Run) -> None:
    block = "```console\n$ echo one two\n{}\n```\n"
    check = "<!-- docs: check -->\n"
    outcomes = run(block.format("else") + check + block.format("one ...") + check + block.format("three"))
    assert statuses(outcomes) == ["ran", "ran", "failed"]
    assert outcomes[-1].output.endswith("The page promises this output:\nthree")


def test_slow_commands_get_few_steps(run: Run) -> None:
    outcomes = run(
        """
        <!-- docs: slow -->
        ```bash
        xlm train experiment=x
        xlm models
        xlm --help
        ```
        <!-- docs: overrides="n=1" -->
        ```bash
        xlm train experiment=x
        ```
        ```bash
        xlm train experiment=x
        ```
        """
    )
    assert outcomes[0].output == f"xlm train experiment=x {run_docs.SHORT}\nxlm models\nxlm --help\n"
    assert [o.output for o in outcomes[1:]] == ["xlm train experiment=x n=1\n", "xlm train experiment=x\n"]


def test_a_command_without_end_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_docs, "TIMEOUT_S", 0.5)
    (outcome,) = run("<!-- docs: fails -->\n```bash\nexec sleep 30\n```\n")
    assert outcome.status == "failed"
    assert "No end after" in outcome.output


def test_hatch_and_pip_are_stood_in_for(run: Run) -> None:
    outcomes = run(
        """
        ```bash
        pip install hatch xlm-arlm
        hatch run train seed=7 'x=[a,b]'
        ```
        ```bash
        pip install no-such-distribution
        ```
        """
    )
    assert statuses(outcomes) == ["ran", "failed"], outcomes
    assert outcomes[0].output.startswith("xlm train experiment=")
    assert outcomes[0].output.endswith(" seed=7 x=[a,b]\n")
    assert "not installed here: no-such-distribution" in outcomes[1].output


def test_scripts_of_hatch_toml() -> None:
    (line,) = docs_commands.script("test", ["-k", "a b"])
    assert line == "pytest -n auto --dist worksteal -m 'not slow' -k 'a b'"
    assert len(docs_commands.script("model.arlm:test", [])) > 1
    with pytest.raises(docs_commands.StandInError, match=r"no script 'tset'\. Scripts: train, "):
        docs_commands.script("tset", [])


@pytest.mark.parametrize("command", [["hatch", "build"], ["pip", "download", "x"]])
def test_nothing_stands_in_for_the_rest(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert docs_commands.main(command) == 1
    assert "Say needs=network above the block" in capsys.readouterr().err


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run_docs, "warm_xlm", lambda _: ("xlm",))
    page = tmp_path / "page.md"
    page.write_text("```bash\ntrue\n```\n```bash\necho no; false\n```\n")
    assert run_docs.main(["--list", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}:1 bash \n{page}:4 bash \n"
    assert run_docs.main([str(page)]) == 1
    out = capsys.readouterr().out
    assert f"{page}:1 ran" in out
    assert f"{page}:4 failed" in out
    page.write_text("```bash\n")
    assert run_docs.main([str(page)]) == 1


def test_all_pages_of_this_repository_can_be_read() -> None:
    for page in run_docs.pages():
        assert run_docs.read_blocks(page) is not None
