import os
import re

import pytest

from titans.tasks.babi import LABELS, babi_folder, read_questions
from titans.tasks.babilong_prompts import WORDINGS, scored


@pytest.mark.parametrize(
    ("output", "right"),
    [
        ("hallway", True),
        (" The most recent location of John is HALLWAY.", True),
        ("The hallway. Or the garden, or the office.", True),  # only the first sentence counts
        ("hallway <example> Mary is in the garden", True),
        ("hallway\n<context> Mary is in the garden", True),
        ("hallway or garden", False),
        ("garden", False),
        ("", False),
        ("I do not know. Perhaps the hallway.", False),
        ("<example>hallway", False),
    ],
)
def test_an_output_is_right_if_its_first_sentence_names_the_target_alone(output, right):
    assert scored(output, "hallway", "Where is John?", LABELS["qa1"]) is right


def test_labels_that_the_question_mentions_do_not_count():
    asked = "Where was the apple before the kitchen?"
    assert scored("Before the kitchen the apple was in the office.", "office", asked, LABELS["qa3"])
    assert not scored("Before the garden the apple was in the office.", "office", asked, LABELS["qa3"])
    assert scored("Fred gave it to bill", "Bill", "Who did FRED give the milk to?", LABELS["qa5"])
    assert not scored("Fred", "Bill", "Who did Fred give the milk to?", LABELS["qa5"])


def test_a_prompt_has_the_benchmarks_layout():
    wording = WORDINGS["qa4"]
    assert wording.opening() + "THE CONTEXT" + wording.closing("What is west of the garden?") == (
        "I will give you context with the facts about different people, their location and actions, hidden in some "
        "random text and a question. You need to answer the question based only on the information from the facts.\n\n"
        "<example>\nThe hallway is south of the kitchen. The bedroom is north of the kitchen. "
        "What is the kitchen south of?\nAnswer: bedroom\n</example>\n"
        "<example>\nThe garden is west of the bedroom. The bedroom is west of the kitchen. "
        "What is west of the bedroom?\nAnswer: garden\n</example>\n\n"
        "Your answer should contain only one word - location. Do not write anything else after that.\n\n"
        "<context>\nTHE CONTEXT\n</context>\n\nQuestion: What is west of the garden?"
    )


@pytest.mark.parametrize("task", WORDINGS)
def test_examples_answer_in_the_words_that_lead_to_a_stated_answer(task):
    wording = WORDINGS[task]
    examples = re.findall(r"<example>\n(.+)\n(Answer: .+)\n</example>", wording.examples)
    assert len(examples) == wording.examples.count("<example>") >= 2
    for story, answer in examples:
        question = re.findall(r"W[^.]+\?", story)[0].replace("screw driver", "driver")
        label = re.findall(r"\w+", answer)[-1]
        stated = f"{wording.lead(question)} {label}{wording.end}".strip()
        assert stated == answer.replace("screw driver", "driver")


def test_every_task_has_a_prompt():
    assert WORDINGS.keys() == LABELS.keys()


@pytest.mark.skipif("TITANS_DATA" not in os.environ, reason="the real files lie in $TITANS_DATA/babi")
@pytest.mark.parametrize("task", LABELS)
def test_the_answers_of_the_real_files_are_right_in_the_words_of_the_examples(task):
    for question in read_questions(babi_folder(), task, "test"):
        lead = WORDINGS[task].lead(question.text)
        assert "?" not in lead  # the pattern has taken the whole question
        assert scored(f"{lead} {question.answer}", question.answer, question.text, LABELS[task])
