"""BABILong's prompts and its rule for right answers.

From the benchmark (Kuratov et al. 2024, arXiv 2406.10149; repository booydar/babilong, prompts.py and metrics.py): the
text of the prompts, in babilong_prompts.toml, their layout, and what counts as right.
"""

import re
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What a task's prompt says, and how its examples answer."""

    instruction: str
    examples: str
    post_prompt: str
    """the form that an answer should have"""
    asks: str
    """pattern of the task's questions"""
    answers: str
    """how an answer begins, up to its label, with the groups of `asks`"""
    end: str
    """what ends an answer"""

    def opening(self) -> str:
        """The prompt up to its context."""
        return f"{self.instruction}\n\n{self.examples}\n\n{self.post_prompt}\n\n<context>\n"

    def closing(self, question: str) -> str:
        """The prompt from its context's end on; after it the model begins to answer."""
        return f"\n</context>\n\nQuestion: {question}"

    def lead(self, question: str) -> str:
        """What the examples say between a question and the label that answers it."""
        return "\nAnswer:" + re.sub(self.asks, self.answers, question)


class Plain:
    """The context, the question and its answer, and no prompt at all; `Wording` says what the methods give."""

    end = "."

    def opening(self) -> str:
        return ""

    def closing(self, question: str) -> str:
        return f"\n{question}"

    def lead(self, question: str) -> str:
        return ""


WORDINGS: dict[str, Wording] = {
    task: Wording(**texts)
    for task, texts in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items()
}
"""of each task"""


def scored(output: str, target: str, question: str, labels: Collection[str]) -> bool:
    """Whether a model's own words give the right answer.

    They do if their first sentence, up to an example or a context that the model goes on to make up, has the target in
    it and no other label of the task. Labels that the question mentions do not count: they never answer it.
    """
    said = output.lower().split(".")[0].split("<context>")[0].split("<example>")[0]
    asked = question.lower()
    return {label for label in map(str.lower, labels) if label in said and label not in asked} == {target.lower()}
