import pickle
from pathlib import Path

import pytest

from titans.bench import ages, decode, model, stream


def test_there_is_a_training_step_of_every_variant():
    (contest,) = model.contests(quick=True)
    assert [contender.name for contender in contest.contenders] == ["mac", "mag", "mal", "lmm", "attention"]
    for contender in contest.contenders:
        work = contender.make()
        work.run()
        assert work.parameters is not None


def test_states_are_read_once_and_are_of_every_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ages, "QUICK_AGES", (64, 128))
    paths = ages.states("mag", tmp_path, quick=True)
    model = ages.reader("mag", quick=True)
    assert [int(ages.load(path, model).position) for path in paths.values()] == [64, 128]
    assert ages.load(paths[64], model, rows=3).position.tolist() == [64] * 3
    before = paths[128].stat().st_mtime_ns
    assert ages.states("mag", tmp_path, quick=True) == paths
    assert paths[128].stat().st_mtime_ns == before


def test_decoding_and_streaming_contests_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ages, "QUICK_AGES", (64, 128))
    contests = decode.contests(tmp_path, quick=True) + stream.contests(tmp_path, quick=True)
    for contest in contests:
        assert contest.base in [contender.name for contender in contest.contenders]
        pickle.dumps(contest)
        contest.contenders[-1].make().run()
    sessions = contests[1].contenders
    assert [contender.tokens for contender in sessions] == [4, 32, 128]


def test_every_age_is_as_far_into_its_chunk_and_segment():
    assert all(age % ages.SEGMENT == 0 for age in (*ages.AGES, *ages.QUICK_AGES))
