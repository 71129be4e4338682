from pathlib import Path

from titans.cli.main import main


def test_a_run_becomes_a_page(tmp_path: Path, text: Path, train, capsys) -> None:
    assert train("run", "--text", text) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path / "run")]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page.parent == tmp_path / "run"
    assert "<html" in page.read_text(encoding="utf-8")


def test_a_folder_without_a_run_is_one_clear_line(tmp_path: Path, capsys) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
