"""What the README says of a bench: its table and the sentence below it, from the file that `python -m tests.bench
--out tests/bench/results.json` wrote.
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")


def lines(results: dict[str, Any]) -> list[str]:
    found = [
        "| a step of | by default | nothing kept | a loop of one's own | trained part alone | one's own / default |",
        "|---|---|---|---|---|---|",
    ]
    steps = {name: part for name, part in results.items() if isinstance(part, dict) and "ratios" in part}
    for name, part in steps.items():
        seconds, ratio = part["seconds"], part["ratios"]["peer/default"]
        cells = " | ".join(f"{seconds[kind]['cpu']:.2f} s" for kind in ("default", "uncached", "peer", "floor"))
        found.append(f"| `{name}` | {cells} | {ratio:.2f} |")
    return [*found, "", sentence(results), preparing(results), choosing(results)]


def sentence(results: dict[str, Any]) -> str:
    machine, turns, start = results["machine"]["processor"], results["turns"], results["start"]
    answers, plans, begins = (
        start[name]["wall"] for name in ("--help", "--plan", "step 4 to its first optimiser step")
    )
    return (
        f"CPU seconds of one core ({machine}), medians of {turns} alternating turns. `--help` answers after "
        f"{answers:.2f} s, `--plan` after {plans:.2f} s; step 4 of the demo takes its first optimiser step after "
        f"{begins:.1f} s."
    )


def preparing(results: dict[str, Any]) -> str:
    prepare = results["prepare"]
    view = sum(prepare["seconds"][name]["cpu"] for name in ("photo", "depth map"))
    hands = int(prepare["rates"]["hand / s"])
    return (
        f"In step 3 a photo of 24 megapixels and its laser depth take {view:.1f} s of a core. A core cuts out "
        f"{hands} hands a second."
    )


def choosing(results: dict[str, Any]) -> str:
    found = [part for name, part in results.items() if name.startswith("choosing_")]
    shares = [100 * part["share"] for part in found]
    enough = max(part["samples of an epoch with 5%"] for part in found)
    return (
        f"Evaluations during training take {min(shares):.0f} to {max(shares):.0f} % of the time of the demos, whose "
        f"epochs are short; an epoch of {enough} samples or more spends at most 5 % on them."
    )


def stored() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    print("\n".join(lines(stored())))
