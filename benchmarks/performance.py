"""Every subject of `titans bench` with other packages beside our forms, and docs/performance.md from the results.

Each subject is saved when it is done, with the command that measured it; a subject measured again replaces its numbers
only. What an interrupt leaves is the last complete file.

    python benchmarks/performance.py                        (everything: make bench)
    python benchmarks/performance.py memory --threads 1
    python benchmarks/performance.py gpu                    (on a machine with a CUDA GPU: make bench-gpu)
"""

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import peers
import torch
from performance_page import HEADLINES, render

import titans
from titans.bench.figure import draw
from titans.bench.results import Measurements, measure
from titans.bench.subjects import GPU, SUBJECTS, contests
from titans.bench.table import show
from titans.cli.findings import machine
from titans.cli.processors import processors
from titans.errors import TitansError
from titans.files import read_json, require_writable, write_json, write_text

ALL = (*SUBJECTS, GPU)
PUBLISHED, PUBLISHED_PAGE = Path("docs/results/performance.json"), Path("docs/performance.md")


def publish(found: dict[str, Measurements], out: Path, page: Path) -> None:
    """Writes numbers, picture and page."""
    ordered = {subject: found[subject] for subject in ALL if subject in found}
    picture = out.with_suffix(".svg")
    shown = [outcome for each in ordered.values() for outcome in each.outcomes if outcome.title.startswith(HEADLINES)]
    write_json(out, {subject: each.to_dict() for subject, each in ordered.items()})
    draw([outcome for outcome in shown if outcome.threads == shown[0].threads], picture)
    write_text(page, render(ordered, out, picture, page.parent))


def earlier(out: Path) -> dict[str, Measurements]:
    """What is in the file already, by subject."""
    try:
        stored = read_json(out) if out.exists() else {}
        return {subject: Measurements.from_dict(values) for subject, values in stored.items()}
    except (TitansError, ValueError) as error:
        raise SystemExit(f"{out} cannot be gone on with ({error}): remove it") from error


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "subjects", nargs="*", metavar="SUBJECT", help=f"some of {', '.join(ALL)}; default: all but {GPU}"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2][: processors()])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    parser.add_argument("--page", type=Path, default=PUBLISHED_PAGE)
    parsed = parser.parse_args()
    if parsed.quick and (parsed.out == PUBLISHED or parsed.page == PUBLISHED_PAGE):
        parser.error("--quick measures toys: give it an --out and a --page of its own")
    if unknown := set(parsed.subjects) - set(ALL):
        parser.error(f"there is no subject {', '.join(sorted(unknown))}; choose from {', '.join(ALL)}")
    if parsed.rounds < 1 or min(parsed.threads) < 1 or max(parsed.threads) > processors():
        parser.error(f"--rounds and --threads must be at least 1, --threads at most {processors()}")
    return parsed


def revision() -> str:
    """Which code is measured: our version and, in a checkout, the commit."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return titans.__version__
    return f"{titans.__version__} ({commit})"


def main() -> None:
    options = arguments()
    if GPU in options.subjects and not torch.cuda.is_available():
        print(f"{GPU}: this machine has no CUDA GPU", file=sys.stderr)
        raise SystemExit(2)
    try:
        for path in (options.out, options.page):
            require_writable(path.parent)
    except TitansError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    found, packages = earlier(options.out), {"titans": revision()} | peers.versions()
    settings = f"--threads {' '.join(map(str, options.threads))} --rounds {options.rounds}"
    settings += " --quick" if options.quick else ""
    try:
        with TemporaryDirectory() as folder:
            for subject in options.subjects or SUBJECTS:
                found[subject] = measure(
                    subject,
                    contests(
                        subject,
                        Path(folder),
                        quick=options.quick,
                        layers=peers.layers,
                        models=peers.models,
                        gpu_layers=peers.gpu_layers,
                    ),
                    rounds=options.rounds,
                    threads=[1] if subject == GPU else options.threads,
                    peaks=not options.quick,
                    command=f"python benchmarks/performance.py {subject} {settings}",
                    machine=machine(),
                    packages=packages,
                )
                for outcome in found[subject].outcomes:
                    show(outcome)
                publish(found, options.out, options.page)
    except KeyboardInterrupt:
        print("interrupted: subjects that were done are saved", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
