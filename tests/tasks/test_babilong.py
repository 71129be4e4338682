import itertools
import os
import re
import tracemalloc

import numpy as np
import pytest
import torch

from titans.data.batches import IGNORED
from titans.data.pieces import Encoded
from titans.data.tokenizer import ByteTokenizer
from titans.errors import TitansError
from titans.tasks.babi import babi_folder
from titans.tasks.babilong import Babilong
from titans.tasks.babilong_prompts import WORDINGS, scored
from titans.tasks.batches import Lengths, SampleBatches
from titans.tasks.filler import Filler, Repeated
from titans.tasks.sample import Sample, Task
from titans.tasks.score import score

PLACES = ["bathroom", "bedroom", "garden", "hallway", "kitchen", "office"]
PEOPLE = ["Mary", "John", "Daniel", "Sandra"]
encode, decode = ByteTokenizer().encode, ByteTokenizer().decode
SHEEP = Filler([Encoded("sheep", encode(" ".join(f"The {number} sheep sleep." for number in range(3000))))])


@pytest.fixture
def folder(tmp_path):
    """Stories of qa1 in which all move about, with a question after every second fact."""
    for split, seed in (("train", 0), ("test", 1)):
        random = np.random.default_rng(seed)
        lines = []
        for _ in range(20):
            where, number = {}, itertools.count(1)
            for _ in range(5):
                for person in random.choice(PEOPLE, 2, replace=False).tolist():
                    where[person] = random.choice(PLACES)
                    lines.append(f"{next(number)} {person} went to the {where[person]}.\n")
                lines.append(f"{next(number)} Where is {person}? \t{where[person]}\t1\n")
        (tmp_path / f"qa1_facts_{split}.txt").write_text("".join(lines))
    return tmp_path


def task(folder, filler=SHEEP, split="test", mode="finetuned", **other) -> Babilong:
    return Babilong("qa1", filler, split=split, mode=mode, folder=folder, **other)


def samples(task: Task, length: int, count: int = 40) -> list[Sample]:
    return [task.sample(length, np.random.default_rng(seed)) for seed in range(count)]


def text_of(sample: Sample) -> str:
    return decode(sample.whole().tokens)


def facts_of(text: str) -> list[tuple[str, str]]:
    return re.findall(r"(\w+) went to the (\w+)\.", text)


def answer_of(sample: Sample) -> str:
    labels = sample.whole().labels
    return decode(labels[labels != IGNORED])


@pytest.mark.parametrize("mode", ["fewshot", "finetuned"])
def test_the_answer_is_where_the_last_fact_about_the_person_says(folder, mode):
    for sample in samples(task(folder, mode=mode), 2500):
        context = text_of(sample).split("<context>")[-1]
        person = re.findall(r"Where is (\w+)\?", context)[0]
        place = dict(facts_of(context))[person]
        assert answer_of(sample) == f" {place}."


@pytest.mark.parametrize("mode", ["fewshot", "finetuned"])
def test_samples_and_prompts_have_exactly_their_length(folder, mode):
    babilong = task(folder, mode=mode)
    random = np.random.default_rng(0)
    for length in (babilong.shortest, babilong.shortest + 1, babilong.shortest + 333, 20_000):
        assert len(babilong.sample(length, random).whole()) == length
        assert len(babilong.prompt(length, random)[0].whole()) == length


def test_finetuned_is_context_question_and_answer_alone(folder):
    text = text_of(samples(task(folder), 1000, 1)[0])
    context, question = text.rsplit("\n", 1)
    assert re.fullmatch(r"Where is \w+\? \w+", question)
    left = re.sub(r" \w+ went to the \w+\.", "", context)
    assert re.fullmatch(r"( The \d+ sheep sleep\.)+( T?h?e?[ \dshep]*)?", left)  # whole sentences, the last one cut


