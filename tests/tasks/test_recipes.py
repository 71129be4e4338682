"""Every recipe has a model that knows its tokens, gives batches, and says how many."""

from dataclasses import replace

import pytest

from titans.data.batches import IGNORED
from titans.data.tokenizer import ByteTokenizer
from titans.errors import TitansError
from titans.models.config import VARIANTS
from titans.models.presets import num_parameters
from titans.tasks import recipes
from titans.tasks.recipes import RECIPES, recipe
from titans.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("stories")


@pytest.mark.parametrize("name", RECIPES)
def test_batches_fit_the_model(name, documents):
    found = recipe(name)
    source = found.source(documents, found.settings, ByteTokenizer())
    batch = source.next()
    assert batch.tokens.max() < found.config.vocab_size
    assert batch.labels.max() < found.config.vocab_size
    assert batch.tokens.shape[1] <= found.settings.length
    assert source.count(1) == batch.tokens.numel()


@pytest.mark.parametrize("name", RECIPES)
def test_every_variant_can_be_built(name):
    for variant in VARIANTS:
        assert num_parameters(recipe(name).config.replace(variant=variant)) > 0


def test_needles_begin_with_pass_keys(documents):
    source = recipe("needles").source(documents, TrainConfig(steps=50, batch_size=2, length=512), ByteTokenizer())
    texts = [bytes(source.next().tokens.flatten().tolist()) for _ in range(10)]
    assert [b"\n#key:" in text for text in texts] == [True] * 3 + [False] * 7
    assert b"special magic" in texts[3]


def test_babilong_hides_stories_in_the_text(documents):
    source = recipe("babilong").source(documents, TrainConfig(steps=50, batch_size=2, length=512), ByteTokenizer())
    text = bytes(source.next().tokens[0].tolist())
    told, asked = text.split(b"\nWhat is it? ")
    answer = asked.split(b".")[0]
    assert b" The " + answer + b" it is." in told


@pytest.mark.parametrize("name", ["babilong", "needles"])
def test_what_hides_in_text_ends_with_the_answers_alone(name, documents):
    source = recipe(name).source(documents, TrainConfig(steps=8, batch_size=2, length=512), ByteTokenizer())
    is_text_predicted = [bool((source.next().labels != IGNORED).float().mean() > 0.9) for _ in range(8)]
    assert is_text_predicted == [True] * 6 + [False] * 2


def fingerprint(found):
    return found.fingerprint(found.settings)


@pytest.mark.parametrize(
    ("number", "change"),
    [(0, {"text_weight": 0.1}), (2, {"text_weight": 0.05}), (2, {"longest": 2048}), (1, {"share": 0.3})],
)
def test_a_stage_that_teaches_otherwise_changes_the_fingerprint(number, change, monkeypatch):
    def changed(settings, *stages):
        return original(settings, *stages[:number], replace(stages[number], **change), *stages[number + 1 :])

    before, original = fingerprint(recipe("needles")), recipes._stages
    assert fingerprint(recipe("needles")) == before
    monkeypatch.setattr(recipes, "_stages", changed)
    assert fingerprint(recipe("needles")) != before


def test_every_recipe_has_a_fingerprint_of_its_own():
    small = [fingerprint(found) for name, found in RECIPES.items() if not name.endswith("-large")]
    assert len(set(small)) == len(small)
    assert fingerprint(replace(recipe("needles"), sources_beside=1)) not in small


def test_babilong_without_stories(documents, monkeypatch):
    monkeypatch.delenv("TITANS_DATA")
    with pytest.raises(TitansError, match="TITANS_DATA is not set"):
        recipe("babilong").source(documents, TrainConfig(), ByteTokenizer())
    vocabulary = recipe("babilong").vocabulary
    assert vocabulary is not None
    with pytest.raises(TitansError, match="TITANS_DATA is not set"):
        vocabulary(documents)  # at once, not when all of a long text has been taken


@pytest.mark.parametrize(("name", "length", "least"), [("mqar", 256, 512), ("copying", 8, 32)])
def test_a_window_without_room_for_a_sample_is_refused_at_once(name, length, least):
    with pytest.raises(ValueError, match=rf"TrainConfig.length is {length}; it must be at least {least}, the shortest"):
        recipe(name).source([], TrainConfig(length=length), ByteTokenizer())


def test_no_such_recipe():
    with pytest.raises(TitansError, match="there is no recipe 'cake'; choose one of needles"):
        recipe("cake")


def test_no_stage_draws_as_another_or_with_another_seed(documents):
    for name in ("needles", "S3"):
        found = recipe(name)
        seeds = [
            stage._seed
            for seed in range(3)
            for stage, _ in found.source(documents, replace(found.settings, seed=seed), ByteTokenizer()).stages
        ]
        assert len(seeds) == len(set(seeds))
