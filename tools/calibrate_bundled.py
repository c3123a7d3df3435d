"""Set the thresholds of bundled weights, and store the scores of healthy slices, from IXI's validation slices.

`python tools/calibrate_bundled.py ixi paper,balanced,fast,tuned` after `tools/bundle_weights.py`; then
`python tools/fill_docs.py`, which writes the model card's tables. Own weights are calibrated by `autoddpm calibrate`.
"""

import argparse

from autoddpm.calibrate import calibrate, write_calibration
from autoddpm.data import load_dataset
from autoddpm.scans.plan import choose_detector, make_plan, score_healthy, write_healthy_scores


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of bundled weights")
    parser.add_argument("chains", help="to calibrate, separated by commas")
    words = parser.parse_args()
    data = load_dataset("ixi", split="val", source="real")
    what = (
        f"IXI, {len(data)} validation subjects; the weights have not seen them, the thresholds were calibrated on them"
    )
    images, facts = data.images(), dict(dataset=data.name, split=data.split, fingerprint=data.fingerprint)
    for chain in words.chains.split(","):
        detector, settings, _ = choose_detector(words.name, chain, "cpu")
        print(write_calibration(words.name, calibrate(detector, images, **settings), **facts))
        plan = make_plan(words.name, chain)
        scores = score_healthy(plan, images)
        print(write_healthy_scores(words.name, plan.record | dict(seeds=plan.seeds), scores, what))


if __name__ == "__main__":
    main()