def test_fewshot_is_the_benchmarks_prompt_with_an_answer_as_in_its_examples(folder):
    babilong = task(folder, mode="fewshot")
    text = text_of(samples(babilong, 3000, 1)[0])
    person, place = re.findall(r"Where is (\w+)\?\nAnswer: The most recent location of \1 is (\w+)$", text)[0]
    prompt, question = babilong.prompt(3000, np.random.default_rng(0))
    assert (question.text, question.answer) == (f"Where is {person}?", place)
    asked = text_of(prompt)
    assert asked.startswith(WORDINGS["qa1"].opening())
    assert asked.endswith(f"\n</context>\n\nQuestion: Where is {person}?")
    assert (prompt.whole().labels == IGNORED).all()
    assert scored(f"\nAnswer: {person} is in the {place}.", question.answer, question.text, babilong.labels)


def test_facts_keep_their_order_and_lie_anywhere_between_sentences(folder):
    babilong = task(folder)
    depths = []
    for sample, prompt in zip(samples(babilong, 10_000), samples(babilong, 0), strict=True):
        text = text_of(sample)
        assert facts_of(text) == facts_of(text_of(prompt))  # equal draws tell the same story
        places = [found.start() for found in re.finditer(r"\w+ went to", text)]
        depths += [place / len(text) for place in places]
        before = [text[:place] for place in places]
        assert all(re.search(r"(sleep|\w+ went to the \w+)\. $", text) for text in before[:-1])
    assert np.histogram(depths, 4, (0, 1))[0].min() > len(depths) / 6


def test_length_0_tells_the_facts_and_nothing_else(folder):
    for sample in samples(task(folder, filler=None), 0):
        # Every fact with the space before it, and so in the pieces, that training showed.
        assert re.fullmatch(r"( \w+ went to the \w+\.)+\nWhere is \w+\? \w+", text_of(sample))
    for sample in samples(task(folder, filler=None, mode="fewshot"), 0):
        assert re.search(r"<context>\n\w+ went to the \w+\.( \w+ went to the \w+\.)+\n</context>", text_of(sample))


def test_stories_that_do_not_fit_are_left_out(folder):
    babilong = task(folder)
    assert {len(facts_of(text_of(sample))) for sample in samples(babilong, babilong.shortest + 10)} == {2}
    assert {len(facts_of(text_of(sample))) for sample in samples(babilong, 2000)} == {2, 4, 6, 8, 10}


def test_train_and_test_have_stories_of_their_own(folder):
    train, test = (
        {tuple(facts_of(text_of(sample))) for sample in samples(task(folder, split=split), 0, 200)}
        for split in ("train", "test")
    )
    assert len(train) > 50
    assert len(test) > 50
    assert len(train & test) < 5  # the shortest stories may happen to be the same


def test_equal_seeds_give_equal_samples_and_others_do_not(folder):
    first, second = (samples(task(folder), 3000, 3) for _ in range(2))
    assert list(map(text_of, first)) == list(map(text_of, second))
    assert len(set(map(text_of, first))) == 3


def test_a_sample_of_a_million_tokens_is_read_in_pieces(folder):
    babilong = task(folder, Filler([Repeated(encode("The sheep sleep. "))]))
    tracemalloc.start()
    sample = babilong.sample(1_000_000, np.random.default_rng(0))
    read = sum(len(piece) for piece in sample.pieces(4096))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == len(sample) == 1_000_000
    assert peak < 1_000_000  # bytes; as one array its tokens alone take eight times as many


class Upper:
    """Another tokenizer: bytes, each of them moved up by 256."""

    vocab_size = 512

    def encode(self, text):
        return encode(text) + 256

    def decode(self, tokens):
        return decode(np.asarray(tokens) - 256)


def test_every_part_is_in_the_tokenizers_tokens(folder):
    upper = Filler([Encoded("sheep", Upper().encode("The sheep sleep. " * 1000))])
    babilong = task(folder, upper, mode="fewshot", tokenizer=Upper())
    sample = babilong.sample(3000, np.random.default_rng(0)).whole()
    assert babilong.vocab_size == 512
    assert sample.tokens.min() >= 256
    assert len(facts_of(Upper().decode(sample.tokens).split("<context>")[1])) >= 2


