from dataclasses import replace

from titans.report.results import Results, Training
from titans.report.summary import key_numbers


def test_each_number_stands_beside_what_it_is_compared_with(results):
    loss, gain, recall, stream = key_numbers(results)
    assert loss[1] == "2.125"
    assert "Attention only: 2.250" in loss[2]
    # The last bucket has no measurement with memory, so the one before it counts.
    assert gain[:2] == ("Gain from memory, 64 to 4,096 bytes in", "\N{MINUS SIGN}0.125")
    # Beyond the window of 64: 0.75, 0.25, 0.5, 0.5 and 0, 0, 0.125, 0.
    assert recall[1] == "50%"
    assert "Attention only: 3%; guessing: 10.0%" in recall[2]
    assert stream[:2] == ("Tokens read in one go", "1,000,000")
    assert "+0 MB" in stream[2]


def test_a_training_run_alone_shows_its_last_held_out_loss(results):
    alone = Results(title="t", training=Training(curves={"run": results.training.curves["titans"]}))
    [(label, value, detail)] = key_numbers(alone)
    assert (label, value) == ("Bits per byte", "2.000")
    assert "held-out text, after 1,900 tokens" in detail


def test_nothing_to_compare_gives_no_number(results):
    assert key_numbers(Results(title="t")) == []
    near = replace(results.recall, window=10**6)
    assert key_numbers(Results(title="t", recall=near)) == []
    only_control = replace(results.distance, series={"control": [1.0, 1.0, 1.0]})
    assert key_numbers(Results(title="t", distance=only_control)) == []
