"""The few numbers that a reader should take away, each beside what it is to be compared with."""

from titans.report.results import Distance, Recall, Results, Stream, Training

KeyNumber = tuple[str, str, str]
"""What it is, the number, and what to compare it with."""


def key_numbers(results: Results) -> list[KeyNumber]:
    """The key numbers of whichever sections there are, in the order of the page."""
    found: list[KeyNumber | None] = []
    if "titans" in results.models:
        found.append(_final_loss(results))
    elif results.training is not None:
        found += _last_losses(results, results.training)
    if results.distance is not None:
        found.append(_far_into_document(results.distance))
    if results.recall is not None:
        found.append(_beyond_window(results, results.recall))
    if results.stream is not None:
        found.append(_endless(results.stream))
    return [number for number in found if number is not None]


def _final_loss(results: Results) -> KeyNumber | None:
    titans, control = results.models["titans"], results.models.get("control")
    if titans.final_bits_per_byte is None:
        return None
    detail = f"{titans.label}, after training; lower is better"
    if control is not None and control.final_bits_per_byte is not None:
        detail = f"{titans.label}; {control.label}: {control.final_bits_per_byte:.3f}; lower is better"
    return "Bits per byte on held-out text", f"{titans.final_bits_per_byte:.3f}", detail


def _last_losses(results: Results, training: Training) -> list[KeyNumber | None]:
    numbers: list[KeyNumber | None] = []
    for name, points in training.curves.items():
        measured = [point for point in points if point.bits is not None]
        last = next((p for p in reversed(measured) if p.validation), measured[-1] if measured else None)
        if last is not None:
            kind = "held-out text" if last.validation else "the last training batch"
            detail = f"{results.label(name)}, on {kind}, after {last.tokens:,} tokens; lower is better"
            numbers.append((training.unit.capitalize(), f"{last.bits:.3f}", detail))
    return numbers


def _far_into_document(distance: Distance) -> KeyNumber | None:
    memory, control = distance.series.get("memory on"), distance.series.get("control")
    if memory is None or control is None:
        return None
    measured = [
        (bucket, a, b)
        for bucket, a, b in zip(distance.buckets, memory, control, strict=True)
        if a is not None and b is not None
    ]
    if not measured:
        return None
    (start, end), with_memory, without = measured[-1]
    return (
        f"Gain from memory, {start:,} to {end:,} bytes in",
        f"{with_memory - without:+.3f}".replace("-", "\N{MINUS SIGN}"),
        f"bits per byte: {with_memory:.3f} with memory, {without:.3f} for the control; below zero is a gain",
    )


def _beyond_window(results: Results, recall: Recall) -> KeyNumber | None:
    means = {name: recall.beyond_window(name) for name in recall.accuracy}
    shares = {name: mean for name, mean in means.items() if mean is not None}
    if "titans" not in shares:
        return None
    others = "; ".join(f"{results.label(name)}: {s:.0%}" for name, s in shares.items() if name != "titans")
    detail = f"{results.label('titans')}; {others + '; ' if others else ''}guessing: {recall.chance:.1%}"
    return "Pass keys recalled beyond the attention window", f"{shares['titans']:.0%}", detail


def _endless(stream: Stream) -> KeyNumber:
    first, last = stream.points[0], stream.points[-1]
    growth = f"{last.resident_mb - first.resident_mb:+,.0f}".replace("-", "\N{MINUS SIGN}")
    speeds = f"{first.tokens_per_second:,.0f} tokens per second at first, {last.tokens_per_second:,.0f} at the end"
    return "Tokens read in one go", f"{last.tokens:,}", f"{growth} MB of memory on the way; {speeds}"