def test_it_can_be_trained_on_and_scored(folder):
    batch = SampleBatches(task(folder, split="train"), Lengths(shortest=500, longest=500), 2, 500).next()
    asked = batch.labels != IGNORED
    assert asked.any(1).all()
    assert [decode(row[mask].tolist())[-1] for row, mask in zip(batch.labels, asked, strict=True)] == ["."] * 2

    class Knowing(torch.nn.Linear):
        """Says every next byte, as far as it stands in the window, and a full stop at its end."""

        def forward(self, tokens, state=None, logits_to_keep=0):
            following = torch.cat([tokens[:, 1:], torch.full((len(tokens), 1), ord("."))], 1)
            return torch.nn.functional.one_hot(following, 256)[:, -logits_to_keep:], state

    for length, batch_size in ((500, 5), (0, 1)):
        assert score(Knowing(1, 1), task(folder), length, 10, batch_size=batch_size).right == 1


def test_what_is_asked_for_in_vain_is_said(folder, monkeypatch):
    with pytest.raises(ValueError, match=r"Babilong.task is 'qa9'; it must be one of qa1, qa2, qa3, qa4, qa5"):
        Babilong("qa9", SHEEP, split="test", folder=folder)
    with pytest.raises(ValueError, match=r"Babilong.split is 'valid'; it must be one of train, test"):
        task(folder, split="valid")
    with pytest.raises(ValueError, match=r"Babilong.mode is 'zero'; it must be one of fewshot, finetuned"):
        task(folder, mode="zero")
    shortest = task(folder).shortest
    with pytest.raises(TitansError, match=rf"{shortest - 1} tokens are too few .+ BABILong's qa1: it takes {shortest}"):
        task(folder).sample(shortest - 1, np.random.default_rng(0))
    with pytest.raises(TitansError, match="no text to hide the facts of qa1 in: give one"):
        task(folder, filler=None).sample(1000, np.random.default_rng(0))
    monkeypatch.setenv("TITANS_DATA", str(folder))
    with pytest.raises(TitansError, match="babi is no folder"):
        Babilong("qa1", SHEEP, split="test")


@pytest.mark.skipif("TITANS_DATA" not in os.environ, reason="the real files lie in $TITANS_DATA/babi")
@pytest.mark.parametrize("name", WORDINGS)
def test_stated_answers_of_the_real_files_are_right(name):
    babilong = Babilong(name, SHEEP, split="test", folder=babi_folder())
    for length in (0, babilong.shortest + 2000):
        for seed, sample in enumerate(samples(babilong, length, 10)):
            _, question = babilong.prompt(length, np.random.default_rng(seed))
            answer = answer_of(sample)
            assert answer == f" {question.answer}{WORDINGS[name].end}"
            assert scored(answer, question.answer, question.text, babilong.labels)


def test_earlier_questions_are_answered_where_they_were(folder):
    """Each answer is where the person went last, in the text up to there."""
    number = 0
    for sample in samples(task(folder, split="train", earlier=1.0), 1500):
        text = text_of(sample)
        assert len(text) == 1500
        for asked in re.finditer(r"\nWhere is (\w+)\? (\w+)\.", text):
            assert dict(facts_of(text[: asked.start()]))[asked[1]] == asked[2]
            number += 1
        asked = sample.whole().labels != IGNORED
        answers = re.findall(r"\?( \w+)", text)
        assert asked.sum() == sum(len(answer) + 1 for answer in answers)  # and the full stop
    assert number > 80  # 40 samples, of stories with up to five questions


def test_earlier_questions_are_no_part_of_the_benchmarks_prompt(folder):
    with pytest.raises(ValueError, match=r"earlier is 0\.5; it must be from 0 to 1, and 0 with mode fewshot"):
        task(folder, mode="fewshot", earlier=0.5)


def test_earlier_questions_stay_out_where_there_is_no_room(folder):
    few, many = task(folder), task(folder, earlier=1.0)
    for seed in range(20):
        length = few.shortest + seed
        assert len(many.sample(length, np.random.default_rng(seed)).whole()) == length
