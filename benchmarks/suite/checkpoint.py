"""Saves the benchmark's checkpoints, of other random weights each; runs in lmms-eval's environment, never by hand.

python checkpoint.py FOLDER…
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from score_parity_model import build_model, build_processor

QUESTION = "What digit is shown? Answer with one digit."


def main() -> None:
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    processor = build_processor([([{"role": "user", "content": content}], digit) for digit in "0123456789"])
    for seed, folder in enumerate(sys.argv[1:]):
        torch.manual_seed(seed)
        model = build_model(processor.tokenizer, hidden=288, layers=4)
        with torch.no_grad():
            for weights in model.parameters():
                # As it is made, it says one letter to every image; twice as large, it tells images apart, and still
                # says the same in every batch, so that two systems' answers can be compared.
                if weights.dim() > 1:
                    weights.mul_(2)
        model.to(torch.bfloat16).save_pretrained(folder)
        processor.save_pretrained(folder)


if __name__ == "__main__":
    main()
