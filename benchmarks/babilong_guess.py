"""What guessing gets in BABILong: right answers of rules that know nothing about who did what.

    named      any place that the facts name and the question does not, each as likely
    last       the last of them; in qa5 the name or thing that the last giving has where the question asks for one

A model that is not above these has found the facts at best, and not understood them. How far they lie apart in the text
makes no difference to a rule. bAbI's test questions, in $TITANS_DATA/babi.

    python benchmarks/babilong_guess.py
"""

import argparse
import re
from statistics import fmean

from gain_summary import markdown_table

from titans.tasks.babi import LABELS, BabiTask, Question, babi_folder, read_questions

_GIVING = re.compile(r"(\w+) (?:gave|passed|handed) the (\w+) to (\w+)\.")
_ASKED = {  # beginning of a question -> which part of the giving is asked for
    "Who gave": 1,
    "What did": 2,
    "Who did": 3,
    "Who received": 3,
}


def candidates(question: Question, task: BabiTask) -> list[str]:
    """What might be the answer, in the order in which the facts name it."""
    if task == "qa5":
        part = next(part for beginning, part in _ASKED.items() if question.text.startswith(beginning))
        found = (_GIVING.fullmatch(fact) for fact in question.facts)
        return [giving[part] for giving in found if giving]
    words = (word for fact in question.facts for word in re.findall(r"\w+", fact))
    return [word for word in words if word in LABELS[task] and word not in question.text]


def main() -> None:
    rows = []
    for task in LABELS:
        questions = read_questions(babi_folder(), task, "test")
        guesses = [(question, candidates(question, task)) for question in questions]
        named = fmean((question.answer in found) / max(1, len(set(found))) for question, found in guesses)
        last = fmean(found[-1:] == [question.answer] for question, found in guesses)
        rows.append([task, f"{len(questions):,}", f"{named:.1%}", f"{last:.1%}"])
    print(markdown_table(["task", "questions", "named", "last"], rows))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
