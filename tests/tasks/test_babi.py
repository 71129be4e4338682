import gzip
import os
from pathlib import Path

import pytest

from titans.errors import TitansError
from titans.tasks.babi import LABELS, Question, babi_folder, read_questions

STORIES = """\
1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel went back to the hallway.
5 Where is Daniel? \thallway\t4
1 Sandra moved to the garden.
2 Where is Sandra?\tgarden\t1
"""


def write(folder: Path, text: str, name: str = "qa1_single-supporting-fact_train.txt") -> Path:
    (folder / name).write_text(text)
    return folder


def test_a_question_comes_with_the_facts_so_far_and_without_earlier_questions(tmp_path):
    assert read_questions(write(tmp_path, STORIES), "qa1", "train") == [
        Question(("Mary moved to the bathroom.", "John went to the hallway."), "Where is Mary?", "bathroom"),
        Question(
            ("Mary moved to the bathroom.", "John went to the hallway.", "Daniel went back to the hallway."),
            "Where is Daniel?",
            "hallway",
        ),
        Question(("Sandra moved to the garden.",), "Where is Sandra?", "garden"),
    ]


def test_training_questions_come_from_all_files_but_the_test_file(tmp_path):
    for name in ("qa1_x_train.1k", "qa1_x_valid.from-10k", "qa10_x_train", "qa2_x_train"):
        write(tmp_path, STORIES, f"{name}.txt")
    write(tmp_path, "1 Bill is here.\n2 Where is Bill? \toffice\t1\n", "qa1_x_test.txt")
    assert len(read_questions(tmp_path, "qa1", "train")) == 6
    assert [question.answer for question in read_questions(tmp_path, "qa1", "test")] == ["office"]


def test_a_gz_file_is_read_as_the_plain_one(tmp_path):
    (tmp_path / "qa1_x_train.txt.gz").write_bytes(gzip.compress(STORIES.encode()))
    assert len(read_questions(tmp_path, "qa1", "train")) == 3


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(TitansError, match="nowhere is no folder: put the files of the bAbI tasks there"):
        read_questions(tmp_path / "nowhere", "qa1", "train")
    with pytest.raises(TitansError, match=r"holds no test file of qa1 \(qa1_..._test.txt, plain or .gz\): put it"):
        read_questions(write(tmp_path, STORIES), "qa1", "test")
    monkeypatch.delenv("TITANS_DATA", raising=False)
    with pytest.raises(TitansError, match="TITANS_DATA is not set: set it to the folder that holds babi"):
        babi_folder()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty, without a single question: copy it again"),
        ("1 Mary moved to the bathroom.\n", "is empty, without a single question"),
        (STORIES.replace("4 Daniel", "5 Daniel"), r"is damaged at line 4 \(neither the next fact or question"),
        (STORIES.replace("1 Mary", "2 Mary"), "is damaged at line 1"),
        (STORIES[:-3], "is damaged at line 7"),
        (STORIES.replace("\thallway", "\tcellar"), r"is damaged at line 5 \('cellar' answers no question"),
        (STORIES + "<html>\n", "is damaged at line 8"),
    ],
)
def test_a_damaged_file_is_refused_with_the_line(tmp_path, text, message):
    with pytest.raises(TitansError, match=f"qa1_single-supporting-fact_train.txt {message}"):
        read_questions(write(tmp_path, text), "qa1", "train")


def test_a_file_that_is_no_text_or_no_whole_gz_is_refused(tmp_path):
    file = tmp_path / "qa1_x_train.txt.gz"
    for data in (gzip.compress(STORIES.encode())[:-12], b"not gz", gzip.compress(b"1 \xff")):
        file.write_bytes(data)
        with pytest.raises(TitansError, match=r"qa1_x_train.txt.gz is damaged \(.+\): copy it again"):
            read_questions(tmp_path, "qa1", "train")
    file.unlink()
    file.mkdir()
    with pytest.raises(TitansError, match=r"cannot read .+qa1_x_train.txt.gz"):
        read_questions(tmp_path, "qa1", "train")


@pytest.mark.skipif("TITANS_DATA" not in os.environ, reason="the real files lie in $TITANS_DATA/babi")
@pytest.mark.parametrize("task", LABELS)
def test_the_real_files_have_all_their_questions(task):
    test, train = (read_questions(babi_folder(), task, split) for split in ("test", "train"))
    assert len(test) == 1000
    assert len(train) in (2000, 10_000)  # of qa3 not all of the 10,000 may be there
    assert {question.answer for question in test} == LABELS[task] == {question.answer for question in train}
    for question in test:
        assert question.facts
        assert question.answer.lower() not in question.text.lower()  # else it could never be scored as right


def test_questions_that_are_missing_are_said_once(tmp_path, caplog):
    cut = write(tmp_path, STORIES, "qa1_facts_test.txt")
    for _ in range(2):
        read_questions(cut, "qa1", "test")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path} holds 3 test questions of qa1; bAbI has 1,000"
    ]
