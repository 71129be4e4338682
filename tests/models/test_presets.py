import pytest

from titans.errors import TitansError
from titans.models.config import VARIANTS, TitansConfig
from titans.models.language_model import TitansLM
from titans.models.presets import PAPER_SHAPES, match_parameters, num_parameters, preset


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", PAPER_SHAPES)
def test_paper_sizes_have_the_parameters_of_their_name(name, variant):
    wanted = PAPER_SHAPES[name][0]
    assert abs(num_parameters(preset(name, variant=variant)) - wanted) < 0.02 * wanted


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_a_small_model_can_be_made_equally_large(variant):
    config = match_parameters(TitansConfig(variant=variant, dim=64, num_layers=2), 300_000)
    assert abs(TitansLM(config).num_parameters - 300_000) < 300


def test_overrides_reach_the_configuration():
    config = preset("tiny", variant="mac", num_layers=3)
    assert (config.variant, config.num_layers) == ("mac", 3)
    assert preset("170m", hidden_size=512).mlp_size == 512


def test_unknown_size_is_one_clear_line():
    with pytest.raises(TitansError, match="no preset 'huge'; choose one of tiny"):
        preset("huge")


def test_too_few_parameters_are_refused():
    with pytest.raises(ValueError, match="too few"):
        match_parameters(TitansConfig(dim=64), 1000)
