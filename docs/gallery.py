"""Make the comparison pages of the gallery: `python docs/gallery.py`. The second page is made only with `--sample`.

The first page compares simulated predictions of five systems whose true accuracies are known. The second page compares
three heads on the sample corpus: 15 runs, about a minute on two cores. Chromium takes the picture of the first page.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit, ndtri

PAGES = Path(__file__).resolve().parent / "pages" / "gallery"
NUM_DOCUMENTS, NUM_FILMS, NUM_SEEDS = 5_000, 1_000, 5
# True accuracy, and the standard deviation over seeds in units of the simulated score.
SYSTEMS = {
    "word counts": (0.86, 0.02),
    "head A": (0.90, 0.03),
    "head B": (0.92, 0.01),
    "head C": (0.92, 0.01),
    "head D": (0.913, 0.1),
}
TWINS = ("head B", "head C")  # nearly the same model
DIFFICULTY_SD, SYSTEM_SD, RESIDUAL_SD = 1.6, 0.35, 0.2
TWINS_SD = 0.05  # standard deviation of each twin from the score that both share
SAMPLE = "quickstart_study"  # an experiment, and the study that it trains


def simulated_predictions() -> pd.DataFrame:
    """Return the predictions of every system and seed. A prediction is right if a normal score is positive."""
    generator = np.random.default_rng(2)
    labels_N = np.arange(NUM_DOCUMENTS) % 2
    difficulty_N = DIFFICULTY_SD * generator.normal(size=NUM_DOCUMENTS)
    twins_N = SYSTEM_SD * generator.normal(size=NUM_DOCUMENTS)
    frames = []
    for system, (accuracy, seed_sd) in SYSTEMS.items():
        is_twin = system in TWINS
        own_N = twins_N + TWINS_SD * generator.normal(size=NUM_DOCUMENTS)
        if not is_twin:
            own_N = SYSTEM_SD * generator.normal(size=NUM_DOCUMENTS)
        spread = np.sqrt(DIFFICULTY_SD**2 + SYSTEM_SD**2 + is_twin * TWINS_SD**2 + RESIDUAL_SD**2 + seed_sd**2)
        for seed in range(NUM_SEEDS):
            residual_N = RESIDUAL_SD * generator.normal(size=NUM_DOCUMENTS) + seed_sd * generator.normal()
            scores_N = ndtri(accuracy) * spread + difficulty_N + own_N + residual_N
            positive_N = expit(1.4 * scores_N * np.where(labels_N == 1, 1, -1))
            frame = pd.DataFrame({"system": system, "seed": seed, "label": np.where(labels_N == 1, "good", "bad")})
            frame["id"] = [f"review-{number:04d}" for number in range(NUM_DOCUMENTS)]
            frame["prediction"] = np.where(positive_N > 0.5, "good", "bad")
            frame["cluster"] = [f"film-{number % NUM_FILMS}" for number in range(NUM_DOCUMENTS)]
            frame["probability_bad"], frame["probability_good"] = (1 - positive_N).round(6), positive_N.round(6)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def command(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", *arguments], cwd=folder, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", action="store_true", help="also train the study on the sample corpus")
    arguments = parser.parse_args()
    PAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulated_predictions().to_csv(folder / "simulated.csv", index=False)
        command(folder, "imdbcls.compare", "simulated.csv", "--margin", "1")
        shutil.copy(folder / "simulated_comparison/comparison.html", PAGES / "simulated.html")
        for figure in ("accuracy", "differences"):
            shutil.copy(folder / f"simulated_comparison/comparison_figures/{figure}.svg", PAGES)
        picture = f"--screenshot={PAGES / 'simulated.png'}"
        browser = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1200,1000", picture]
        subprocess.run([*browser, (PAGES / "simulated.html").as_uri()], check=True)
        if arguments.sample:
            command(folder, "imdbcls.train", f"experiment={SAMPLE}", "tracker=none")
            command(folder, "imdbcls.compare", f"runs/{SAMPLE}")
            shutil.copy(folder / f"runs/{SAMPLE}/comparison.html", PAGES / "sample.html")


if __name__ == "__main__":
    main()
