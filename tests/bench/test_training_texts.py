import sys
from pathlib import Path

import pytest
from training_texts import main, sources

KEPT = ("a.py", "b/c.py", "b/d.py", "e.py")
LEFT_OUT = ("small.py", "large.py", "test/f.py", "g_test.py", "site-packages/h.py", "i.txt")


@pytest.fixture
def root(tmp_path) -> Path:
    sizes = dict.fromkeys((*KEPT, *LEFT_OUT), 6000) | {"small.py": 4_999, "large.py": 120_001}
    for name, size in sizes.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text("#" * size)
    return tmp_path / "root"


def test_only_sources_and_the_same_ones_every_time(root):
    found = sources(root, 10**9)
    assert {file.relative_to(root).as_posix() for file in found} == set(KEPT)
    assert sources(root, 10**9) == found
    assert sources(root, 6_001) == found[:2]
    assert sources(root, 0) == []


def test_the_folder_holds_both(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "books" / "more").mkdir(parents=True)
    (tmp_path / "books" / "more" / "one.txt").write_text("It was the best of times.")
    monkeypatch.setattr("training_texts.sysconfig.get_path", lambda _: str(root))
    given = ["training_texts.py", str(tmp_path / "books"), "--out", str(tmp_path / "texts")]
    monkeypatch.setattr(sys, "argv", given)
    main()
    assert "25 bytes of" in (said := capsys.readouterr().out)
    assert "24,000 of Python's sources" in said
    held = {file.relative_to(tmp_path / "texts").as_posix() for file in (tmp_path / "texts").rglob("*.*")}
    assert held == {"more/one.txt", "python/a.py", "python/b_c.py", "python/b_d.py", "python/e.py"}
    with pytest.raises(SystemExit):
        main()
    assert "already exists" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*given[:1], str(tmp_path / "nowhere"), "--out", str(tmp_path / "other")])
    with pytest.raises(SystemExit):
        main()
    assert "is no folder" in capsys.readouterr().err
