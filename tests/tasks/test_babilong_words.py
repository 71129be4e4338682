"""A model's own words: whoever goes on as the examples do is right, and nobody else."""

import os
import weakref

import numpy as np
import pytest
import torch

from titans.data.pieces import Encoded
from titans.data.tokenizer import ByteTokenizer
from titans.errors import NonFiniteError
from titans.models.config import TitansConfig
from titans.models.generation import generate
from titans.models.language_model import TitansLM
from titans.tasks.babi import babi_folder, read_questions
from titans.tasks.babilong import Babilong
from titans.tasks.babilong_prompts import WORDINGS
from titans.tasks.babilong_words import LONGEST_ANSWER, score_words
from titans.tasks.filler import Filler

SHEEP = Filler([Encoded("sheep", ByteTokenizer().encode(" ".join(f"The {n} sheep sleep." for n in range(3000))))])
LENGTH = 3000


class Speaker(torch.nn.Module):
    """Reads a prompt and then says a given sentence in each row."""

    def __init__(self, sentences, spoilt_after=None):
        super().__init__()
        self.parameter = torch.nn.Parameter(torch.zeros(1))
        self.said = torch.tensor([list(s.ljust(LONGEST_ANSWER).encode()) for s in sentences])
        self.read, self.spoilt_after = [], spoilt_after

    def forward(self, tokens, state=None, reset=None, logits_to_keep=0):
        before = 0 if state is None else state
        self.read.append(tokens)
        after = before + tokens.shape[1]
        logits = torch.zeros(*tokens.shape, 256)
        if after >= LENGTH:
            logits[:, -1] = torch.nn.functional.one_hot(self.said[:, after - LENGTH], 256).float()
        if self.spoilt_after is not None and after > self.spoilt_after:
            logits = logits / 0
        return logits[:, -logits_to_keep:], after


@pytest.fixture
def task(tmp_path):
    """One story, so that all samples have the same answer."""
    lines = "1 Mary went to the garden.\n2 John went to the office.\n3 Where is Mary? \tgarden\t1\n"
    (tmp_path / "qa1_facts_test.txt").write_text(lines)
    return Babilong("qa1", SHEEP, split="test", mode="fewshot", folder=tmp_path)


@pytest.mark.parametrize(("before", "right"), [(" so" * 20, 1.0), (" so" * 26, 0.0)])
def test_as_many_characters_count_as_the_benchmark_lets_be_said(before, right, task, monkeypatch):
    monkeypatch.setattr(task.tokenizer, "decode", lambda _: f"{before} garden")
    assert score_words(Speaker([""]), task, LENGTH, 1).right == right


def test_the_first_sentence_counts(task):
    sentences = [
        "\nAnswer: The most recent location of Mary is garden.",
        "GARDEN. Or the office?",
        "garden or office.",
        "The office. No, the garden.",
        "",
    ]
    found = score_words(Speaker(sentences), task, LENGTH, 5)
    assert (found.right, found.samples, found.length, found.tokens_right) == (2 / 5, 5, LENGTH, None)


def test_the_prompt_is_read_in_pieces_and_then_what_was_said(task):
    speaker = Speaker(["garden."] * 2)
    score_words(speaker, task, LENGTH, 2, piece=2048)
    assert [x.shape[1] for x in speaker.read] == [1024, 1024, 952] + [1] * (LONGEST_ANSWER - 1)
    tokens = torch.cat(speaker.read, 1)[0].tolist()
    assert ByteTokenizer().decode(tokens[:LENGTH]).endswith("</context>\n\nQuestion: Where is Mary?")
    assert ByteTokenizer().decode(tokens[LENGTH:]).startswith("garden.")


@pytest.mark.parametrize("after", [0, LENGTH])
def test_what_is_no_number_is_no_word(after, task):
    with pytest.raises(NonFiniteError, match="NaN or infinite logits"):
        score_words(Speaker(["garden."], spoilt_after=after), task, LENGTH, 1)


@pytest.mark.parametrize("option", ["samples", "batch_size", "piece"])
def test_nothing_to_ask_is_refused(option, task):
    with pytest.raises(ValueError, match=f"{option} is 0; it must be at least 1"):
        score_words(Speaker(["garden."]), task, LENGTH, **{"samples": 1, option: 0})


def test_prompts_of_the_facts_alone_are_read_one_at_a_time(task):
    class AnyLength(Speaker):
        def forward(self, tokens, state=None, reset=None, logits_to_keep=0):
            self.read.append(tokens)
            return torch.zeros(*tokens.shape, 256)[:, -logits_to_keep:], 0

    model = AnyLength([""])
    assert score_words(model, task, 0, 3).right == 0.0
    assert {len(tokens) for tokens in model.read} == {1}


def test_one_state_is_kept_at_a_time(task):
    class State:
        pass

    class Keeping(Speaker):
        def forward(self, tokens, state=None, reset=None, logits_to_keep=0):
            living.append(len(states))
            logits, after = super().forward(tokens, getattr(state, "count", None), reset, logits_to_keep)
            states.add(new := State())
            new.count = after
            return logits, new

    living, states = [], weakref.WeakSet()
    score_words(Keeping(["garden."] * 2), task, LENGTH, 2, piece=64)
    assert len(living) > LENGTH // 64
    assert max(living) == 1


def test_the_words_are_those_that_generate_gives(task, monkeypatch):
    torch.manual_seed(0)
    model, heard = TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2)), []
    monkeypatch.setattr("titans.tasks.babilong_words.scored", lambda output, *_: bool(heard.append(output)))
    score_words(model, task, LENGTH, 2)
    random = np.random.default_rng([2**32 - 1, 0, LENGTH])
    prompts = [torch.from_numpy(task.prompt(LENGTH, random)[0].whole().tokens) for _ in range(2)]
    said, _ = generate(model.eval(), prompts, max_new_tokens=LONGEST_ANSWER)
    assert heard == [ByteTokenizer().decode(words.tolist()) for words in said]


@pytest.mark.skipif("TITANS_DATA" not in os.environ, reason="the real files lie in $TITANS_DATA/babi")
@pytest.mark.parametrize("name", WORDINGS)
def test_any_answer_in_the_words_of_the_examples_is_heard_whole(name):
    wording = WORDINGS[name]
    questions = read_questions(babi_folder(), name, "test")
    assert max(len(wording.lead(q.text) + f" {q.answer}" + wording.end) for q in questions) <= LONGEST_ANSWER


def test_the_seed_decides(task):
    read = []
    for seed in (0, 1, 0):
        speaker = Speaker([""])
        score_words(speaker, task, LENGTH, 1, seed=seed)
        read.append(speaker.read[0].tolist())
    assert read[0] == read[2] != read[1]
