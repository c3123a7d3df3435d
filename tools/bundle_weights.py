"""Put trained weights into the package, with what their header cannot know.

`python tools/bundle_weights.py runs/ixi/best.safetensors ixi --licence "CC BY-SA 3.0" --history "..."`; then calibrate
them (`autoddpm calibrate`) and run `python tools/fill_docs.py`, which writes the model card's tables.
"""

import argparse
from pathlib import Path

from autoddpm.unet import load_checkpoint, save_checkpoint

WEIGHTS = Path(__file__).resolve().parent.parent / "autoddpm" / "weights"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="best.safetensors of a training")
    parser.add_argument("name", help="bundled name")
    parser.add_argument("--licence", required=True, help="of the weights")
    parser.add_argument("--history", required=True, help="all trainings so far, in a sentence or two")
    words = parser.parse_args()
    unet, meta = load_checkpoint(words.file)
    print(
        save_checkpoint(
            WEIGHTS / f"{words.name}.safetensors", unet, meta | {k: getattr(words, k) for k in ("licence", "history")}
        )
    )


if __name__ == "__main__":
    main()
